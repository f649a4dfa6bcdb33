"""Folders and stores as Macs, phones, Windows and network drives leave them."""

from __future__ import annotations

import io
import os
import tarfile
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.rights import permissions_bind

from mblip.config import TrainRecipe, load_recipe
from mblip.errors import InputError
from mblip.storage import FolderStore, ParquetStore, TarStore, UnreadableImage, open_images
from mblip.storage.folders import is_junk, is_picture, walk_pictures
from mblip.training.loader import check_data


def _png(color: int = 7) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (color, color, color)).save(buffer, "PNG")
    return buffer.getvalue()


def _touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(_png())
    return folder


def _below(folder: Path) -> list[str]:
    return [str(Path(path).relative_to(folder)) for path in walk_pictures(folder).pictures]


@pytest.mark.parametrize(
    ("name", "picture"),
    [
        ("a.jpg", True), ("A.JPEG", True), ("b.Heic", True), ("c.PNG", True), ("x/y.webp", True), (".hidden.jpg", True),
        ("._a.jpg", False), ("__MACOSX/a.jpg", False), ("x/__MACOSX/._a.jpg", False), ("Thumbs.db", False),
        ("@eaDir/a.jpg", False), ("desktop.ini", False), (".DS_Store", False), ("a.mov", False), ("jpg", False),
    ],
)  # fmt: skip
def test_names_of_pictures(name: str, picture: bool) -> None:
    assert is_picture(name) is picture
    assert not (picture and is_junk(name))


def test_what_systems_leave_is_neither_a_picture_nor_left_out(tmp_path: Path) -> None:
    _touch(tmp_path, "a.jpg", "sub/b.PNG", "._a.jpg", "__MACOSX/._a.jpg", "__MACOSX/c.jpg", "Thumbs.db", "sub/desktop.ini",
           ".DS_Store", "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "$RECYCLE.BIN/d.jpg")  # fmt: skip
    walked = walk_pictures(tmp_path)
    assert _below(tmp_path) == ["a.jpg", "sub/b.PNG"]
    assert not walked.others and not walked.refused


def test_linked_folders_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    _touch(tmp_path / "far", "x.jpg", "deep/y.jpg")
    here = _touch(tmp_path / "here", "top.jpg", "z/own.jpg")
    (here / "a_link").symlink_to(tmp_path / "far")
    (here / "b_link").symlink_to(tmp_path / "far")  # the same again
    (here / "far_deep").symlink_to(tmp_path / "far/deep")  # a part of it
    (here / "z/up").symlink_to("..")  # a loop
    (here / "also_z").symlink_to("z")  # under its own name, not the link's
    (here / "file.jpg").symlink_to(tmp_path / "far/x.jpg")
    assert _below(here) == ["a_link/x.jpg", "far_deep/y.jpg", "file.jpg", "top.jpg", "z/own.jpg"] or _below(here) == [
        "a_link/deep/y.jpg", "a_link/x.jpg", "file.jpg", "top.jpg", "z/own.jpg",
    ]  # fmt: skip
    only = tmp_path / "only"
    only.mkdir()
    (only / "sub").symlink_to(tmp_path / "far")
    assert _below(only) == ["sub/deep/y.jpg", "sub/x.jpg"]


def test_what_cannot_be_read_is_named_and_what_is_no_picture_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _touch(tmp_path, "a.jpg", "b.CR2", "c.cr2", "d.mov", "README", "locked/e.jpg")
    (tmp_path / "broken.jpg").symlink_to("gone.jpg")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    walked = walk_pictures(tmp_path)
    assert [Path(path).name for path in walked.pictures] == ["a.jpg"]
    assert dict(walked.others) == {".cr2": 2, ".mov": 1, "README": 1}
    reasons = {Path(path).name: reason for path, reason in walked.refused}
    assert reasons.pop("locked") == "the folder cannot be read: Permission denied; give yourself the right to read it"
    assert reasons.pop("broken.jpg") == "the link is broken"
    assert reasons.pop("pipe.jpg") == "it is not a file, but a device, pipe or socket"
    assert list(reasons) == ["self.jpg"] and reasons["self.jpg"]


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("IMG_0001.JPG", "IMG_0001"), ("IMG_0001.JPG", "IMG_0001.jpg"), ("a.jpg", "a.JPG"), ("b.Jpeg", "b"), ("c.Png", "c.png"),
        ("sub/d.HEIC", "sub/d"), ("v1.5.PNG", "v1.5"),
        (unicodedata.normalize("NFD", "Übung.JPG"), unicodedata.normalize("NFC", "Übung")),
        (unicodedata.normalize("NFC", "é.png"), unicodedata.normalize("NFD", "é.PNG")),
    ],
)  # fmt: skip
def test_keys_find_their_files_in_folders_and_tars(tmp_path: Path, file: str, key: str) -> None:
    folder = _touch(tmp_path / "folder", file)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(folder / file, file)
        tar.add(folder / file, "__MACOSX/._" + Path(file).name)
    for store in (FolderStore(folder), TarStore([tmp_path / "a.tar"])):
        assert key in store and store.get(key).size == (6, 4)


