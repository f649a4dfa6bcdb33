"""Shared by the readers: read JSON piece by piece, check fields, and turn unusable rows into drops."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mblip.errors import InputError, cannot_read, quoted, shorten_quotes
from mblip.languages import find_trainable
from mblip.schema import Drop, Example
from mblip.storage import check_text, not_utf8, read_jsonl
from mblip.storage.jsonl import STRICT_JSON, SecondName, is_trailing_comma

T = TypeVar("T")
Row = dict[str, Any]

_BLOCK = 1 << 20  # characters


class BadRow(ValueError):
    """A raw row that cannot be used; the text says why, with long values shortened."""

    def __init__(self, what: str) -> None:
        super().__init__(shorten_quotes(what))


@dataclass(frozen=True, slots=True)
class Text:
    """The content of one raw row, before it becomes an example.

    Attributes:
        row: Identifier, unique within the source.
        texts: Texts by role.
        language: mC4 code of all texts, or codes by role if they differ.
    """

    row: str
    task: str
    images: tuple[str, ...]
    texts: dict[str, str]
    language: str | dict[str, str] = "en"


def make_examples(
    source: str, licence: str, path: Path, rows: Iterable[T], make: Callable[[T], Iterable[Text | Drop]]
) -> Iterator[Example | Drop]:
    """Make the examples of each row; an unusable row becomes a drop that names file and row."""
    for number, row in enumerate(rows, start=1):
        where = f"{path}, record {number}"
        try:
            for made in make(row):
                if isinstance(made, Drop):
                    yield made
                    continue
                language = made.language
                languages = language if isinstance(language, dict) else dict.fromkeys(made.texts, language)
                yield Example(f"{source}/{made.row}", source, made.task, made.images, made.texts, languages, licence)
        except BadRow as error:
            yield Drop(where, source, "bad row", str(error))


def take(row: Any, name: str, kind: type[T]) -> T:
    """A field of a raw row.

    Raises:
        BadRow: The field is missing or of another type.
    """
    if not isinstance(row, dict):
        raise BadRow(f"it must be an object, not {quoted(row)}")
    if name not in row:
        raise BadRow(f"it lacks {name!r}; it has {', '.join(map(str, row)) or 'nothing'}"[:200])
    value = row[name]
    if not isinstance(value, kind) or isinstance(value, bool) > (kind is bool):
        raise BadRow(f"{name!r} must be {_KINDS.get(kind, kind.__name__)}, not {quoted(value)}")
    return value


def take_text(row: Any, name: str) -> str:
    """A text of a raw row, without blanks around it.

    Raises:
        BadRow: The field is missing, not a text, or blank.
    """
    text = take(row, name, str).strip()
    if not text:
        raise BadRow(f"{name!r} is blank")
    return text


def take_plain(row: Any, name: str) -> str:
    """A text of a raw row, byte for byte.

    Raises:
        BadRow: As :func:`take_text`.
    """
    take_text(row, name)
    return take(row, name, str)


def take_id(row: Any, name: str) -> str:
    """An id of a raw row, which some files write as a number and others as a text.

    Raises:
        BadRow: It is missing, blank, or something else.
    """
    return str(take_key(row, name))


def take_key(row: Any, name: str) -> int | str:
    """Like :func:`take_id`, but numbers stay numbers."""
    if isinstance(row, dict) and isinstance(row.get(name), int):
        return take(row, name, int)
    return take_text(row, name)


def take_language(row: Any, name: str) -> str:
    """The mC4 code of the language that a raw row names.

    Raises:
        BadRow: The language is missing, unknown, or not one of a mix.
    """
    try:
        return find_trainable(take_text(row, name))
    except InputError as error:
        raise BadRow(str(error)) from error


def common_language(language: str, column: str) -> str:
    """The mC4 code of the language of all rows; empty if a column names each row's and no other is given.

    Raises:
        InputError: The language is unknown, or not one of a mix.
    """
    return "" if column and not language.strip() else find_trainable(language)


def take_texts(row: Any, name: str) -> list[str]:
    """A list of texts of a raw row, without blanks around them.

    Raises:
        BadRow: It is missing, empty, or holds something else.
    """
    values = take(row, name, list)
    if not values or not all(isinstance(value, str) and value.strip() for value in values):
        raise BadRow(f"{name!r} must be a list of texts, not {quoted(values)}")
    return [value.strip() for value in values]


def hash_text(text: str) -> int:
    """A 64-bit hash of a text, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def image_name(pattern: str, **fields: Any) -> str:
    """Fill in the pattern of an image key, such as ``train2014/COCO_train2014_{image_id:012d}.jpg``.

    Raises:
        BadRow: The pattern does not fit the row.
    """
    try:
        return pattern.format(**fields)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise BadRow(f"image_key {pattern!r} does not fit {quoted(fields)}") from error


