"""Files as other people have them: other layouts of the same corpora, marks at the beginning, odd quotes, other codings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mblip.config import DataRecipe, SourceSection
from mblip.corpora import read_source
from mblip.errors import InputError
from mblip.schema import Drop
from mblip.storage import open_images


def _read(reader: str, bad_rows: str = "error", **options: Any) -> list[Any]:
    options = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    source = SourceSection(name="s", reader=reader, options=options)
    return list(read_source(DataRecipe(title="t", sources=(source,), bad_rows=bad_rows), source))


def _json(path: Path, data: Any) -> Path:
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def _table(path: Path, bad_rows: str = "error", **more: Any) -> list[Any]:
    return _read("table", bad_rows, path=path, columns={"image": "file", "caption": "text"} | more, task="caption",
                 licence="own")  # fmt: skip


def _captions(records: list[Any]) -> list[str]:
    return [record.texts["caption"] for record in records]


def test_official_coco_captions(tmp_path: Path) -> None:
    data = {
        "info": {}, "licenses": [], "images": [
            {"id": 9, "file_name": "COCO_train2014_000000000009.jpg"}, {"id": 25, "file_name": "000000000025.jpg"},
        ],
        "annotations": [
            {"image_id": 25, "id": 1, "caption": "A giraffe.\n"}, {"image_id": 9, "id": 2, "caption": "Food."},
            {"image_id": 7, "id": 3, "caption": "Nobody's."}, {"image_id": 9, "id": 4, "caption": "  "},
        ],
    }  # fmt: skip
    path = _json(tmp_path / "captions_train2014.json", data)
    records = _read("coco", "drop", path=path)
    assert [(r.id, r.images[0], r.texts["caption"]) for r in records[:2]] == [
        ("s/1", "000000000025.jpg", "A giraffe."), ("s/2", "train2014/COCO_train2014_000000000009.jpg", "Food."),
    ]  # fmt: skip
    assert [r.detail for r in records[2:]] == [
        "'image_id' 7 is not the id of an image in 'images'",
        "'caption' is blank",
    ]
    with pytest.raises(InputError, match=r"captions_train2014.json, record 3: bad row .*'image_id' 7"):
        _read("coco", path=path)


def test_official_coco_captions_real_rows(bench: Path) -> None:
    records = _read("coco", path=bench / "_derived/coco/captions_val2014.fakecap1000.json")
    assert len(records) > 4000 and len({record.images for record in records}) == 1000
    assert all(record.images[0].startswith("val2014/COCO_val2014_") for record in records)


def test_karpathys_flickr30k(tmp_path: Path) -> None:
    sentences = [{"raw": "Two men.", "sentid": 0, "imgid": 0}, {"raw": "Friends.", "sentid": 1, "imgid": 0}]
    images = [
        {"sentids": [0, 1], "imgid": 0, "sentences": sentences, "split": "train", "filename": "1000092795.jpg"},
        {"sentids": [5], "imgid": 1, "sentences": [{"raw": "x", "sentid": 5}], "split": "val", "filename": "2.jpg"},
    ]
    path = _json(tmp_path / "dataset_flickr30k.json", {"images": images, "dataset": "flickr30k"})
    records = _read("flickr30k", path=path)
    assert [(r.id, r.images, r.licence) for r in records] == [
        ("s/0", ("1000092795.jpg",), "research only"), ("s/1", ("1000092795.jpg",), "research only"),
    ]  # fmt: skip
    assert [r.id for r in _read("flickr30k", path=path, split="val")] == ["s/5"]


def test_llava_of_other_sources(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}]
    rows = [
        {"id": 7, "image": "coco/train2017/000000033471.jpg", "conversations": turns},
        {"id": "v", "image": "vg/VG_100K/2354786.jpg", "conversations": turns},
        {"id": "t", "image": None, "conversations": turns},
        {"id": "m", "image": ["a/000000000001.jpg", "COCO_train2014_000000000002.jpg"], "conversations": turns},
        {"id": "o", "image": "000000000003.jpg", "conversations": turns[:1]},
    ]
    path = _json(tmp_path / "mix.json", rows)
    records = _read("llava", "drop", path=path, task="conversation")
    key = "train2014/COCO_train2014_{:012d}.jpg".format
    assert [r.images for r in records if not isinstance(r, Drop)] == [(key(33471),), (key(1), key(2))]
    # A number that is not COCO's names another photo there.
    assert [r.detail for r in records if isinstance(r, Drop)] == [
        "'image' 'vg/VG_100K/2354786.jpg' is not a photo of COCO; set image_key to '{image}'", "What?",
        "'conversations' must be pairs of question and answer, not 1 turns",
    ]  # fmt: skip
    named = _read("llava", "drop", path=path, task="conversation", image_key="{image}")
    assert named[1].images == ("vg/VG_100K/2354786.jpg",)


def test_json_with_a_mark_at_the_beginning_and_numbers_as_ids(tmp_path: Path) -> None:
    row = [{"img_id": "n1", "label": {"no": 1.0}, "question_id": 12, "sent": "Überall?"}]
    path = tmp_path / "gqa.json"
    path.write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8-sig")
    assert [(r.id, r.texts["question"]) for r in _read("gqa", path=path)] == [("s/12", "Überall?")]
    path.write_text(json.dumps(row), encoding="utf-16")
    with pytest.raises(InputError, match=r"gqa.json, line 1: the byte 0xFF is not UTF-8; the file is in UTF-16: save"):
        _read("gqa", path=path)
    pair = {"Flikr30kID": 75, "pairID": "p", "sentence2": "He sits.", "gold_label": "neutral"}
    lines = tmp_path / "dev.jsonl"
    lines.write_bytes(b"\xef\xbb\xbf" + json.dumps(pair).encode() + b"\r\n\r\n")
    assert _read("xvnli", path=lines)[0].images == ("75.jpg",)


def _imagenet(folder: Path, english: Any, labels: Any) -> list[Any]:
    for name in ("n01440764", "n01443537", ".cache"):
        (folder / "train" / name).mkdir(parents=True, exist_ok=True)
        (folder / "train" / name / "x.JPEG").touch()
    (folder / "train" / "readme.txt").touch()
    english, labels = _json(folder / "english.json", english), _json(folder / "babel.json", labels)
    return _read("imagenet", folder=folder / "train", labels=labels, english=english, passes=1, tasks=["naming"])


def test_imagenet_with_a_class_index_and_hidden_folders(tmp_path: Path) -> None:
    index = {"0": ["n01440764", "tench"], "1": ["n01443537", "great_white_shark"]}
    records = _imagenet(tmp_path, index, {"DE": [[1], ["Hai"]]})
    assert [r.texts["answer"] for r in records if not isinstance(r, Drop)] == ["Hai", "tench"]


@pytest.mark.parametrize(("english", "labels", "message"), [
    ({"a": 1}, {}, "neither a list of names nor an index"),
    (["tench", 3], {}, "english.json: the name of class 1 must be a text, not 3"),
    (["tench", "shark"], {"DE": [[0], [None]]}, "babel.json: 'DE' has the label None for class 0"),
    (["tench", "shark"], {"DE": [["0"], ["x"]]}, "'DE' labels class '0', but there are 2 classes"),
    (["tench", "shark"], {"DE": [5, 6]}, "must hold two lists of equal length"),
])  # fmt: skip
def test_imagenet_lists_that_are_none(tmp_path: Path, english: Any, labels: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _imagenet(tmp_path, english, labels)


def test_imagenet_gives_every_language_as_many_passes(tmp_path: Path) -> None:
    for name in ("n1", "n2"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(40):
            (tmp_path / "train" / name / f"{number}.JPEG").touch()
    labels = _json(tmp_path / "b.json", {"DE": [[0, 1], ["a", "b"]], "YO": [[1], ["c"]], "HE": [[0], ["d"]]})
    english = _json(tmp_path / "e.json", ["x", "y"])
    records = _read("imagenet", folder=tmp_path / "train", labels=labels, english=english)
    counts: dict[str, int] = {}
    for record in records:
        if record.task == "naming":
            counts[record.languages["answer"]] = counts.get(record.languages["answer"], 0) + 1
    assert counts == {"en": 16, "de": 16, "yo": 8, "iw": 8}


CSV = 'file,text\r\na.jpg,"Zwei ""rote"" Boote,\r\nam Ufer"\r\n\r\nb.jpg,5" Rohr\r\n'


def test_csv_as_spreadsheets_write_it(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_bytes(CSV.encode("utf-8-sig"))
    assert _captions(_table(path)) == ['Zwei "rote" Boote,\r\nam Ufer', '5" Rohr']


@pytest.mark.parametrize(("content", "message"), [
    ("file,text\na.jpg,é\n".encode("latin-1"), r"own.csv, line 2: the byte 0xE9 is not UTF-8; save the file as UTF-8"),
    ("file,text\na.jpg,é\n".encode("utf-16"), r"own.csv, line 1: the byte 0xFF is not UTF-8"),
    (b"file|text\na.jpg|x\n", r"own.csv, record 1: bad row .it lacks 'file'; it has file.text"),
    (b"file,text,text\na.jpg,x,y\n", r"own.csv, line 1: two columns have the name 'text'"),
    (b"", r"own.csv is empty; its first line must name the columns"),
    (b'file,text\na.jpg,ok\nb.jpg,"red" boat\n', r"own.csv, after line 2: .*; correct the quotes there"),
    (b'file,text\na.jpg,"never closed\nb.jpg,x\n', r"own.csv, after line 1: unexpected end of data"),
])  # fmt: skip
def test_csv_that_cannot_be_read(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "own.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        _table(tmp_path / "own.csv")


def test_rows_of_another_width_are_bad_rows(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("file,text\na.jpg,x\nb.jpg,y,z\nc.jpg\nd.jpg,w\n")
    records = _table(tmp_path / "own.csv", "drop")
    assert [getattr(r, "detail", "") for r in records] == [
        "", "line 3 has 3 cells, but the header names 2 columns", "line 4 has 1 cell, but the header names 2 columns", "",
    ]  # fmt: skip


def test_tsv_with_quotes_of_texts_and_of_spreadsheets(tmp_path: Path) -> None:
    lines = ["file\ttext", 'a.jpg\t"Hello', 'b.jpg\t"Hi" he said', 'c.jpg\t"in ""all"" quotes"', 'd.jpg\tit"s']
    (tmp_path / "own.tsv").write_bytes("\r\n".join(lines).encode())
    assert _captions(_table(tmp_path / "own.tsv")) == ['"Hello', '"Hi" he said', 'in "all" quotes', 'it"s']


def test_json_lines_called_json_and_ids_that_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text('{"file": "a.jpg", "text": "x", "n": 1}\n{"file": "b.jpg", "text": "y", "n": null}\n')
    assert _captions(_table(path)) == ["x", "y"]
    records = _table(path, "drop", id="n")
    assert records[0].id == "s/1" and records[1].detail == "'n' is missing or blank"


def test_duplicate_ids_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"file": "a.jpg", "text": "x", "n": 1}\n' * 2)
    with pytest.raises(InputError, match=r"own.jsonl, row with n=1: duplicate id .example 2 of the source"):
        _table(path, id="n")
    assert [getattr(r, "reason", "") for r in _table(path, "drop", id="n")] == ["", "duplicate id"]


@pytest.mark.parametrize("tar", [True, False])
def test_images_that_img2dataset_fetched(tmp_path: Path, tar: bool) -> None:
    import io
    import tarfile

    urls = [f"http://x.org/{number}.jpg" for number in range(4)]
    keys = [f"00000000{number}" for number in range(4)]
    rows = {"url": urls, "key": keys, "status": ["success", "failed_to_download", "success", "failed_to_resize"]}
    pq.write_table(pa.table(rows), tmp_path / "00000.parquet")
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "JPEG")
    if tar:
        with tarfile.open(tmp_path / "00000.tar", "w") as archive:
            for number in (0, 2):
                member = tarfile.TarInfo(f"{keys[number]}.jpg")
                member.size = len(buffer.getvalue())
                archive.addfile(member, io.BytesIO(buffer.getvalue()))
    else:
        (tmp_path / "00000").mkdir()
        for number in (0, 2):
            (tmp_path / "00000" / f"{keys[number]}.jpg").write_bytes(buffer.getvalue())
    path = _json(tmp_path / "ccs.json", [{"caption": f"text {n}", "url": url} for n, url in enumerate(urls)])
    records = _read("web_capfilt", path=path, most=0, fetched=tmp_path)
    assert [getattr(r, "reason", r.id) for r in records] == ["s/1", "not fetched", "s/3", "not fetched"]
    store = open_images(f"{tmp_path}/*.tar" if tar else tmp_path)
    assert [store.get(records[row].images[0]).size for row in (0, 2)] == [(4, 4), (4, 4)]
    with pytest.raises(InputError, match="not an output of img2dataset"):
        _read("web_capfilt", path=path, most=0, fetched=tmp_path / "none")
