"""Files of captions: rows as they come, whole after a kill at any byte, kept on a full disk, in flat memory."""

from __future__ import annotations

import csv
import json
import os
import random
import resource
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mblip.errors import InputError, ResourceError
from mblip.inference.caption_file import Caption, CaptionFile, SkippedList

KINDS = ["jsonl", "csv", "parquet"]
# What makes rows hard to cut: quotes, line breaks of every kind, separators, letters of 2 to 4 bytes, nothing at all.
TEXTS = [
    'He said "hi"', "two\nlines", "a\r\nb", '"', '""\n"', "猫が座っている。", "🦊🦊", "", " ", "a,b;c\td", "é\n\n", "'", "\\n",
]  # fmt: skip


def _rows(count: int, model: str = "m") -> list[Caption]:
    names = [f"photos/{number} {TEXTS[number % len(TEXTS)]}.jpg" for number in range(count)]
    return [
        Caption(name, code, TEXTS[(number + len(code)) % len(TEXTS)] * 2, model)
        for number, name in enumerate(names)
        for code in ("sw", "zh-Hans")
    ]


def _read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file, strict=True))
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _as_dicts(rows: list[Caption]) -> list[dict[str, str]]:
    return [{"image": r.image, "language": r.language, "caption": r.caption, "model": r.model} for r in rows]


def _grown(path: Path) -> Path:
    return path.with_name(path.name + ".partial.jsonl") if path.suffix == ".parquet" else path


def _complete(path: Path, rows: list[Caption], resume: bool = True, encoding: str = "utf-8") -> int:
    """What a run does with the rows that are not there yet; how many those were."""
    file = CaptionFile(path, "m", resume, encoding)
    added = 0
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        if wanted := [row for row in (first, second) if (row.image, row.language) not in file.done]:
            file.add(wanted)
            added += len(wanted)
    file.finish()
    return added


@pytest.mark.parametrize("kind", KINDS)
def test_cut_at_any_byte_no_row_is_lost_or_doubled(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: None)  # no power is cut here
    rows = _rows(len(TEXTS))
    whole, path = tmp_path / f"whole.{kind}", tmp_path / f"cut.{kind}"
    grown = _grown(path)
    file = CaptionFile(whole, "m", resume=False)
    for row in rows:
        file.add([row])
    data, rng = _grown(whole).read_bytes(), random.Random(kind)
    file.finish()
    assert _read(whole) == _as_dicts(rows)
    cuts = range(len(data) + 1) if kind == "csv" else sorted(rng.sample(range(len(data) + 1), 100))
    for cut in cuts:
        path.unlink(missing_ok=True)
        grown.write_bytes(data[:cut])
        added = _complete(path, rows)
        found = _read(path)
        assert sorted(map(str, found)) == sorted(map(str, _as_dicts(rows))), cut
        assert added <= len(rows) - len(_whole_rows(data[:cut], kind)), cut  # nothing whole was made again
        assert kind != "parquet" or not grown.exists()


def _whole_rows(data: bytes, kind: str) -> list[Any]:
    """The rows whose last byte is there, found in another way than the code's: with all prefixes that end a row."""
    if kind != "csv":
        return data.split(b"\n")[:-1]
    for end in range(len(data), -1, -1):
        if data[:end].endswith(b"\r\n") and data[:end].count(b'"') % 2 == 0:
            return list(csv.reader(data[:end].decode().splitlines(keepends=True)))[1:]
    return []


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_in_the_file_as_they_come(tmp_path: Path, kind: str) -> None:
    path, rows = tmp_path / f"a.{kind}", _rows(3)
    file = CaptionFile(path, "m", resume=False)
    for number in range(0, 6, 2):
        file.add(rows[number : number + 2])
        found = _read(_grown(path))
        assert found == _as_dicts(rows[: number + 2])
    file.finish()
    assert _read(path) == _as_dicts(rows)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", KINDS)
