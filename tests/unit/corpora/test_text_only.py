"""Rows without a picture: tables, parallel files, chats, and the rows of LLaVA's larger mixes."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mblip.config import DataRecipe, SourceSection
from mblip.corpora import read_source
from mblip.errors import InputError
from mblip.schema import Drop, Example


def read(reader: str, **options: Any) -> list[Example | Drop]:
    source = SourceSection(name="s", reader=reader, options={"licence": "own", **options}, translate=False)
    return list(read_source(DataRecipe(title="t", sources=(source,), bad_rows="drop"), source))


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def told(records: list[Example | Drop]) -> list[tuple[str, ...]]:
    return [
        (record.reason,) if isinstance(record, Drop) else (*record.texts.values(), *record.languages.values())
        for record in records
    ]


def test_text_rows_of_a_table_are_used_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", 'prompt,answer\n"Nani {alipika}?",Mama.\n"Sema ""habari""",Habari\n,leer\n')
    found = read("table", path=path, task="text", language="sw")
    assert told(found) == [
        ("Nani {alipika}?", "Mama.", "sw", "sw"),
        ('Sema "habari"', "Habari", "sw", "sw"),
        ("bad row",),
    ]
    assert all(record.images == () for record in found if isinstance(record, Example))


PLAIN = [(" Habari?\n", "\tNzuri.\r\n"), ('["a", "b"]', '["c"]'), ("cafe\u0301 \u200b", "\ufb01\u00a0")]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "chat.jsonl", "chat.parquet", "parts.jsonl"])
def test_text_rows_are_used_byte_for_byte(kind: str, tmp_path: Path) -> None:
    path, reader = tmp_path / f"t.{kind.rpartition('.')[2]}", "table"
    rows: list[dict[str, Any]] = [{"prompt": prompt, "answer": answer} for prompt, answer in PLAIN]
    if kind.startswith(("chat", "parts")):
        reader = "chat"
        content = (lambda text: [{"type": "text", "text": text}]) if kind.startswith("parts") else str
        rows = [
            {"messages": [{"role": "user", "content": content(p)}, {"role": "assistant", "content": content(a)}]}
            for p, a in PLAIN
        ]
    if kind.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("prompt", "answer"), *PLAIN])
    else:
        write(path, "".join(json.dumps(row) + "\n" for row in rows))
    found = read(reader, path=path, language="sw", **({"task": "text"} if reader == "table" else {}))
    assert [tuple(record.texts.values()) for record in found if isinstance(record, Example)] == PLAIN


def test_a_broken_line_of_a_chat_is_dropped_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", chat(("user", "a"))[:-9] + "\n" + chat(("user", "b"), ("assistant", "c")) + "\n")
    first, second = read("chat", path=path)
    assert isinstance(first, Drop) and first.reason == "bad row" and "line 1 is not valid JSON" in first.detail
    assert isinstance(second, Example) and second.id == "s/2-1"


def test_columns_may_be_called_otherwise_and_a_row_may_have_a_picture(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.jsonl",
        '{"q": "a", "r": "b", "file": "x.jpg"}\n{"q": "c", "r": "d", "file": ""}\n{"q": "e", "r": "f"}\n',
    )
    found = read("table", path=path, task="text", columns={"prompt": "q", "answer": "r", "image": "file"})
    assert [record.images for record in found if isinstance(record, Example)] == [("x.jpg",), (), ()]