@pytest.mark.parametrize("key", ["sub\\a.jpg", "sub\\sub\\a.jpg", ".\\a.jpg", "photos\\ä.png", "a\\"])
def test_a_backslash_says_what_is_wanted(tmp_path: Path, key: str) -> None:
    store = open_images(_touch(tmp_path, "sub/a.jpg"))
    with pytest.raises(UnreadableImage, match=r"its path has a backslash: write '[^\\]+'"):
        store.get(key)
    assert key not in store


@pytest.mark.parametrize(
    "beside",
    ["README.md", "LICENSE", "stats.txt", "00000_stats.json", ".DS_Store", "._00000.tar", "Thumbs.db", "a.yaml"],
)
def test_a_file_beside_tars_does_not_change_what_the_folder_is(tmp_path: Path, beside: str) -> None:
    (tmp_path / "1.png").write_bytes(_png())
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        tar.add(tmp_path / "1.png", "1.png")
    (tmp_path / "1.png").unlink()
    (tmp_path / beside).write_text("x")
    assert isinstance(open_images(tmp_path), TarStore)
    (tmp_path / "more").mkdir()
    store = open_images(tmp_path)  # of folders with pictures and archives nobody knows which is meant
    assert isinstance(store, FolderStore)
    with pytest.raises(UnreadableImage, match=r"but it holds tars: name them, as in .*\*\.tar"):
        store.get("1")


def _parquet(path: Path, cells: Sequence[object], column: str = "image", group: int = 2) -> Path:
    table = pa.table({column: pa.array(cells), "text": pa.array([str(n) for n in range(len(cells))])})
    pq.write_table(table, path, row_group_size=group)
    return path


def test_pictures_in_the_cells_of_parquet(tmp_path: Path) -> None:
    cells = [{"bytes": _png(n), "path": "a.png"} for n in range(40)] + [{"bytes": None, "path": "b.png"}]
    _parquet(tmp_path / "train-00000.parquet", cells)
    _parquet(tmp_path / "train-00001.parquet", [_png(77)], "picture")  # the bytes alone, the only such column
    store = open_images(tmp_path / "*.parquet")
    assert isinstance(store, ParquetStore)
    for row in (0, 1, 39, 3, 2, 38, 17, 0):  # in any order
        assert store.get(f"train-00000.parquet#{row}").getpixel((0, 0)) == (row, row, row)
    assert store.get("train-00001.parquet#0").getpixel((0, 0)) == (77, 77, 77)
    with pytest.raises(UnreadableImage, match=r"its cell has no picture, but the path 'b\.png'"):
        store.get("train-00000.parquet#40")
    for key in ("train-00000.parquet#41", "train-00000.parquet#-1", "train-00000.parquet", "x#0", ""):
        assert key not in store
        with pytest.raises(UnreadableImage, match="keys are FILE#ROW"):
            store.get(key)


def test_parquet_that_is_no_image_store(tmp_path: Path) -> None:
    _parquet(tmp_path / "text.parquet", ["a", "b"])
    table = pa.table({"left": pa.array([_png()]), "right": pa.array([_png()])})
    pq.write_table(table, tmp_path / "two.parquet")
    (tmp_path / "none.parquet").write_bytes(b"PAR1")
    for name, says in (("text", "no column of pictures"), ("two", "several columns of pictures"), ("none", "damaged")):
        with pytest.raises(InputError, match=says):
            open_images(tmp_path / f"{name}.parquet")


@pytest.mark.parametrize("mode", [0o000, 0o444])  # neither may be searched
def test_a_folder_that_may_not_be_opened_is_not_a_folder_without_pictures(tmp_path: Path, mode: int) -> None:
    photos = _touch(tmp_path / "outer/photos", "a.png", "sub/b.png")
    sub = photos / "sub"
    recipe = load_recipe(
        TrainRecipe, "nano/align", (f"data.images={photos}", f"data.mix={tmp_path}", "data.tasks=[caption]")
    )

    def says(folder: Path) -> str:
        return f"cannot read the folder {folder}: Permission denied; give yourself the right to read it$"

    for closed in (photos, tmp_path / "outer"):
        closed.chmod(mode)
        try:
            with permissions_bind():
                for opened in (open_images, FolderStore):
                    with pytest.raises(InputError, match=f"^{says(closed)}"):
                        opened(photos)
                with pytest.raises(InputError, match=f"^data.images: {says(closed)}"):
                    check_data(recipe)
        finally:
            closed.chmod(0o755)
    sub.chmod(mode)
    try:
        with permissions_bind():
            store = open_images(photos)
            assert store.get("a").size == (6, 4)
            assert "sub/b.png" in store and "c.png" not in store
            with pytest.raises(UnreadableImage, match=says(sub)):
                store.get("sub/b.png")
    finally:
        sub.chmod(0o755)
    assert store.get("sub/b").size == (6, 4)
