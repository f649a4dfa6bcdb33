"""What the readers share: JSON read piece by piece, fields checked, rows that cannot be used turned into drops."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mblip.errors import InputError, of_system, quoted, shorten_quotes
from mblip.languages import find_trainable
from mblip.schema import Drop, Example
from mblip.storage import check_text, not_utf8, read_jsonl

T = TypeVar("T")
Row = dict[str, Any]

_BLOCK = 1 << 20  # characters


class BadRow(ValueError):
    """A raw row that lacks something; the text says what, with long values shortened."""

    def __init__(self, what: str) -> None:
        super().__init__(shorten_quotes(what))


@dataclass(frozen=True, slots=True)
class Text:
    """What one raw row says, before it is an Example.

    Attributes:
        row: Unique within the source.
        texts: By role.
        language: mC4 code of all texts, or by role where they differ.
    """

    row: str
    task: str
    images: tuple[str, ...]
    texts: dict[str, str]
    language: str | dict[str, str] = "en"


def make_examples(
    source: str, licence: str, path: Path, rows: Iterable[T], make: Callable[[T], Iterable[Text | Drop]]
) -> Iterator[Example | Drop]:
    """Make the examples of each row; a row that lacks something becomes a drop that names file and row."""
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
    """The field of a raw row.

    Raises:
        BadRow: It is missing or of another type.
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
        BadRow: It is missing, no text, or blank.
    """
    text = take(row, name, str).strip()
    if not text:
        raise BadRow(f"{name!r} is blank")
    return text


def take_id(row: Any, name: str) -> str:
    """An id of a raw row, which some files write as a number and others as a text.

    Raises:
        BadRow: It is missing, blank, or something else.
    """
    return str(take_key(row, name))


def take_key(row: Any, name: str) -> int | str:
    """As :func:`take_id`, a number as a number."""
    if isinstance(row, dict) and isinstance(row.get(name), int):
        return take(row, name, int)
    return take_text(row, name)


def take_language(row: Any, name: str) -> str:
    """The mC4 code of the language that a raw row names.

    Raises:
        BadRow: It is missing, unknown, or none that mixes hold.
    """
    try:
        return find_trainable(take_text(row, name))
    except InputError as error:
        raise BadRow(str(error)) from error


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
    """A number of 64 bits for a text, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def image_name(pattern: str, **fields: Any) -> str:
    """Fill an image key's pattern, such as ``train2014/COCO_train2014_{image_id:012d}.jpg``.

    Raises:
        BadRow: The pattern asks for something else than the row has.
    """
    try:
        return pattern.format(**fields)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise BadRow(f"image_key {pattern!r} does not fit {quoted(fields)}") from error


def stream_json(path: str | Path, key: str | None = None) -> Iterator[Any]:
    """Yield the items of a JSON list, holding one at a time.

    Args:
        path: A file that holds a list, or an object with a list in it.
        key: The field of the object that holds the list; None where the file itself is the list.

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
        for name in scanner.fields():  # to the end, so that a file cut off after the list is noticed
            if name == key and scanner.peek() == "[":
                found = True
                yield from scanner.items()
            else:
                scanner.skip()
        if not found:
            raise scanner.other_layout(f"it has no list {key!r}")
        scanner.end()


def stream_fields(path: str | Path) -> Iterator[tuple[str, Any]]:
    """Yield the fields of the object in a JSON file, holding one at a time.

    Raises:
        InputError: As in :func:`stream_json`.
    """
    with _Scanner(Path(path)) as scanner:
        for name in scanner.fields():
            yield name, scanner.value()
        scanner.end()


def stream_members(path: str | Path) -> Iterator[tuple[str, Any]]:
    """As :func:`stream_fields`, but of a field that is a list each item, with the field's name.

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
    """Yield the items of a JSON list or the objects of JSON lines, whichever a ``.json`` file proves to hold.

    Raises:
        InputError: As in :func:`stream_json` and :func:`~mblip.storage.read_jsonl`.
    """
    return read_jsonl(path) if first_character(path) == "{" else stream_json(path)


_KINDS: dict[type, str] = {
    str: "a text",
    int: "a whole number",
    list: "a list",
    dict: "an object",
    bool: "true or false",
}


_NUMBER = frozenset(["", *"0123456789.eE+-"])


class _Scanner:
    """Decodes a JSON file value by value from a window over its text."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._decoder = json.JSONDecoder()
        self._window, self._place, self._passed = "", 0, 0

    def __enter__(self) -> _Scanner:
        check_text(self.path)
        try:
            self._file = self.path.open(encoding="utf-8-sig")
        except OSError as error:
            raise of_system(
                error, f"cannot read {self.path}: {error.strerror}; download it, or name where it is"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def error(self, what: str) -> InputError:
        return InputError(f"{self.path}, character {self._passed + self._place}: {what}; download the file again")

    def other_layout(self, what: str) -> InputError:
        return InputError(f"{self.path}: {what}, as this reader needs; name a file of the layout that its page shows")

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
                value, end = self._decoder.raw_decode(self._window, self._place)
            except json.JSONDecodeError as error:
                if not self._read():
                    raise self.error(f"not valid JSON or cut off ({error.msg})") from error
                continue
            except RecursionError as error:
                raise self.error("nested too deeply") from error
            except ValueError as error:  # Python's own limit on whole numbers
                raise self.error("a number with thousands of digits stands here") from error
            # A number may go on past the window: "12" and "12." are both the beginning of 12.5.
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

    def fields(self) -> Iterator[str]:
        """The names of the object that comes next; the caller takes or skips each value."""
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

    def skip(self) -> None:
        """Pass over the next value, a list item by item."""
        if self.peek() == "[":
            for _ in self.items():
                pass
        else:
            self.value()

    def end(self) -> None:
        """Make sure that nothing follows: what stood there would be left out without a word."""
        while not (rest := self._window[self._place :].strip()):
            self._place = len(self._window)
            if not self._read():
                return
        raise self.error(f"the file should end here, but goes on with {rest[:20]!r}")

    def _expect(self, wanted: str) -> str:
        found = self.peek()
        if found not in wanted:
            raise self.error(f"{' or '.join(wanted)} should stand here, not {found!r}")
        self._place += 1
        return found

    def _read(self) -> bool:
        try:
            # Longer windows for longer values: an item of many blocks must not be decoded once a block.
            block = self._file.read(max(_BLOCK, len(self._window) - self._place))
        except UnicodeDecodeError as error:
            raise not_utf8(self.path) from error
        except OSError as error:
            raise of_system(error, f"cannot read {self.path}: {error.strerror}") from error
        self._passed += self._place
        self._window, self._place = self._window[self._place :] + block, 0
        return bool(block)
