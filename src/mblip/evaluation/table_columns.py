"""Find the columns of a user's table, by given or usual names, and read their cells."""

from __future__ import annotations

import ast
import csv
import fnmatch
import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mblip.corpora.json_stream import BadRow
from mblip.errors import InputError, nearest, quoted
from mblip.storage.text import unstorable

Task = Literal["caption", "vqa", "choice"]
TASKS: tuple[Task, ...] = ("caption", "vqa", "choice")

_NEEDED: dict[str, tuple[str, ...]] = {
    "caption": ("image", "caption"),
    "vqa": ("image", "question", "answer"),
    "choice": ("image", "question", "options", "answer"),
}
LANGUAGE_COLUMNS = ("language", "lang", "language_code", "lang_code")
"""Usual names of the column that names a row's language."""

USUAL: dict[str, tuple[str, ...]] = {
    "image": (
        "image", "image_path", "image_file", "file_name", "file", "image_name", "img_path", "img", "image_id", "img_id",
        "picture", "photo", "path",
    ),
    "second_image": ("second_image",),
    "id": ("id", "question_id", "index", "item_id", "qid", "identifier"),
    "caption": ("caption", "captions", "reference", "references", "sentence", "sentences", "text", "description"),
    "question": ("question", "query", "text", "prompt"),
    "answer": ("answer", "answers", "label", "gold", "ground_truth"),
    "options": ("options", "choices"),
    "hint": ("hint",),
    "language": LANGUAGE_COLUMNS,
}  # fmt: skip
"""Usual names of columns by role, the likeliest first, in any spelling (imageFile, image_file, Image File)."""

