"""Pictures as people have them, found by ``mblip caption``: tables, lists, and folders of a Mac, a phone and Windows."""

from __future__ import annotations

import base64
import csv
import io
import json
import struct
import sys
import tarfile
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests import checkpoints

from mblip.errors import InputError
from mblip.inference.finding import find_pictures
from mblip.storage import UnreadableImage, decoding
from mblip.storage.tars import Member


def _photo(kind: str = "JPEG", color: int = 90, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 24), (color, 120, 30)).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "image,title\nx.jpg,X\nsub/y.png,Y\n"), ("t.csv", "\ufeffimage;title\r\nx.jpg;X\r\nsub/y.png;Y\r\n;\r\n"),
        ("t.csv", "sep=\t\nimage\ttitle\nx.jpg\tX\nsub/y.png\tY\n"), ("t.tsv", "image\tid\nx.jpg\t1\nsub/y.png\t2\n"),
        ("t.json", '[{"image": "x.jpg"}, {"image": "sub/y.png"}]'), ("t.json", '{"image": "x.jpg"}\n{"image": "sub/y.png"}\n'),
        ("t.json", '["x.jpg", "sub/y.png"]'),
        ("t.jsonl", '"x.jpg"\n"sub/y.png"\n'), ("t.jsonl", '{"image": ["x.jpg", "sub/y.png", "x.jpg"]}\n'),
        ("t.jsonl", '{"image": {"path": "x.jpg", "bytes": null}}\n{"image": {"path": "sub/y.png"}}\n'),
        ("list.txt", "x.jpg\n\nsub/y.png\n"), ("list.TXT", "\ufeffx.jpg\r\n  sub/y.png  \r\nx.jpg"),
    ],
)  # fmt: skip
def test_tables_and_lists_in_many_forms(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    found = find_pictures([str(tmp_path / name)])
    assert found.pictures == [str(tmp_path / "x.jpg"), str(tmp_path / "sub/y.png")] and not found.skipped


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.csv", b"image\n", "names no picture: it has no row"), ("t.csv", b"", "is empty"),
        ("list.txt", b"\n \n", "names no picture: it has no row"),
        ("t.csv", b"image,image\nx.jpg,y.jpg\n", "two columns have the name 'image'"),
        ("t.csv", b"imgae\nx.jpg\n", "no column 'image'; did you mean 'imgae'"),
        ("t.csv", b"file,title\nx.jpg,X\n", "no column 'image'; available: file, title; name it with --column"),
        ("t.csv", "image\nx.jpg\n".encode("utf-16"), "in UTF-16: save"), ("t.csv", b"image\n\xe9t\xe9.jpg\n", "Windows-1252"),
        ("list.txt", b"caf\xe9.jpg\n", "line 1: the byte 0xE9 is not UTF-8"), ("t.xlsx", b"PK", "spreadsheet"),
        ("t.csv", b"image\nhttps://example.org/a.jpg\ns3://b/c.png\n", "row 1: 'https://example.org/a.jpg': it is an address"),
        ("t.json", b'[{"image": null}]', "row 1: this should be the path of a picture, not None"),
        ("t.json", b'{"images": {"a": 1}}', "no column 'image'; did you mean 'images'"),
    ],
)  # fmt: skip
def test_what_names_no_picture_says_why(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as told:
        find_pictures([str(tmp_path / name)])
    assert says in str(told.value) and len(str(told.value)) < 700


@pytest.mark.parametrize(
    "address",
    ["https://example.org/a.jpg", "s3://bucket/a.jpg", "http:/x/a.jpg", "data:image/png;base64,AA", "gs://b/c"],
)
def test_addresses_are_not_fetched(address: str) -> None:
    what = "a picture in base64" if "base64" in address else "an address, and pictures are not fetched here"
    with pytest.raises(InputError, match=f"cannot be captioned: it is {what}"):
        find_pictures([address])


@pytest.mark.parametrize("name", ["photos.zip", "photos.tar.gz", "t.csv.gz", "list.txt.xz", "PHOTOS.ZIP", "photos.tgz"])
def test_compressed_files_are_not_taken_for_pictures(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\3\4")
    with pytest.raises(InputError, match=f"{name} is compressed: unpack it, and name the folder or table"):
        find_pictures([str(tmp_path / name)])


@pytest.mark.parametrize("form", ["{}", "data:image/png;base64,{}"])
def test_pictures_in_base64_are_told_apart_from_names_and_addresses(tmp_path: Path, form: str) -> None:
    picture = form.format(base64.urlsafe_b64encode(_photo()).decode())
    (tmp_path / "t.jsonl").write_text(json.dumps({"image": picture}) + "\n" + json.dumps({"image": "x.jpg"}))
    found = find_pictures([str(tmp_path / "t.jsonl")])
    assert found.pictures == [str(tmp_path / "x.jpg")]
    ((where, why),) = found.skipped
    assert where.endswith("t.jsonl, row 1") and why.startswith("it is a picture in base64") and len(why) < 200


def test_one_bad_row_stops_no_other(tmp_path: Path) -> None:
    rows = ["image,title", "x.jpg,X", ",no path", "a,b,c", "https://example.org/a.jpg,web", "y.jpg,Y"]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    found = find_pictures([str(tmp_path / "t.csv")])
    assert found.pictures == [str(tmp_path / "x.jpg"), str(tmp_path / "y.jpg")]
    assert [name.rpartition(", ")[2] for name, _ in found.skipped] == ["row 2", "row 3", "row 4"]
    assert "line 4 has 3 cells" in found.skipped[1][1] and "it is an address" in found.skipped[2][1]


def test_pictures_in_cells_are_found_by_row_and_others_by_path(tmp_path: Path) -> None:
    table = tmp_path / "hf.parquet"
    pq.write_table(pa.table({"image": [{"bytes": _photo(), "path": "a.jpg"}] * 3, "label": [1, 2, 3]}), table)
    assert [str(cell) for cell in find_pictures([str(table)]).pictures] == [f"{table}#{row}" for row in range(3)]
    with pytest.raises(InputError, match=r"row 1 has no column 'imag'; did you mean 'image'"):
        find_pictures([str(table)], "imag")
    pq.write_table(pa.table({"img": [_photo()], "label": [1]}), table)
    with pytest.raises(InputError, match="no column 'image', but pictures in img: name one with --column"):
        find_pictures([str(table)])
    assert [str(cell) for cell in find_pictures([str(table)], "img").pictures] == [f"{table}#0"]


def test_what_a_pattern_leaves_out_is_counted(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.mov", "c.cr2", "._a.jpg"):
        (tmp_path / name).write_bytes(b"x")
    found = find_pictures([f"{tmp_path}/*"])
    assert found.pictures == [str(tmp_path / "a.jpg")]
    assert found.left_out() == "left out 2 files that are not pictures in a known format: 1 .mov, 1 .cr2"
    with pytest.raises(InputError, match=r"names no picture .*; left out 1 file .*: 1 \.mov"):
        find_pictures([f"{tmp_path}/*.mov"])


# --- from the shell


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.blip2(tmp_path_factory.mktemp("tiny"), "mt5")


def _caption(
    model: Path, places: list[str], to: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, list[str], dict[str, str]]:
    """Exit code, pictures with a caption, and the reasons of those without."""
    from mblip.cli.app import main

    command = ["mblip", "caption", *places, "--language", "sw", "--model", str(model), "--to", str(to)]
    monkeypatch.setattr(sys, "argv", [*command, "--beams", "1", "--max-tokens", "2"])
    code: object = 0
    try:
        main()
    except SystemExit as stopped:
        code = stopped.code
    rows = list(csv.DictReader(to.open(encoding="utf-8", newline=""))) if to.exists() else []
    listed = to.with_name(to.name + ".skipped.jsonl")
    lines = listed.read_text().splitlines() if listed.exists() else []
    skipped = {Path(row["image"]).name: row["reason"] for row in map(json.loads, lines)}
    return int(str(code or 0)), [Path(row["image"]).name for row in rows], skipped


def test_a_folder_made_on_a_mac(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mac"
    (folder / "__MACOSX").mkdir(parents=True)
    composed = unicodedata.normalize("NFC", "Über den Wolken.jpg")
    apart = unicodedata.normalize("NFD", composed)
    for name in ("a.jpg", apart):
        (folder / name).write_bytes(_photo())
        (folder / f"._{name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
        (folder / f"__MACOSX/._{name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    assert _caption(model, [str(folder)], tmp_path / "a.csv", monkeypatch) == (0, [apart, "a.jpg"], {})
    # A list that was written elsewhere spells the name in the other way.
    (folder / "list.csv").write_text(f"image\n{composed}\n", encoding="utf-8")
    assert _caption(model, [str(folder / "list.csv")], tmp_path / "b.csv", monkeypatch) == (0, [composed], {})


def test_a_folder_from_a_phone(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                               capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setattr(decoding, "_registers_heif", lambda: False)
    folder = tmp_path / "phone"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    (folder / "IMG_0002.JPG").write_bytes(_photo(exif=exif))
    (folder / "IMG_0001.HEIC").write_bytes(struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + bytes(99))
    (folder / "IMG_0002.MOV").write_bytes(b"film")
    (folder / "IMG_0003.MOV").write_bytes(b"film")
    code, done, skipped = _caption(model, [str(folder)], tmp_path / "a.csv", monkeypatch)
    assert (code, done) == (1, ["IMG_0002.JPG"])
    assert skipped == {"IMG_0001.HEIC": "it is HEIC/HEIF, which needs an extra: pip install 'mblip[heic]'"}
    told = capsys.readouterr().err
    assert (
        "left out 2 files that are not pictures in a known format: 2 .mov" in told
        and "pip install 'mblip[heic]'" in told
    )
    assert "1 of 2 pictures could not be read" in told


def test_a_folder_and_a_list_from_windows(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                          capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    folder = tmp_path / "win"
    (folder / "Bilder").mkdir(parents=True)
    (folder / "Bilder/X.JPG").write_bytes(_photo())
    for name in ("Thumbs.db", "desktop.ini", "Bilder/Thumbs.db"):
        (folder / name).write_bytes(b"\xd0\xcf\x11\xe0")
    assert _caption(model, [str(folder)], tmp_path / "a.csv", monkeypatch) == (0, ["X.JPG"], {})
    (folder / "liste.csv").write_text(
        "image;Titel\r\nBilder/x.jpg;klein\r\nBilder\\X.JPG;groß\r\nBilder/X.jpg;X\r\n", encoding="utf-8"
    )
    code, done, skipped = _caption(model, [str(folder / "liste.csv")], tmp_path / "b.csv", monkeypatch)
    assert (code, done) == (1, ["X.jpg"])  # the case of an ending does not count, that of a name does
    assert skipped["x.jpg"] == f"No such file or directory (named by {folder / 'liste.csv'}, row 1)"
    (reason,) = (reason for name, reason in skipped.items() if "\\" in name)
    assert reason.startswith("there is no such file; the path has backslashes: write ") and "Bilder/X.JPG'" in reason
    assert reason.endswith(f"(named by {folder / 'liste.csv'}, row 2)")
    (folder / "cp.csv").write_bytes("image;Titel\r\nBilder/X.JPG;groß und schön\r\n".encode("cp1252"))
    capsys.readouterr()
    assert _caption(model, [str(folder / "cp.csv")], tmp_path / "c.csv", monkeypatch) == (2, [], {})
    told = capsys.readouterr().err
    assert "cp.csv, line 2: the byte 0xDF is not UTF-8" in told and "Windows-1252" in told and told.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("t.csv", "image,title\nx.jpg,X\ngone.png,Y\n", "row 2"),
        ("t.tsv", "image\tid\nx.jpg\t1\nx.jpg\t1\ngone.png\t2\n", "row 3"),
        ("t.json", '[{"image": "gone.png"}, {"image": "x.jpg"}]', "row 1"),
        ("t.jsonl", '{"image": "x.jpg"}\n\n{"image": ["x.jpg", "gone.png"]}\n', "row 2"),
        ("list.txt", "x.jpg\n\n\ngone.png\n", "line 4"),  # as an editor counts
        ("list.lst", "gone.png\nx.jpg\n", "line 1"),
        ("t.parquet", "", "row 2"),
    ],
)
def test_a_missing_picture_is_named_with_its_list_and_line(name: str, content: str, place: str, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(_photo())
    (tmp_path / "before.txt").write_text("x.jpg\nother.jpg\n")
    path = tmp_path / name
    if content:
        path.write_text(content, encoding="utf-8")
    else:
        pq.write_table(pa.table({"image": ["x.jpg", "gone.png"]}), path)
    lost = UnreadableImage(str(tmp_path / "gone.png"), "No such file")
    for places in ([path], [tmp_path / "before.txt", path], [tmp_path, path, tmp_path / "before.txt"]):
        found = find_pictures([str(each) for each in places])
        assert str(found.name_place(lost)) == str(UnreadableImage(lost.key, f"No such file (named by {path}, {place})"))
    other = UnreadableImage(str(tmp_path / "other.jpg"), "No such file")
    assert found.name_place(other).reason == f"No such file (named by {tmp_path / 'before.txt'}, line 2)"


def test_a_picture_that_no_list_names_is_reported_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"broken")
    (tmp_path / "list.txt").write_text("x.jpg\ngone.jpg\n")
    problem = UnreadableImage(str(tmp_path / "x.jpg"), "it is damaged")
    for places in ([tmp_path / "x.jpg"], [tmp_path / "x.jpg", tmp_path / "list.txt"]):
        assert find_pictures([str(each) for each in places]).name_place(problem) is problem


def test_parquet_of_the_hub(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "hf.parquet"
    (tmp_path / "beside.jpg").write_bytes(_photo())
    cells = [{"bytes": _photo(color=n), "path": "a.jpg"} for n in range(20)] + [
        {"bytes": None, "path": "beside.jpg"}, {"bytes": b"broken", "path": "b.jpg"}, {"bytes": None, "path": None},
    ]  # fmt: skip
    pq.write_table(pa.table({"image": cells}), table, row_group_size=7)
    code, done, skipped = _caption(model, [str(table)], tmp_path / "a.csv", monkeypatch)
    assert (code, done) == (1, [f"hf.parquet#{row}" for row in range(21)])
    assert skipped == {
        "hf.parquet#21": "not a readable image (unknown format)", "hf.parquet#22": "its cell is empty",
    }  # fmt: skip


def _tar(path: Path, *names: str, mode: str = "w") -> Path:
    """A tar of pictures, each with a text beside it, and a link that leads out."""
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for number, name in enumerate(names):
            for member, data in ((name, _photo(color=number)), (f"{name}.json", b"{}")):
                entry = tarfile.TarInfo(member)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return path


@pytest.mark.parametrize("place", ["shards", "shards/*.tar"])
def test_pictures_in_tars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shards").mkdir()
    _tar(tmp_path / "shards/1.tar", "./a/x.jpg", "猫.PNG", "._x.jpg")
    _tar(tmp_path / "shards/2.tar", "z.jpg", "y.jpg")
    (tmp_path / "shards/stats.json").write_text("{}")
    found = find_pictures([place, "shards/1.tar"])
    names = ["shards/1.tar#a/x.jpg", "shards/1.tar#猫.PNG", "shards/2.tar#z.jpg", "shards/2.tar#y.jpg"]
    assert [str(picture) for picture in found.pictures] == names
    assert found.skipped == []
    assert found.others == ({".json": 1} if place == "shards" else {})
    members = [picture for picture in found.pictures if isinstance(picture, Member)]
    assert [member.read() for member in members[:2]] == [_photo(color=0), _photo(color=1)]


def test_tars_beside_pictures_are_counted_and_not_opened(tmp_path: Path) -> None:
    _tar(tmp_path / "1.tar", "x.jpg")
    (tmp_path / "y.jpg").write_bytes(_photo())
    found = find_pictures([str(tmp_path)])
    assert [Path(str(picture)).name for picture in found.pictures] == ["y.jpg"]
    assert found.left_out() == "left out 1 file that is not a picture in a known format: 1 .tar"


def test_a_damaged_tar_gives_what_comes_before_the_damage(tmp_path: Path) -> None:
    tar = _tar(tmp_path / "1.tar", "x.jpg", "y.jpg", "y.jpg")
    whole = tar.read_bytes()
    (first, second), skipped = find_pictures([str(tar)]).pictures, find_pictures([str(tar)]).skipped
    assert isinstance(first, Member) and isinstance(second, Member)
    assert second.read() == _photo(color=2)  # as unpacking leaves it
    assert skipped == [(f"{tar}, picture 3", "it replaces an earlier picture of the same name, 'y.jpg'")]
    tar.write_bytes(whole[: second.offset - 2048 - 300])  # in the first y.jpg
    found = find_pictures([str(tar)])
    assert str(found.pictures[0]) == f"{tar}#x.jpg"
    assert "not a readable, uncompressed tar" in found.skipped[-1][1]
    with pytest.raises(UnreadableImage, match="is cut off"):
        second.read()
    tar.unlink()
    with pytest.raises(UnreadableImage, match="No such file"):
        first.read()


@pytest.mark.parametrize("kind", ["packed", "text"])
def test_a_tar_that_cannot_be_read_is_told(tmp_path: Path, kind: str) -> None:
    tar = tmp_path / "1.tar"
    tar.write_text("no tar") if kind == "text" else _tar(tar, "x.jpg", mode="w:gz")
    with pytest.raises(InputError, match=r"1.tar names no picture; .*not a readable, uncompressed tar"):
        find_pictures([str(tar)])
