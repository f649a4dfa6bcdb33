"""Read raw files of benchmarks and predictions, in any common JSON form."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

from mblip.errors import InputError, quoted
from mblip.languages import find_language
from mblip.storage import reading_text
from mblip.storage.decoding import EXTENSIONS
from mblip.storage.jsonl import STRICT_JSON, SecondName, is_trailing_comma

T = TypeVar("T")
Row = Mapping[str, Any]

TABLES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".ndjson")
"""Endings of tables; files of predictions with other endings are read as JSON."""

_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

_kept: ContextVar[dict[tuple[str, int], list[Any]] | None] = ContextVar("_kept", default=None)
_COCO_FILE = re.compile(r"COCO_(?:train|val|test)20\d\d_(\d+)")
_EXTENSION = re.compile(rf"(?:{'|'.join(map(re.escape, EXTENSIONS))})$", re.IGNORECASE)
_BLANK = re.compile(r"[ \t\n\r,]*")


def read_values(path: Path) -> list[Any]:
    """The values of a JSON file: the items of a list, JSON lines, or objects written one after the other.

    Raises:
        InputError: The file cannot be read, is empty, cut off or not JSON; the message names the line.
    """
    with reading_text(path):
        text = path.read_text(encoding="utf-8-sig")
    values: list[Any] = []
    place = _after_blanks(text, 0)
    while place < len(text):
        try:
            value, place = STRICT_JSON.raw_decode(text, place)
        except json.JSONDecodeError as error:
            ended = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
            line, what = text.count("\n", 0, error.pos) + 1, "cut off" if ended else "not valid JSON"
            if path.suffix.lower() in (".jsonl", ".ndjson"):  # a value cut off in its line fails in one below
                start = text.count("\n", 0, place) + 1
                line, what = start, "not valid JSON" if start < line else what
            remedy = (
                "get the file again"
                if values or text[place] in "[{"
                else "a table has the ending .csv, .tsv or .parquet"
            )
            if is_trailing_comma(error):
                error.msg, remedy = "there is a comma before a closing bracket", "remove the comma"
            raise InputError(f"{path}, line {line} is {what} ({error.msg}); {remedy}") from error
        except RecursionError as error:
            raise InputError(f"{path} is not valid JSON: it is nested too deeply") from error
        except SecondName as error:
            raise InputError(f"{path} has the name {quoted(str(error))} twice in one object; remove one") from error
        except ValueError as error:  # Python's limit on the length of integers
            raise InputError(f"{path} holds a number with thousands of digits; get the file again") from error
        values.append(value)
        place = _after_blanks(text, place)
    if not values:
        raise InputError(f"{path} is empty")
    return values[0] if len(values) == 1 and isinstance(values[0], list) else values


def read_rows(path: Path) -> list[Any]:
    """The rows of a table, or the values of a JSON file.

    A row of a table or a line of JSON lines that cannot be read is a :class:`~mblip.corpora.json_stream.BadRow`.

    Raises:
        InputError: The file cannot be read; the message names the line.
    """
    from mblip.corpora.rows import REFUSED
    from mblip.corpora.rows import read_rows as read_table

    if path.is_dir():
        raise InputError(f"{path} is a folder; name the file in it")
    ending = path.suffix.lower()
    if ending in (".csv", ".tsv", ".parquet", *REFUSED):
        return list(read_table(path))
    try:
        return read_values(path)
    except InputError:
        if ending not in TABLES:
            raise
        lines: list[Any] = []
        with suppress(InputError):
            lines = list(read_table(path))
        if any(isinstance(line, dict) for line in lines):  # JSON lines, some of which are damaged
            return lines
        raise


@contextmanager
def files_kept() -> Iterator[None]:
    """Cache the files that :func:`read_kept` reads inside the block."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def read_kept(path: Path, shape: Callable[[Any], Any]) -> list[Any]:
    """The current values of a file with many languages, each converted by ``shape``.

    Raises:
        InputError: As in :func:`read_values`.
    """
    kept = _kept.get()
    if kept is None:
        return [shape(value) for value in read_values(path)]
    name = (str(path), path.stat().st_mtime_ns)
    if name not in kept:
        kept[name] = [shape(value) for value in read_values(path)]
    return kept[name]


