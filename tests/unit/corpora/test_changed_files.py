"""Small files of every layout with each value replaced, cut off everywhere and with something after the end.

No reading ends in anything but examples, drops and errors that name the file; the rows that were not touched come out as
they were.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mblip.config import DataRecipe, SourceSection
from mblip.corpora import read_source
from mblip.errors import InputError
from mblip.schema import Example

VALUES = [
    None, True, 0, -1, 3.5, 10**30, "", " ", "x", "é\u0301", "a\0b", "\ud800", "{x}", "../a", "x" * 5000, [], [None],
    ["x", 1], {}, {"x": None, "y": "1"},
]  # fmt: skip

_KARPATHY = {"filepath": "train2014", "split": "train", "filename": "a.jpg", "cocoid": 1}
_LLAVA = [{"from": "human", "value": "What?\n<image>"}, {"from": "gpt", "value": "Red."}]
_QUESTION = {"question_id": 1, "image_id": 9, "question": "What?"}
_ANSWER = {"question_id": 1, "answers": [{"answer": "net"}, {"answer": "net"}]}
_PAIR = {"Flikr30kID": "1.jpg", "pairID": "1", "sentence2": "He sits.", "gold_label": "neutral"}

# Name: reader, its options, and by option two rows (an object of two for a layout keyed by id), wrapped in a field or not.
LAYOUTS: dict[str, tuple[str, dict[str, Any], dict[str, tuple[str, list[Any]]]]] = {
    "coco": ("coco", {}, {"path": ("images", [
        _KARPATHY | {"sentences": [{"raw": "A dog.", "sentid": 1}, {"raw": "A cat.", "sentid": 2}]},
        _KARPATHY | {"sentences": [{"raw": "A cow.", "sentid": 3}]}])}),
    "flickr30k": ("flickr30k", {}, {"path": ("lines", [
        {"sentences": ["One.", "Two."], "id": 1, "img_path": "1.jpg"},
        {"sentences": ["Three."], "id": 2, "img_path": "2.jpg"}])}),
    "vqav2": ("vqav2", {}, {
        "questions": ("questions", [_QUESTION, _QUESTION | {"question_id": 2}]),
        "annotations": ("annotations", [_ANSWER, _ANSWER | {"question_id": 2}])}),
    "aokvqa": ("aokvqa", {}, {"path": ("", [
        {"image_id": 1, "question_id": number, "question": "What?", "choices": ["a", "b"], "correct_choice_idx": 1,
         "rationales": ["Because.", "So."]} for number in ("1", "2")])}),
    "llava": ("llava", {"task": "conversation"}, {"path": ("", [
        {"id": f"{number:012d}", "image": f"{number:012d}.jpg", "conversations": _LLAVA} for number in (1, 2)])}),
    "gqa": ("gqa", {}, {"path": ("", [
        {"img_id": "n1", "label": {"no": 1.0, "yes": 0.3}, "question_id": number, "sent": "Is it?"}
        for number in ("1", "2")])}),
    "xvnli": ("xvnli", {}, {"path": ("lines", [_PAIR, _PAIR | {"pairID": "2"}])}),
    "nlvr2": ("nlvr2", {}, {"path": ("lines", [
        {"sentence": "Six.", "label": "True", "identifier": f"t-{number}-0", "directory": 3} for number in (1, 2)])}),
    "web_capfilt": ("web_capfilt", {"most": 0}, {"path": ("", [
        {"caption": "A boat.", "url": f"http://a.example/{number}.jpg"} for number in (1, 2)])}),
    "table": ("table", {"columns": {"image": "file", "caption": "text", "id": "sku"}, "task": "caption", "licence": "x"},
              {"path": ("lines", [{"file": "a.jpg", "text": "A boat.", "sku": str(number)} for number in (1, 2)])}),
}  # fmt: skip


def _files(layout: str, folder: Path) -> dict[str, Path]:
    contents = LAYOUTS[layout][2].items()
    return {
        option: folder / f"{option}.{'jsonl' if wrapper == 'lines' else 'json'}" for option, (wrapper, _) in contents
    }


def _text(wrapper: str, rows: list[Any]) -> str:
    if wrapper == "lines":
        return "".join(json.dumps(row) + "\n" for row in rows)
    return json.dumps({wrapper: rows} if wrapper else rows)


def _records(layout: str, files: dict[str, Path]) -> list[Any]:
    reader, options, _ = LAYOUTS[layout]
    named = options | {option: str(path) for option, path in files.items()}
    source = SourceSection(name="s", reader=reader, options=named)
    return list(read_source(DataRecipe(title="t", sources=(source,), bad_rows="drop"), source))


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a value, itself among them."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from _places(inner, (*path, key))


def _replaced(row: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = target = copy.deepcopy(row)
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return changed


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_replaced_value(tmp_path: Path, layout: str) -> None:
    files, contents, tried = _files(layout, tmp_path), LAYOUTS[layout][2], 0
    for option, (wrapper, rows) in contents.items():
        files[option].write_text(_text(wrapper, rows[:1]))
    alone = len(_records(layout, files))
    for option, path in files.items():
        path.write_text(_text(*contents[option]))
    whole = _records(layout, files)
    assert 0 < alone < len(whole) and all(isinstance(record, Example) for record in whole)
    untouched = whole[alone:]
    for option, (wrapper, (first, second)) in contents.items():
        for place in _places(first):
            for value in VALUES:
                files[option].write_text(_text(wrapper, [_replaced(first, place, value), second]))
                try:
                    records = _records(layout, files)
                except InputError as error:  # of the whole file
                    assert str(files[option]) in str(error)
                    continue
                finally:
                    tried += 1
                kept = [record for record in records if isinstance(record, Example)]
                assert all(example in kept for example in untouched) or _same_ids(records), (place, value)
        files[option].write_text(_text(wrapper, [first, second]))
    assert tried >= 60


def _same_ids(records: list[Any]) -> bool:
    """Whether the changed row took the id of the other, which then is a counted drop."""
    return any(getattr(record, "reason", "") == "duplicate id" for record in records)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_that_is_cut_off_or_goes_on(tmp_path: Path, layout: str) -> None:
    files, contents = _files(layout, tmp_path), LAYOUTS[layout][2]
    for option, path in files.items():
        path.write_text(_text(*contents[option]))
    whole = len(_records(layout, files))
    for option, path in files.items():
        text = path.read_text()
        for length in range(len(text)):
            path.write_text(text[:length])
            try:
                records = _records(layout, files)
            except InputError as error:
                assert str(path) in str(error)
                continue
            # Lines that end where a row ends are a shorter file, which nobody can tell. A broken line of a table is a bad row.
            assert contents[option][0] == "lines"
            ends = length == 0 or text[:length].rstrip().endswith("}")
            assert ends or (layout == "table" and records[-1].reason == "bad row")
            examples = [record for record in records if isinstance(record, Example)]
            assert len(examples) < whole or text[:length].rstrip() == text.rstrip()
        for more in ("x", "[]", "}", '"'):
            path.write_text(text + more)
            if layout == "table":
                *before, last = _records(layout, files)
                assert len(before) == whole and last.reason == "bad row"
                continue
            with pytest.raises(InputError, match=path.name):
                _records(layout, files)
        path.write_text(text)