def test_a_finished_file_grows_with_more_pictures_and_languages(tmp_path: Path, kind: str) -> None:
    path, rows = tmp_path / f"a.{kind}", _rows(5)
    assert _complete(path, rows[:6], resume=False) == 6
    before = path.read_bytes()
    assert _complete(path, rows[:6]) == 0
    assert path.read_bytes() == before
    assert _complete(path, rows) == 4
    more = [Caption(row.image, "de", "neu", "m") for row in rows]
    file = CaptionFile(path, "m", resume=True)
    assert ((rows[0].image, "sw") in file.done, (rows[0].image, "de") in file.done, len(file.done)) == (True, False, 10)
    file.add(more)
    file.finish()
    assert _read(path) == _as_dicts([*rows, *more])


def test_parquet_killed_between_its_end_and_that_of_its_journal(tmp_path: Path) -> None:
    path, rows = tmp_path / "a.parquet", _rows(4)
    _complete(path, rows, resume=False)
    _grown(path).write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in _as_dicts(rows)))
    assert _complete(path, rows) == 0
    assert _read(path) == _as_dicts(rows)


def test_the_journal_of_an_earlier_version_is_taken_over(tmp_path: Path) -> None:
    rows = _rows(4)
    for kind in ("csv", "jsonl"):
        path = tmp_path / f"a.{kind}"
        journal = tmp_path / f"a.{kind}.partial.jsonl"
        lines = b"".join(json.dumps(row).encode() + b"\n" for row in _as_dicts(rows[:5]))
        journal.write_bytes(lines + b'{"image": "cut off in the mid')
        with pytest.raises(InputError, match="--resume"):
            CaptionFile(path, "m", resume=False)
        assert _complete(path, rows) == 3
        assert _read(path) == _as_dicts(rows) and not journal.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_where_nothing_was_done_nothing_stays(tmp_path: Path, kind: str) -> None:
    CaptionFile(tmp_path / f"a.{kind}", "m", resume=False).close()
    assert list(tmp_path.iterdir()) == []
    file = CaptionFile(tmp_path / f"a.{kind}", "m", resume=False)
    file.finish()  # every picture was unreadable
    assert _read(tmp_path / f"a.{kind}") == []