def read_object(path: Path) -> dict[str, Any]:
    """The one object in a JSON file.

    Raises:
        InputError: As in :func:`read_values`, or the file holds something else.
    """
    values = read_values(path)
    if len(values) != 1 or not isinstance(values[0], dict):
        raise InputError(f"{path} should hold one JSON object, not {len(values)} values; see the layouts in the manual")
    found: dict[str, Any] = values[0]
    return found


def rows(values: list[Any], path: Path, kind: str = "record") -> Iterator[tuple[str, Row]]:
    """Yield each value with its name for errors, made of kind and number.

    Raises:
        InputError: A value is not an object.
    """
    for number, value in enumerate(values, start=1):
        where = f"{path}, {kind} {number}"
        if not isinstance(value, dict):
            raise InputError(f"{where} is {kind_of(value)}, not an object; check the file's layout")
        yield where, value


def take(row: Row, name: str, kind: type[T], where: str) -> T:
    """A field of a row.

    Raises:
        InputError: The field is missing or of another type.
    """
    value = row.get(name)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        what = "lacks" if name not in row else f"has {value!r} for"
        raise InputError(f"{where} {what} {name!r}, which should be {_KINDS.get(kind, kind.__name__)}")
    return value


def take_id(row: Row, name: str, where: str) -> str:
    """An identifier, which may be a text or an integer.

    Raises:
        InputError: It is missing or something else.
    """
    value = row.get(name)
    if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
        return str(value)
    raise InputError(f"{where} lacks {name!r}, which should be a text or a whole number, not {value!r}")


def take_truth(row: Row, name: str, where: str) -> bool:
    """A label that is true or false, yes or no, or 1 or 0, as a value or as a text in any case.

    Raises:
        InputError: It is missing or none of these.
    """
    value = row.get(name)
    truth = _TRUTHS.get(str(value).strip().lower()) if isinstance(value, str | int) else None
    if truth is None:
        raise InputError(f"{where} has the {name} {value!r}; it should be yes or no, true or false, 1 or 0")
    return truth


def take_language(row: Row, where: str) -> str:
    """The mC4 code of the language that a row names.

    Raises:
        InputError: The row has no language, or an unknown one.
    """
    spoken = take(row, "language", str, where)
    try:
        return find_language(spoken).code
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def image_name(value: str) -> str:
    """The normalised name of an image: no folder, no extension, no zeros or COCO's prefix before a number; in NFC."""
    name = unicodedata.normalize("NFC", value.strip()).replace("\\", "/").rpartition("/")[2]
    name = _EXTENSION.sub("", name)
    coco = _COCO_FILE.fullmatch(name)
    name = coco[1] if coco else name
    return name.lstrip("0") or "0" if name.isdecimal() else name


def plain_id(value: str) -> str:
    """An id in one spelling: 7 for 007 and 7.0, as spreadsheets and pandas write it; accents in NFC."""
    number = re.fullmatch(r"0*(\d+)(?:\.0+)?", value, re.ASCII)
    return number[1] if number else unicodedata.normalize("NFC", value)


def left_out(count: int, of: str, first: str) -> str:
    """The remark about rows that were left out because they cannot be used; ``first`` is the reason for the first."""
    rows = f"1 row of {of} was" if count == 1 else f"{count:,} rows of {of} were"
    return f"{rows} left out as unusable: {first}{'; and others' if count > 1 else ''}"


def _after_blanks(text: str, place: int) -> int:
    match = _BLANK.match(text, place)
    return match.end() if match else place


_KINDS: dict[type, str] = {str: "a text", list: "a list", dict: "an object", bool: "true or false", int: "a number"}


def kind_of(value: Any) -> str:
    """The kind of a JSON value, in words."""
    return "null" if value is None else _KINDS.get(type(value), "a number")
