"""JSON lines: one record per line, UTF-8, with errors that name the file and the line."""

from __future__ import annotations

import dataclasses
import json
import os
import types
import typing
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

from mblip.errors import InputError, cannot_write, quoted
from mblip.storage.files import Appender, atomic_write
from mblip.storage.text import reading_text

T = TypeVar("T")


def read_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the object of every line; blank lines are skipped.

    Raises:
        InputError: The file cannot be read, or a line is not one JSON object; the message names file and line.
    """
    path = Path(path)
    with reading_text(path), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield parse_line(line, f"{path}, line {number}")


def read_records(path: str | Path, kind: type[T]) -> Iterator[T]:
    """Yield every line as a record of ``kind`` (a dataclass of ``mblip.schema``).

    Raises:
        InputError: As in :func:`read_jsonl`, or a field is missing, unknown or of the wrong type.
    """
    for number, row in enumerate(read_jsonl(path), start=1):
        yield parse_record(kind, row, f"{path}, record {number}")


def parse_record(kind: type[T], row: dict[str, Any], where: str) -> T:
    """Build a record from a JSON object.

    Args:
        kind: A dataclass whose fields are of type ``str``, ``int``, ``tuple[str, ...]`` or ``dict``, or a union such as
            ``float | None``.
        row: The object.
        where: Name for errors, such as the file and the line.

    Raises:
        InputError: A field is missing, unknown or of the wrong type.
    """
    layout = _layout(kind)
    unknown = sorted(row.keys() - layout.keys())
    missing = [name for name, (_, required) in layout.items() if required and name not in row]
    if unknown or missing:
        problem = f"lacks {missing[0]!r}" if missing else f"has the unknown field {unknown[0]!r}"
        raise InputError(f"{where} {problem}; a {kind.__name__} has {', '.join(layout)}")
    values: dict[str, Any] = {}
    for name, value in row.items():
        origin, _ = layout[name]
        if origin is tuple and isinstance(value, list):
            value = tuple(value)
        wrong = not isinstance(value, origin)
        if wrong or (isinstance(value, tuple) and not all(isinstance(item, str) for item in value)):
            kind_name = _NAMES.get(origin, getattr(origin, "__name__", origin))
            raise InputError(f"{where}: {name!r} must be {kind_name}, not {quoted(value)}")
        values[name] = value
    return kind(**values)


class JsonlAppender:
    """Appends lines that a killed run must not lose, such as predictions; each is handed to the system at once.

    An unfinished last line of a killed run is removed on opening, so the file can always be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = Appender(path, _end_of_last_line(self.path))

    def append(self, record: Any) -> None:
        """Add one record, a dataclass or a dictionary.

        Raises:
            ResourceError: The disk is full or missing; earlier records are kept.
        """
        self._file.append(encode_record(record))

    def close(self) -> None:
        """Sync to disk and close."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


class JsonlWriter:
    """Writes a file of JSON lines that appears, complete, when the ``with`` block succeeds."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.count = 0
        self._stack = ExitStack()

    def write(self, record: Any) -> None:
        """Add one record, a dataclass or a dictionary."""
        self._file.write(encode_record(record))
        self.count += 1

    def __enter__(self) -> Self:
        self._file: IO[bytes] = self._stack.enter_context(atomic_write(self.path))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)


_NAMES = {str: "a text", int: "an integer", tuple: "a list of texts", dict: "an object"}


def encode_record(record: Any) -> bytes:
    """Encode a dataclass or a dictionary as one line of JSON, with the line feed."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        record = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    try:
        return (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except UnicodeEncodeError:  # UTF-8 cannot encode a lone surrogate, but JSON can escape it
        return (json.dumps(record, allow_nan=False) + "\n").encode()


class SecondName(ValueError):
    """An object has two fields of one name, of which Python's decoder keeps only the last; the text is the name."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise SecondName(next(name for name in names if names.count(name) > 1))
    return found


STRICT_JSON = json.JSONDecoder(object_pairs_hook=_unique)
"""Decodes JSON, and raises :class:`SecondName` where an object has a name twice."""
_NEAR = 1000  # characters


def is_trailing_comma(error: json.JSONDecodeError) -> bool:
    """Whether the error is a comma before a closing bracket, which other languages allow and JSON does not."""
    if not error.msg.startswith(("Expecting", "Illegal")):  # others are inside a text
        return False
    before = error.doc[max(0, error.pos - _NEAR) : error.pos].rstrip()
    after = error.doc[error.pos : error.pos + _NEAR].lstrip()
    if after.startswith(","):  # Python 3.13 points to the comma
        before, after = ",", after[1:].lstrip()
    return before.endswith(",") and after[:1] in ("]", "}")


def parse_line(line: bytes, where: str) -> dict[str, Any]:
    """The object of a line.

    Raises:
        InputError: The line is not one JSON object, or an object has a name twice.
        UnicodeDecodeError: It is not UTF-8.
    """
    row = parse_value(line, where)
    if not isinstance(row, dict):
        raise InputError(f"{where} is not a JSON object but {type(row).__name__}")
    return row


def parse_value(line: bytes, where: str) -> Any:
    """The value of a line, of any kind.

    Raises:
        InputError: The line is not one JSON value, or an object has a name twice.
        UnicodeDecodeError: It is not UTF-8.
    """
    try:
        # Like json.loads for bytes, without its guess that a line with NUL characters is UTF-16 or UTF-32.
        return STRICT_JSON.decode(line.decode("utf-8-sig", "surrogatepass"))
    except UnicodeDecodeError:
        raise
    except SecondName as error:
        raise InputError(f"{where} has the name {quoted(str(error))} twice in one object; remove one") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and is_trailing_comma(error):
            raise InputError(f"{where} is not valid JSON: remove the comma before the closing bracket") from error
        cut = "" if line.endswith(b"\n") else " (the file is cut off)"
        raise InputError(f"{where} is not valid JSON{cut}: {error}") from error


_layouts: dict[type, dict[str, tuple[type, bool]]] = {}


def _layout(kind: Any) -> dict[str, tuple[type, bool]]:
    """By field of a dataclass: its type without parameters, and whether it is required."""
    if kind not in _layouts:
        hints = typing.get_type_hints(kind)
        _layouts[kind] = {
            field.name: (
                _plain(hints[field.name]),
                field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
            )
            for field in dataclasses.fields(kind)
        }
    return _layouts[kind]


def _plain(hint: Any) -> Any:
    """A type for ``isinstance``: without parameters; a union is unchanged."""
    return hint if isinstance(hint, types.UnionType) else typing.get_origin(hint) or hint


def _end_of_last_line(path: Path) -> int:
    block = 1 << 16
    try:
        with path.open("rb") as file:
            position = file.seek(0, os.SEEK_END)
            while position > 0:
                start = max(0, position - block)
                file.seek(start)
                newline = file.read(position - start).rfind(b"\n")
                if newline >= 0:
                    return start + newline + 1
                position = start
    except FileNotFoundError:
        pass
    except OSError as error:
        raise cannot_write(path, error) from error
    return 0
