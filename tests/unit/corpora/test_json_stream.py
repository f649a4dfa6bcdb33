"""JSON read piece by piece: the same as json.load, whatever the window cuts."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mblip.corpora import json_stream as raw
from mblip.corpora.rows import read_rows
from mblip.errors import InputError
from mblip.storage import read_jsonl


def _value(draw: random.Random, depth: int) -> Any:
    kinds: list[Callable[[], Any]] = [
        lambda: draw.choice([None, True, False]),
        lambda: draw.randint(-(10**12), 10**12),
        lambda: draw.random() * 1e9,
        lambda: "".join(draw.choices('ab"\\\n,[]{}: é漢😀', k=draw.randint(0, 12))),
    ]
    if depth:
        kinds += [
            lambda: [_value(draw, depth - 1) for _ in range(draw.randint(0, 4))],
            lambda: {str(draw.random()): _value(draw, depth - 1) for _ in range(draw.randint(0, 4))},
        ]
    return draw.choice(kinds)()


@pytest.mark.parametrize("block", [1, 2, 7, 64, 1 << 20])
def test_same_as_json_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(raw, "_BLOCK", block)
    draw = random.Random(block)
    path = tmp_path / "x.json"
    for round_ in range(40):
        items = [_value(draw, 3) for _ in range(draw.randint(0, 6))]
        fields = {"before": _value(draw, 3), "list": items, "after": _value(draw, 2)}
        indent, ascii_ = draw.choice([None, 1]), draw.random() < 0.5
        path.write_text(json.dumps(items, indent=indent, ensure_ascii=ascii_), encoding="utf-8")
        assert list(raw.stream_json(path)) == items, round_
        path.write_text(json.dumps(fields, indent=indent, ensure_ascii=ascii_) + "\n", encoding="utf-8")
        assert list(raw.stream_json(path, "list")) == items, round_
        assert dict(raw.stream_fields(path)) == fields


@pytest.mark.parametrize("cut", range(1, 60, 3))
def test_cut_off_file_is_an_error_at_every_place(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "x.json"
    whole = '{"info": [1, {"a": 2}], "rows": [{"id": 1}, {"id": 22}, {"id": 333}], "end": true}'
    path.write_text(whole[: -cut - 16])
    with pytest.raises(InputError, match=r"x\.json, character \d+: .*(cut off|should stand|has no list)|empty"):
        assert len(list(raw.stream_json(path, "rows"))) < 0


@pytest.mark.parametrize(("content", "message"), [
    (b"", "the file is empty"),
    (b"{}", "it does not hold a list"),
    (b"[1, 2} ", r"expected , or \], not '}'"),
    (b'["\xff"]', "x.json, line 1: the byte 0xFF is not UTF-8; save the file as UTF-8"),
    (b"[" * 100_000, "cut off|too deeply"),
])  # fmt: skip
def test_not_a_list(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(raw.stream_json(path))


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
@pytest.mark.parametrize("content", [
    '[{"a": 1},\n{"a": 2},\n]', '[{"a": 1},\n{"a": 2,\n}]', '[[1],\n["x", [2 ,\n] ]]', '[1,\n\t2,] ',
])  # fmt: skip
def test_a_comma_before_a_closing_bracket_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, block: int
) -> None:
    monkeypatch.setattr(raw, "_BLOCK", block)
    (tmp_path / "x.json").write_text(content)
    line = content[: content.rindex(",")].count("\n") + 1
    with pytest.raises(InputError, match=rf"x.json, line {line}|x.json, line {line + 1}") as told:
        list(raw.stream_json(tmp_path / "x.json"))
    assert "a comma before a closing bracket is not valid JSON; remove the comma" in str(told.value)
    (tmp_path / "x.json").write_text('{"rows": [1], "b": 2,}')
    with pytest.raises(InputError, match="remove the comma"):
        list(raw.stream_fields(tmp_path / "x.json"))


def test_commas_and_brackets_in_texts_are_no_error(tmp_path: Path) -> None:
    rows = ["a,]", "b,}", {"c,": ",]"}, ",\n]"]
    (tmp_path / "x.json").write_text(json.dumps(rows))
    assert list(raw.stream_json(tmp_path / "x.json")) == rows
    (tmp_path / "x.json").write_text('["a,\n]"]')  # a line break in a text is not JSON, but the comma is right
    with pytest.raises(InputError, match="Invalid control character"):
        list(raw.stream_json(tmp_path / "x.json"))


def test_a_name_twice_in_an_object_is_an_error_in_lists_and_lines(tmp_path: Path) -> None:
    twice = '{"image": "a.png", "image": "b.png", "caption": "x"}'
    (tmp_path / "x.json").write_text(f'[{{"image": "a.png"}},\n{twice}]')
    with pytest.raises(InputError, match=r"x.json, line 2: an object has the name 'image' twice; remove one"):
        list(raw.stream_json(tmp_path / "x.json"))
    (tmp_path / "x.jsonl").write_text(f'{{"image": "a.png"}}\n{twice}\n{{"image": "c.png"}}\n')
    with pytest.raises(InputError, match=r"x.jsonl, line 2 has the name 'image' twice in one object; remove one"):
        list(read_jsonl(tmp_path / "x.jsonl"))
    found = list(read_rows(tmp_path / "x.jsonl"))
    assert [row if isinstance(row, dict) else str(row) for row in found] == [
        {"image": "a.png"}, "line 2 has the name 'image' twice in one object; remove one", {"image": "c.png"},
    ]  # fmt: skip


def test_long_items_are_read_in_linear_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "_BLOCK", 16)
    decoded = 0
    original = json.JSONDecoder.raw_decode

    def counting(self: json.JSONDecoder, text: str, place: int = 0) -> tuple[Any, int]:
        nonlocal decoded
        decoded += 1
        return original(self, text, place)

    monkeypatch.setattr(json.JSONDecoder, "raw_decode", counting)
    (tmp_path / "x.json").write_text(json.dumps(["x" * 200_000]))
    assert [len(item) for item in raw.stream_json(tmp_path / "x.json")] == [200_000]
    assert decoded < 25


@pytest.mark.parametrize(("row", "message"), [
    ([], "must be an object"),
    ({}, "lacks 'n'"),
    ({"n": "3"}, "'n' must be an integer, not '3'"),
    ({"n": True}, "'n' must be an integer, not True"),
])  # fmt: skip
def test_take(row: Any, message: str) -> None:
    with pytest.raises(raw.BadRow, match=message):
        raw.take(row, "n", int)
    assert raw.take({"n": 3}, "n", int) == 3
    assert raw.take({"n": False}, "n", bool) is False


@pytest.mark.parametrize("block", [1, 1 << 20])
@pytest.mark.parametrize("rest", ["[3]", "x", "\0", '\n{"a": 1}', " " * 100 + ","])
def test_what_follows_the_end_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rest: str, block: int
) -> None:
    monkeypatch.setattr(raw, "_BLOCK", block)
    path = tmp_path / "x.json"
    path.write_text("[1, 2]" + rest)
    with pytest.raises(
        InputError, match=r"x\.json, (?:character|line) \d+: the file should end here, but continues with"
    ):
        list(raw.stream_json(path))
    path.write_text('{"rows": [1, 2]}' + rest)
    for read in (lambda: list(raw.stream_json(path, "rows")), lambda: list(raw.stream_fields(path))):
        with pytest.raises(InputError, match="should end here"):
            read()


def test_number_of_thousands_of_digits(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(f"[{'9' * 5000}]")
    with pytest.raises(InputError, match="a number with thousands of digits"):
        list(raw.stream_json(path))
    with pytest.raises(InputError, match="line 1 is not valid JSON"):
        list(read_jsonl(path))