def stream_json(path: str | Path, key: str | None = None) -> Iterator[Any]:
    """Yield the items of a JSON list, with one in memory at a time.

    Args:
        path: A file with a list, or with an object that has a list.
        key: The object's field with the list; None if the file is the list.

    Raises:
        InputError: The file cannot be read, is cut off or not JSON, or has no such list.
    """
    with _Scanner(Path(path)) as scanner:
        if key is None:
            if scanner.peek() != "[":
                raise scanner.other_layout("it does not hold a list")
            yield from scanner.items()
            scanner.end()
            return
        found = False
        for name in scanner.fields():  # to the end, to notice a file that is cut off after the list
            if name == key and scanner.peek() == "[":
                found = True
                yield from scanner.items()
            else:
                scanner.skip()
        if not found:
            raise scanner.other_layout(f"it has no list {key!r}")
        scanner.end()


def stream_fields(path: str | Path) -> Iterator[tuple[str, Any]]:
    """Yield the fields of the object in a JSON file, with one in memory at a time.

    Raises:
        InputError: As in :func:`stream_json`.
    """
    with _Scanner(Path(path)) as scanner:
        for name in scanner.fields():
            yield name, scanner.value()
        scanner.end()


def stream_members(path: str | Path) -> Iterator[tuple[str, Any]]:
    """Like :func:`stream_fields`, but a field with a list is yielded item by item, with the field's name.

    Raises:
        InputError: As in :func:`stream_json`.
    """
    with _Scanner(Path(path)) as scanner:
        for name in scanner.fields():
            for value in scanner.items() if scanner.peek() == "[" else (scanner.value(),):
                yield name, value
        scanner.end()


def first_character(path: str | Path) -> str:
    """The first character of a JSON file that is not blank: ``[`` for a list, ``{`` for an object or JSON lines.

    Raises:
        InputError: The file cannot be read or is empty.
    """
    with _Scanner(Path(path)) as scanner:
        return scanner.peek()


def stream_rows(path: str | Path) -> Iterator[Any]:
    """Yield the items of a JSON list or the objects of JSON lines; a ``.json`` file may have either.

    Raises:
        InputError: As in :func:`stream_json` and :func:`~mblip.storage.read_jsonl`.
    """
    return read_jsonl(path) if first_character(path) == "{" else stream_json(path)


_KINDS: dict[type, str] = {
    str: "a text",
    int: "an integer",
    list: "a list",
    dict: "an object",
    bool: "true or false",
}


_NUMBER = frozenset(["", *"0123456789.eE+-"])


