"""Tables as spreadsheets, the Hub and other programs write them, through the one reader of all verbs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mblip.config import DataRecipe, SourceSection
from mblip.corpora import read_source
from mblip.corpora.json_stream import BadRow
from mblip.corpora.rows import read_rows
from mblip.errors import LONGEST, InputError, quoted
from mblip.schema import Drop

WANTED = [{"file": "a.jpg", "text": "Tea, hot"}, {"file": "b.jpg", "text": 'A "red" cup'}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", 'file,text\na.jpg,"Tea, hot"\nb.jpg,"A ""red"" cup"\n'),
        ("t.csv", '\ufefffile;text\r\na.jpg;Tea, hot\r\nb.jpg;"A ""red"" cup"\r\n'),  # Excel in Europe
        ("t.csv", 'sep=;\r\nfile;text\r\na.jpg;Tea, hot\r\nb.jpg;"A ""red"" cup"\r\n'),
        ("t.csv", 'file\ttext\na.jpg\tTea, hot\nb.jpg\t"A ""red"" cup"\n'),
        ("t.CSV", 'file,text,,\na.jpg,"Tea, hot",,\n,,,\nb.jpg,"A ""red"" cup",,\n , ,,\n'),  # empty columns and rows
        ("t.csv", ',file,text\n0,a.jpg,"Tea, hot"\n1,b.jpg,"A ""red"" cup"\n'),  # the index of pandas
        ("t.csv", ' file , text \na.jpg,"Tea, hot"\nb.jpg,"A ""red"" cup"\n'),
        ("t.tsv", 'file\ttext\na.jpg\tTea, hot\nb.jpg\tA "red" cup\n'),
        ("t.json", json.dumps(WANTED)),
        ("t.json", "\n".join(map(json.dumps, WANTED))),  # lines
        ("t.jsonl", "\ufeff" + "\n\n".join(map(json.dumps, WANTED))),
        ("t.ndjson", "\n".join(map(json.dumps, WANTED))),
        ("t.jsonl", " \n" + json.dumps(WANTED, indent=1)),  # a list after all
    ],
)
def test_one_table_in_many_forms(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    assert list(read_rows(tmp_path / name)) == WANTED


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.csv", b"image,image\na,b\n", "two columns have the name 'image'"),
        ("t.csv", b"", "is empty"),
        ("t.csv", b",,\n", "is empty"),
        ("t.csv", json.dumps(WANTED).encode(), "is JSON, not CSV; name it .json"),
        ("t.csv", b'{"file": "a.jpg"}\n', "is JSON, not CSV; name it .json"),
        (
            "t.json",
            json.dumps({"data": WANTED}, indent=1).encode(),
            "a table is a list of objects, or one object in each",
        ),
        ("t.csv", "image\nä.jpg\n".encode("utf-16"), "in UTF-16: save"),
        ("t.csv", "image\nä.jpg\n".encode("utf-16-le"), "in UTF-16: save"),
        ("t.csv", "image\nä.jpg\n".encode("utf-32"), "in UTF-32: save"),
        ("t.csv", "image\nä.jpg\n".encode("utf-32-le"), "in UTF-32: save"),
        ("t.csv", "image\nä.jpg\n".encode("utf-32-be"), "in UTF-32: save"),
        ("t.csv", "image\nCafé au lait.jpg\n".encode("cp1252"), r"seems to be in Windows-1252.*iconv -f CP1252"),
        ("t.tsv", "image\t“quoted” – €5\n".encode("cp1252"), r"seems to be in Windows-1252"),
        ("t.csv", "image\nКошка\n".encode("koi8-r") + bytes(range(0x80, 0x9F)), "save the file as UTF-8, or unpack"),
        ("t.xlsx", b"PK\x03\x04", "is a spreadsheet: save it as CSV in UTF-8"),
        ("t.ods", b"", "is a spreadsheet"),
        ("t.csv.gz", b"", "unpack it"),
        ("t.docx", b"", "a table must be"),
    ],
)
def test_what_cannot_be_read_says_what_to_do(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says):
        list(read_rows(tmp_path / name))


@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_a_line_that_is_no_object_stops_none(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"a": 1}\n{"a":\n5\n{"a": 2}\n{"a": 3')
    rows = list(read_rows(tmp_path / name))
    assert [row for row in rows if not isinstance(row, BadRow)] == [{"a": 1}, {"a": 2}]
    told = [str(row) for row in rows if isinstance(row, BadRow)]
    assert told[0].startswith("line 2 is not valid JSON: ") and told[1] == "line 3 is not a JSON object but int"
    assert told[2].startswith("line 5 is not valid JSON (the file is cut off)")
    source = SourceSection(name="s", reader="table", translate=False, options={
        "path": tmp_path / name, "task": "text", "columns": {"prompt": "a", "answer": "a"}, "licence": "own",
    })  # fmt: skip
    recipe = DataRecipe(title="t", sources=(source,), bad_rows="drop")
    assert [record.reason for record in read_source(recipe, source) if isinstance(record, Drop)] == ["bad row"] * 5


def test_a_header_alone_is_a_table_without_rows_and_an_odd_row_stops_none(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,text\n")
    assert list(read_rows(tmp_path / "t.csv")) == []
    (tmp_path / "t.csv").write_text("file,text\na,b\nc\nd,e,f\ng,h\n")
    rows = list(read_rows(tmp_path / "t.csv"))
    assert [rows[0], rows[3]] == [{"file": "a", "text": "b"}, {"file": "g", "text": "h"}]
    assert [str(row) for row in rows[1:3] if isinstance(row, BadRow)] == [
        "line 3 has 1 cell, but the header names 2 columns", "line 4 has 3 cells, but the header names 2 columns",
    ]  # fmt: skip


def _read(reader: str, bad_rows: str = "drop", **options: Any) -> list[Any]:
    source = SourceSection(name="s", reader=reader, options=options)
    return list(read_source(DataRecipe(title="t", sources=(source,), bad_rows=bad_rows), source))


def _table(path: Path, **more: Any) -> list[Any]:
    return _read(
        "table", path=str(path), columns={"image": "image", "caption": "text"} | more, task="caption", licence="own"
    )


def test_several_captions_in_one_cell(tmp_path: Path) -> None:
    rows = [{"image": "a.jpg", "text": ["One.", "Two."]}, {"image": "b.jpg", "text": "Three."}, {"image": "c.jpg", "text": []},
            {"image": "d.jpg", "text": ["Four.", 5]}, {"image": "e.jpg", "text": '["In", "brackets", '}]  # fmt: skip
    wanted = [("s/1-0", "One."), ("s/1-1", "Two."), ("s/2", "Three."), ("s/5", '["In", "brackets",')]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = _table(tmp_path / "t.jsonl")
    assert [(r.id, r.texts["caption"]) for r in found if not isinstance(r, Drop)] == wanted
    assert len([r for r in found if isinstance(r, Drop)]) == 2
    lines = ["image,text", 'a.jpg,"[""One."", ""Two.""]"', "b.jpg,Three.", 'c.jpg,"[""One"", 2]"', "d.jpg,[sic]"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    found = _table(tmp_path / "t.csv")
    assert [(r.id, r.texts["caption"]) for r in found if not isinstance(r, Drop)] == [*wanted[:3], ("s/4", "[sic]")]
    pq.write_table(
        pa.table({"image": ["a.jpg", "b.jpg"], "text": [["One.", "Two."], ["Three."]]}), tmp_path / "t.parquet"
    )
    assert [(r.id, r.texts["caption"]) for r in _table(tmp_path / "t.parquet")] == wanted[:3]


def test_questions_and_answers_of_one_picture_go_in_pairs(tmp_path: Path) -> None:
    rows = [{"image": "a.jpg", "q": ["A?", "B?"], "text": ["1", "2"]}, {"image": "b.jpg", "q": "C?", "text": ["3", "4"]},
            {"image": "c.jpg", "q": ["D?", "E?", "F?"], "text": ["5", "6"]}]  # fmt: skip
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = _table(tmp_path / "t.jsonl", question="q")
    assert [(r.texts["question"], r.texts["caption"]) for r in found if not isinstance(r, Drop)] == [
        ("A?", "1"), ("B?", "2"), ("C?", "3"), ("C?", "4"),
    ]  # fmt: skip
    assert [r.detail for r in found if isinstance(r, Drop)] == ["'text' has 2 texts, but another column has 3"]


def test_parquet_of_the_hub_with_pictures_in_its_cells(tmp_path: Path) -> None:
    image = [{"bytes": bytes(70_000), "path": "x.jpg"}, {"bytes": bytes(9), "path": None}]
    pq.write_table(pa.table({"image": image, "text": ["One.", "Two."]}), tmp_path / "train-0.parquet")
    found = _table(tmp_path / "train-0.parquet")
    assert [(r.id, r.images, r.texts["caption"]) for r in found] == [
        ("s/1", ("train-0.parquet#0",), "One."), ("s/2", ("train-0.parquet#1",), "Two."),
    ]  # fmt: skip
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    named = pa.table({"image": pa.array([{"bytes": None, "path": "x.jpg"}], kind), "text": ["One."]})
    pq.write_table(named, tmp_path / "paths.parquet")
    assert _table(tmp_path / "paths.parquet")[0].images == ("x.jpg",)
    wrong = _table(tmp_path / "train-0.parquet", caption="image")
    assert all(isinstance(r, Drop) and len(r.detail) < 2 * LONGEST for r in wrong)


@pytest.mark.parametrize("address", ["https://example.org/a.jpg", "s3://bucket/a.jpg", "HTTP://x/a.png", "gs://b/c", "hf://d/e",
                                     "data:image/png;base64," + "A" * 9999])  # fmt: skip
def test_addresses_are_not_fetched_and_said_so_briefly(tmp_path: Path, address: str) -> None:
    (tmp_path / "t.tsv").write_text(f"image\ttext\n{address}\tx\nb.jpg\ty\n")
    first, second = _table(tmp_path / "t.tsv")
    what = "it is a picture in base64" if "base64" in address else "pictures are not fetched here"
    assert what in first.detail and len(first.detail) < 2 * LONGEST
    assert second.images == ("b.jpg",)


LONG: list[Any] = [
    "x" * 9999, b"\xff" * 99999, {"bytes": b"x" * 99999}, [1.5] * 9999, {str(n): n for n in range(999)}, [["y" * 999] * 9] * 9,
]  # fmt: skip


@pytest.mark.parametrize("value", LONG, ids=lambda value: type(value).__name__)
def test_no_message_shows_more_than_200_characters_of_a_value(value: Any, tmp_path: Path) -> None:
    assert len(quoted(value)) <= LONGEST
    if isinstance(value, str):
        assert len(str(InputError(f"t.csv, row 3: {value!r} is no language"))) < LONGEST + 50
    if "b'" in repr(value):  # JSON has no bytes
        return
    rows = [{"image": value, "text": value}, {"image": "a.jpg", "text": {"deep": value}}, {"id": value}, [value]]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    for options in ({}, {"language_column": "text"}):
        found = _read("table", path=str(tmp_path / "t.json"), columns={"image": "image", "caption": "text"}, task="caption",
                      licence="own", **options)  # fmt: skip
        assert max(len(r.detail) for r in found if isinstance(r, Drop)) < 2 * LONGEST


def test_a_long_path_keeps_both_ends() -> None:
    told = str(InputError(f"cannot read {'/'.join(['folder'] * 99) + '/a.csv'!r}: no such file"))
    assert told.startswith("cannot read 'folder/") and "…" in told and told.endswith("/a.csv': no such file")


TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}]


@pytest.mark.parametrize("form", ["t.json", "t.jsonl", "lines.json"])
def test_llavas_repeated_ids_keep_all_rows(tmp_path: Path, form: str) -> None:
    rows = [{"id": "33471", "image": "a.jpg", "conversations": TURNS * 2},
            {"id": "33471", "image": "a.jpg", "conversations": TURNS}, {"id": 33471, "image": "a.jpg", "conversations": TURNS},
            {"image": "b.jpg", "conversations": TURNS}, {"id": "", "image": "c.jpg", "conversations": TURNS}]  # fmt: skip
    text = json.dumps(rows) if form == "t.json" else "\n".join(map(json.dumps, rows))
    (tmp_path / form).write_text(text)
    found = _read("llava", "error", path=str(tmp_path / form), task="conversation", image_key="{image}")
    assert [r.id for r in found] == ["s/33471-0", "s/33471-1", "s/33471@2-0", "s/33471@3-0", "s/row4-0", "s/row5-0"]


def test_blips_lists_of_captions(tmp_path: Path) -> None:
    rows = [{"image": "val2014/a.jpg", "caption": ["A cat.", "Cat."], "image_id": "coco_1"},
            {"image": "val2014/b.jpg", "caption": "A dog.", "image_id": "coco_2"},
            {"image": "val2014/b.jpg", "caption": "Dog.", "image_id": "coco_2"},
            {"image": "c.jpg"}, {"caption": "x"}, 7]  # fmt: skip
    (tmp_path / "coco_karpathy_train.json").write_text(json.dumps(rows))
    found = _read("coco", path=str(tmp_path / "coco_karpathy_train.json"))
    assert [(r.id, r.images[0], r.texts["caption"]) for r in found if not isinstance(r, Drop)] == [
        ("s/1-0", "val2014/a.jpg", "A cat."), ("s/1-1", "val2014/a.jpg", "Cat."), ("s/2", "val2014/b.jpg", "A dog."),
        ("s/3", "val2014/b.jpg", "Dog."),
    ]  # fmt: skip
    assert len([r for r in found if isinstance(r, Drop)]) == 3


def test_another_layout_is_no_reason_to_download_again(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"rows": []}')
    with pytest.raises(
        InputError, match=r"it has no list 'images', which this reader needs; name a file of the layout"
    ):
        _read("coco", path=str(tmp_path / "x.json"))