def test_excel_gets_its_mark_once(tmp_path: Path) -> None:
    path, rows = tmp_path / "a.csv", _rows(len(TEXTS))
    _complete(path, rows[:4], resume=False, encoding="utf-8-sig")
    _complete(path, rows, encoding="utf-8-sig")
    assert path.read_bytes().startswith(b"\xef\xbb\xbfimage,") and path.read_bytes().count(b"\xef\xbb\xbf") == 1
    assert _read(path) == _as_dicts(rows)
    for name, encoding, says in (
        ("b.jsonl", "utf-8-sig", r"is for \.csv"),
        ("b.csv", "cp1252", "one of utf-8, utf-8-sig"),
    ):
        with pytest.raises(InputError, match=says):
            CaptionFile(tmp_path / name, "m", resume=False, encoding=encoding)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("notes.jsonl", b"hello, no line break", "does not end with a row of captions"),
        ("notes.csv", b"my only line", "does not end with a row of captions"),
        ("notes.csv", b"image,title\r\na.png,x\r\n", "so it is not a file of captions"),
        ("notes.csv", b"image;language;caption;model\r\na.png;sw;x;m\r\n", "so it is not a file of captions"),
        ("notes.jsonl", b'{"question": 1}\n', "row 1, lacks one of image, language, caption, model"),
        ("notes.jsonl", b'{"image": "a", "language": "sw", "caption": null, "model": "m"}\n', "row 1, lacks"),
        ("notes.csv", b"image,language,caption,model\r\na.png,sw,x,m\r\nb.png,sw\r\n", "row 2, lacks"),
        ("notes.csv", b"image,language,caption,model\r\na.png,sw,x,m,more\r\n", "row 1, lacks"),
        ("notes.csv", b"image,language,caption,model\r\na.png,sw,x,other\r\n", "captions of other, not of m"),
        ("notes.csv", b'image,language,caption,model\r\na.png,sw,"x"y,m\r\n', "line 2: .*correct the quotes"),
        ("notes.csv", b"image,language,caption,model\r\ncaf\xe9.png,sw,x,m\r\n", "0xE9 is not UTF-8"),
        (
            "notes.csv",
            b'image,language,caption,model\r\na,sw,"' + b"x\n" * 2**20,
            "does not end with a row of captions",
        ),
        ("notes.parquet", b"PAR1", "damaged or not a Parquet file"),
        ("notes.txt", b"", "the ending must be one of"),
    ],
)
def test_a_file_that_is_none_of_ours_is_refused_and_left_alone(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        CaptionFile(path, "m", resume=True)
    assert path.read_bytes() == content
    assert [each.name for each in tmp_path.iterdir()] == [name]


@contextmanager
def _disk_of(size: int) -> Iterator[None]:
    """A limit of a file's size refuses a write as a full disk does: after taking a part of it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _fill(path: Path, rows: int, kept: list[int]) -> None:
    file = CaptionFile(path, "m", resume=True)
    try:
        for number in range(rows):
            if (f"{number}.jpg", "sw") not in file.done:
                file.add([Caption(f"{number}.jpg", "sw", f'a "cat",\n{number * 7919}', "m")])
                kept.append(number)
        file.finish()
    finally:
        file.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [10, 1000, 1001, 1030, 4096])
def test_on_a_full_disk_all_whole_rows_are_kept(tmp_path: Path, kind: str, limit: int) -> None:
    path, kept = tmp_path / f"a.{kind}", list[int]()
    with pytest.raises(ResourceError) as told, _disk_of(limit):
        _fill(path, 200, kept)
    kept_so_far = "everything before is kept: free the space, then continue with --resume"
    says = f"cannot write {_grown(path)}: File too large; {kept_so_far}"
    assert str(told.value) == says
    assert bool(kept) == (limit > 10)
    if kept:
        assert [row["image"] for row in _read(_grown(path))] == [f"{number}.jpg" for number in kept]
    _fill(path, 200, kept)
    assert kept == list(range(200))
    assert [row["image"] for row in _read(path)] == [f"{number}.jpg" for number in range(200)]


def test_a_disk_that_is_too_full_for_the_parquet_file_keeps_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    file = CaptionFile(path, "m", resume=False)
    for number in range(200):
        file.add([Caption(f"{number}.jpg", "sw", f"a cat {number * 7919}", "m")])
    with pytest.raises(ResourceError) as told, _disk_of(500):
        file.finish()
    assert str(told.value).startswith(f"cannot write {path}: ")
    assert f"all rows are kept in {_grown(path)}: continue with --resume" in str(told.value)
    assert [each.name for each in tmp_path.iterdir()] == [_grown(path).name]
    again = CaptionFile(path, "m", resume=True)
    assert len(again.done) == 200
    again.finish()
    assert len(_read(path)) == 200


def test_skipped_pictures_are_listed_as_of_the_last_run(tmp_path: Path) -> None:
    to = tmp_path / "captions.csv"
    listed = SkippedList(to)
    listed.add("a.jpg", "cut off")
    listed.add("caf\udce9.jpg", "its name is not UTF-8")
    assert listed.finish()
    rows = [json.loads(line) for line in (tmp_path / "captions.csv.skipped.jsonl").read_text().splitlines()]
    assert rows == [
        {"image": "a.jpg", "reason": "cut off"},
        {"image": "caf\udce9.jpg", "reason": "its name is not UTF-8"},
    ]
    again = SkippedList(to)
    again.add("b.jpg", "x")
    again.close()
    assert "a.jpg" not in again.path.read_text()
    assert not SkippedList(to).finish() and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, kind: str) -> None:
    file = CaptionFile(tmp_path / f"a.{kind}", "m", resume=False)
    tracemalloc.start()
    try:
        for number in range(20_000):
            file.add([Caption(f"photos/{number:08}.jpg", "sw", "a cat on a mat " * 4, "m")])
            if number == 1000:
                before = tracemalloc.get_traced_memory()[0]
        assert tracemalloc.get_traced_memory()[0] - before < 100_000
    finally:
        tracemalloc.stop()
    file.close()