def test_translations_have_two_languages(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", "source\ttarget\nA dog.\tMbwa.\n")
    assert told(read("table", path=path, task="translation", language="Swahili")) == [("A dog.", "Mbwa.", "en", "sw")]
    turned = read(
        "table", path=path, task="translation", source_language="sw", columns={"source": "target", "target": "source"}
    )
    assert told(turned) == [("Mbwa.", "A dog.", "sw", "en")]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": "caption", "columns": {"caption": "c"}}, "tasks without pictures are text and translation"),
        ({"task": "text", "columns": {"prompt": "p"}}, "columns must map 'answer'"),
        ({"task": "translation", "columns": {"target": "p"}}, "columns must map 'source'"),
        ({"task": "text", "language": "Quechua"}, "more_languages"),
    ],
)  # fmt: skip
def test_columns_that_a_task_needs_are_told(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read("table", path=write(tmp_path / "t.csv", "p,c\na,b\n"), **options)


@pytest.mark.parametrize("packed", [False, True])
def test_parallel_files_pair_by_line(tmp_path: Path, packed: bool) -> None:
    english, swahili = "A dog.\nTwo\u2028cats.\n\nTall " + "y" * 1200 + "\nEnd", "Mbwa.\nPaka wawili.\nTupu\nz\nMwisho"
    if packed:
        for name, text in (("a.en.gz", english), ("a.sw.gz", swahili)):
            (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    else:
        write(tmp_path / "a.en", english), write(tmp_path / "a.sw", swahili)
    ending = ".gz" if packed else ""
    files = {"path": tmp_path / f"a.en{ending}", "target_path": tmp_path / f"a.sw{ending}"}
    found = read("parallel", **files, language="sw")
    assert told(found) == [
        ("A dog.", "Mbwa.", "en", "sw"), ("Two\u2028cats.", "Paka wawili.", "en", "sw"), ("blank line",), ("long line",),
        ("End", "Mwisho", "en", "sw"),
    ]  # fmt: skip
    both = told(read("parallel", **files, language="sw", both=True))
    assert ("Mbwa.", "A dog.", "sw", "en") in both and len(both) == 8


@pytest.mark.parametrize("longer", ["path", "target_path"])
def test_parallel_files_of_another_length_are_told(tmp_path: Path, longer: str) -> None:
    files = {"path": write(tmp_path / "a.en", "a\n"), "target_path": write(tmp_path / "a.sw", "b\n")}
    with files[longer].open("a") as file:
        file.write("c\n")
    with pytest.raises(InputError, match="ends at line 1, but the other file continues"):
        read("parallel", **files, language="sw")


def test_a_cut_gzip_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(("x" * 70 + "\n").encode() * 5000)[:-20])
    with pytest.raises(InputError, match="get the file again"):
        read("parallel", path=tmp_path / "a.gz", target_path=tmp_path / "a.gz", language="sw")


def chat(*messages: Any, **row: Any) -> str:
    return json.dumps({"messages": [{"role": role, "content": text} for role, text in messages], **row})


def test_each_reply_of_a_chat_has_what_was_said_before_as_its_prompt(tmp_path: Path) -> None:
    rows = [
        chat(
            ("system", "Be brief."),
            ("user", "Habari?"),
            ("assistant", "Nzuri."),
            ("user", "Wewe?"),
            ("assistant", "Pia."),
        ),
        chat(("user", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), ("assistant", "c"), id="own"),
        json.dumps({"conversations": [{"from": "human", "value": "d"}, {"from": "gpt", "value": "e"}]}),
    ]
    found = read("chat", path=write(tmp_path / "c.jsonl", "\n".join(rows)), language="sw")
    assert [(record.id, *record.texts.values()) for record in found if isinstance(record, Example)] == [
        ("s/1-2", "Be brief.\nHabari?", "Nzuri."),
        ("s/1-4", "Be brief.\nHabari?\nNzuri.\nWewe?", "Pia."),
        ("s/own-1", "a\nb", "c"),
        ("s/3-1", "d", "e"),
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (chat(("user", "a")), "bad row"),
        (chat(("assistant", "a")), "bad row"),
        (chat(("user", "a"), ("tool", "b")), "bad row"),
        (chat(("user", [{"type": "image_url", "image_url": {"url": "x"}}]), ("assistant", "b")), "bad row"),
        (chat(("user", ""), ("assistant", "b")), "bad row"),
        ('{"messages": 3}', "bad row"),
        ("{}", "bad row"),
        (chat(("user", "a"), ("assistant", "b" * 3000)), "long text"),
    ],
)  # fmt: skip
def test_a_chat_that_cannot_be_used_is_left_out_alone(tmp_path: Path, row: str, reason: str) -> None:
    path = write(tmp_path / "c.jsonl", row + "\n" + chat(("user", "a"), ("assistant", "b")) + "\n")
    assert told(read("chat", path=path)) == [(reason,), ("a", "b", "en", "en")]


def test_rows_of_llava_without_an_image_are_kept_where_that_is_wanted(tmp_path: Path) -> None:
    row = {"id": "7", "conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]}
    path = write(tmp_path / "l.json", json.dumps([row]))
    source = SourceSection(name="s", reader="llava", options={"path": path, "task": "conversation"})
    recipe = DataRecipe(title="t", sources=(source,))
    assert told(list(read_source(recipe, source))) == [("no image",)]
    kept = source.model_copy(update={"options": {**source.options, "text_only": True}})
    (example,) = read_source(recipe, kept)
    assert isinstance(example, Example) and (example.task, example.images) == ("text", ())