class _Scanner:
    """Decodes a JSON file value by value from a window over its text."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._window, self._place, self._passed, self._lines = "", 0, 0, 0

    def __enter__(self) -> _Scanner:
        check_text(self.path)
        try:
            self._file = self.path.open(encoding="utf-8-sig")
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise InputError(f"cannot read {self.path}: {error.strerror}; download it, or name its path") from error
            raise cannot_read(self.path, error) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def error(self, what: str, remedy: str = "download the file again", place: int | None = None) -> InputError:
        """An error at a place of the window, by default the current one."""
        place = self._place if place is None else place
        line = self._lines + self._window.count("\n", 0, place) + 1
        where = f"line {line:,}" if line > 1 else f"character {self._passed + place}"
        return InputError(f"{self.path}, {where}: {what}; {remedy}")

    def _comma(self, place: int) -> InputError:
        return self.error("a comma before a closing bracket is not valid JSON", "remove the comma", place)

    def other_layout(self, what: str) -> InputError:
        return InputError(
            f"{self.path}: {what}, which this reader needs; name a file of the layout in its documentation"
        )

    def peek(self) -> str:
        """The next character that is not blank."""
        while True:
            while self._place < len(self._window):
                if not self._window[self._place].isspace():
                    return self._window[self._place]
                self._place += 1
            if not self._read():
                raise self.error("the file is cut off" if self._passed or self._window else "the file is empty")

    def value(self) -> Any:
        """Decode the next value."""
        self.peek()
        while True:
            try:
                value, end = STRICT_JSON.raw_decode(self._window, self._place)
            except json.JSONDecodeError as error:
                if is_trailing_comma(error):
                    raise self._comma(error.pos) from error
                if not self._read():
                    raise self.error(f"not valid JSON or cut off ({error.msg})") from error
                continue
            except SecondName as error:
                raise self.error(f"an object has the name {quoted(str(error))} twice", "remove one") from error
            except RecursionError as error:
                raise self.error("nested too deeply") from error
            except ValueError as error:  # Python's limit on the length of integers
                raise self.error("a number with thousands of digits") from error
            # A number may continue past the window: "12" and "12." both begin 12.5.
            if self._window[end : end + 1] in _NUMBER and self._read():
                continue
            self._place = end
            return value

    def items(self) -> Iterator[Any]:
        """Decode the items of the list that comes next."""
        self._expect("[")
        if self.peek() == "]":
            self._place += 1
            return
        while True:
            yield self.value()
            if self._expect(",]") == "]":
                return
            if self.peek() == "]":
                raise self._comma(self._place)

    def fields(self) -> Iterator[str]:
        """Yield the keys of the next object; the caller reads or skips each value."""
        if self._expect("{") and self.peek() == "}":
            self._place += 1
            return
        while True:
            name = self.value()
            if not isinstance(name, str):
                raise self.error(f"a field must have a name, not {quoted(name)}")
            self._expect(":")
            yield name
            if self._expect(",}") == "}":
                return
            if self.peek() == "}":
                raise self._comma(self._place)

    def skip(self) -> None:
        """Skip the next value, a list item by item."""
        if self.peek() == "[":
            for _ in self.items():
                pass
        else:
            self.value()

    def end(self) -> None:
        """Check that nothing follows, as it would be ignored silently."""
        while not (rest := self._window[self._place :].lstrip()):
            self._place = len(self._window)
            if not self._read():
                return
        self._place = len(self._window) - len(rest)
        raise self.error(f"the file should end here, but continues with {rest[:20].rstrip()!r}")

    def _expect(self, wanted: str) -> str:
        found = self.peek()
        if found not in wanted:
            raise self.error(f"expected {' or '.join(wanted)}, not {found!r}")
        self._place += 1
        return found

    def _read(self) -> bool:
        try:
            # Longer windows for longer values, because a long item must not be decoded again for every block.
            block = self._file.read(max(_BLOCK, len(self._window) - self._place))
        except UnicodeDecodeError as error:
            raise not_utf8(self.path) from error
        except OSError as error:
            raise cannot_read(self.path, error) from error
        self._passed += self._place
        self._lines += self._window.count("\n", 0, self._place)
        self._window, self._place = self._window[self._place :] + block, 0
        return bool(block)