# Roles that must be given by name, because their usual names have other meanings too.
_NAMED = ("answer_index", "answer_number", "image_name")
ROLES = (*USUAL, *_NAMED)
_OPTIONAL = ("second_image", "id", "hint", "language")  # usual names of these can be turned off, as in language=
_MANY = ("image", "caption", "answer", "options")  # roles that may have several columns
# "A. a dog", "(1) a dog", "B)a dog"; "1.5 kg", "A.D." and "A:B" have no label.
_LABELLED = re.compile(r"\s*\(?([A-Z]|\d{1,2})(?:[.:](?!\d|[A-Z](?![a-z]))|\))\s*(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a table by role; roles in :data:`_MANY` may have several."""

    names: Mapping[str, tuple[str, ...]]

    def one(self, role: str) -> str:
        """The column of a role; empty if there is none."""
        return self.names[role][0] if role in self.names else ""

    def all(self) -> list[str]:
        """Every column that is read."""
        return list(dict.fromkeys(name for names in self.names.values() for name in names))


def parse_columns(texts: Sequence[str]) -> dict[str, str]:
    """Parse roles and columns such as ``image=file,caption=text``; a name with a comma needs double quotes.

    An empty name, as in ``language=``, means that no column has an optional role.

    Raises:
        InputError: A part is not ``role=column``, or names an unknown role or a role twice.
    """
    found: dict[str, str] = {}
    for part in (part for text in texts for part in next(csv.reader([text], skipinitialspace=True), [])):
        role, equals, column = (piece.strip() for piece in part.partition("="))
        if equals and role not in ROLES:
            raise InputError(f"--columns: there is no role {role!r}{nearest(role, ROLES)}")
        if not equals or (not column and role not in _OPTIONAL):
            raise InputError(f"--columns: {quoted(part)} must read role=column, such as image=file")
        if role in found:
            raise InputError(f"--columns names {role!r} twice; a role with several columns reads {role}=first+second")
        found[role] = column
    return found


def find_columns(path: Path, held: Sequence[str], task: str, given: Mapping[str, str]) -> Columns:
    """The columns of a table.

    Args:
        path: The file, for errors.
        held: The table's columns.
        task: The task, which decides the required roles.
        given: Columns by role from the user: one, several joined by ``+``, or a pattern such as ``caption_*``.

    Raises:
        InputError: A given column does not exist, or a required role has no column.
    """
    found = {role: _given(path, held, role, text) for role, text in given.items() if text or role not in _OPTIONAL}
    squashed = {_squash(name): name for name in reversed(held)}
    taken = {name for names in found.values() for name in names}
    for role, usual in USUAL.items():
        if role in given or (role in ("caption", "question", "answer", "options") and role not in _NEEDED[task]):
            continue
        if role == "answer" and ("answer_index" in found or "answer_number" in found):
            continue
        names: tuple[str, ...] = next(
            ((squashed[_squash(name)],) for name in usual if squashed.get(_squash(name), "") not in ("", *taken)), ()
        )
        if role == "options":
            names = names or _letters(held, taken)
        elif role in _MANY and not names and role in _NEEDED[task]:
            names = _numbered(held, usual, taken)
        if names:
            found[role] = names
            taken |= set(names)
    indexed = "answer_index" in found or "answer_number" in found
    for role in _NEEDED[task]:
        if role not in found and not (role == "answer" and indexed):
            more = " (or columns A, B, C, ...)" if role == "options" else ""
            raise InputError(
                f"{path} has no column for the {role}{more} of the task {task!r}: it has {_listed(held)}; name it with "
                f"--columns {role}=COLUMN"
            )
    return Columns(found)


def cell_text(row: Mapping[str, Any], column: str, *, may_be_blank: bool = False) -> str:
    """The text of a cell; integers and truth values are written in plain form.

    Raises:
        BadRow: The cell is missing, blank, or not a text.
    """
    value = row.get(column)
    text = _as_text(value)
    if text is None:
        raise BadRow(f"{column!r} is {quoted(value)}, which is not a text")
    _check_characters(text, column)
    if not text.strip() and not may_be_blank:
        raise BadRow(f"{column!r} is {'missing' if column not in row else 'blank'}")
    return text


def cell_texts(row: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """The texts of a role's cells: a list in one cell, as JSON or Python writes it, or one text per cell; no blanks.

    Raises:
        BadRow: A cell holds something else.
    """
    found: list[str] = []
    for column in columns:
        value = row.get(column)
        listed = listed_in(value) if isinstance(value, str) else value
        if isinstance(listed, list | tuple):
            entries = [
                _as_text(entry["answer"] if isinstance(entry, dict) and "answer" in entry else entry)
                for entry in listed
            ]
            if any(entry is None for entry in entries):
                raise BadRow(f"{column!r} must be a list of texts, not {quoted(value)}")
            found += [entry for entry in entries if entry is not None and entry.strip()]
        else:
            text = cell_text(row, column, may_be_blank=True)
            found += [text] if text.strip() else []
    for text in found:
        _check_characters(text, columns[0])
    return found


def _check_characters(text: str, column: str) -> None:
    if what := unstorable(text):
        raise BadRow(f"{column!r} holds {what}")


def cell_lines(row: Mapping[str, Any], column: str, *, may_be_blank: bool = False) -> str:
    """The text of a cell, or the texts of a list in it, a line each.

    Raises:
        BadRow: As :func:`cell_text` and :func:`cell_texts`.
    """
    if not isinstance(row.get(column), list | tuple):
        return cell_text(row, column, may_be_blank=may_be_blank)
    lines = cell_texts(row, (column,))
    if not lines and not may_be_blank:
        raise BadRow(f"{column!r} is blank")
    return "\n".join(lines)


def in_plain_digits(text: str) -> str:
    """A text with the digits of all scripts as 0 to 9."""
    return "".join(str(unicodedata.decimal(character, character)) for character in text)


def without_labels(options: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split labels ("A. a dog", "(1) a dog") from options if every option has its own; returns options and labels.

    Options without labels are called A, B, C, ...
    """
    letters = [chr(ord("A") + place) for place in range(len(options))]
    parts = [_LABELLED.fullmatch(option) for option in options]
    for labels in (letters, [str(place) for place in range(1, len(options) + 1)]):
        if all(part and in_plain_digits(part[1]) == label for part, label in zip(parts, labels, strict=True)):
            return [part[2].strip() for part in parts if part], labels
    return list(options), letters


def _as_text(value: Any) -> str | None:
    match value:
        case str():
            return value
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return str(value)
        case float():
            if math.isnan(value):
                return ""
            return str(int(value)) if value.is_integer() else str(value)
    return None


def listed_in(text: str) -> Any:
    """Parse a text that is a list in JSON's or Python's form; other texts are returned unchanged."""
    return parsed(text, "[]")


def parsed(text: str, brackets: str) -> Any:
    """Parse a text between these brackets in JSON's or Python's form; other texts are returned unchanged."""
    if text.lstrip()[:1] != brackets[0] or text.rstrip()[-1:] != brackets[1]:
        return text
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
        return ast.literal_eval(text.strip())
    return text


def _given(path: Path, held: Sequence[str], role: str, text: str) -> tuple[str, ...]:
    if text in held:
        return (text,)
    if role in _MANY:
        parts = text.split("+")
        names = tuple(name for part in parts for name in ([part] if part in held else _matching(held, part)))
        if names and all(part in held or _matching(held, part) for part in parts):
            return tuple(dict.fromkeys(names))
    raise InputError(f"{path} has no column {text!r} for the {role}{nearest(text, held)}"[:600])


def _matching(held: Sequence[str], pattern: str) -> list[str]:
    return sorted((name for name in held if fnmatch.fnmatchcase(name, pattern)), key=_natural) if "*" in pattern else []


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _numbered(held: Sequence[str], usual: Sequence[str], taken: set[str]) -> tuple[str, ...]:
    """Columns ``caption_1``, ``caption2``, ... for a usual name."""
    for name in usual:
        found = [other for other in held if re.fullmatch(rf"{_squash(name)}\d+", _squash(other)) and other not in taken]
        if found:
            return tuple(sorted(found, key=_natural))
    return ()


def _letters(held: Sequence[str], taken: set[str]) -> tuple[str, ...]:
    """Columns A, B, C, ...; or option_a, choice1 and the like."""
    free = {name: _squash(name) for name in held if name not in taken}
    for before in ("", "option", "choice"):
        for first in ("a", "1", "0"):
            if not before and first != "a":
                continue
            found: list[str] = []
            while True:
                wanted = f"{before}{chr(ord(first) + len(found))}" if len(found) < 9 else ""
                match = next((name for name, squashed in free.items() if wanted and squashed == wanted), None)
                if match is None:
                    break
                found.append(match)
            if len(found) > 1:
                return tuple(found)
    return ()


def _squash(name: str) -> str:
    return re.sub(r"[\W_]", "", str(name)).lower()


def _listed(held: Sequence[str]) -> str:
    return ", ".join(map(repr, held[:30])) + (f" and {len(held) - 30} more" if len(held) > 30 else "")
