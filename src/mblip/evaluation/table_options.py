"""Read the options of a question in a table, and the right one, in any common form."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from mblip.corpora.json_stream import BadRow
from mblip.errors import quoted
from mblip.evaluation.table_columns import Columns, cell_text, cell_texts, in_plain_digits, parsed, without_labels


def read_options(row: Mapping[str, Any], columns: Columns) -> tuple[list[str], list[str]]:
    """The options of a row and their labels, from one cell or from several columns, of which the last may be blank.

    One cell holds a list of texts, or names each option: ``{"A": "a dog", "B": "a cat"}``, ``{"label": ["A", "B"], "text":
    ["a dog", "a cat"]}``, or a list of ``{"label": "A", "text": "a dog"}``.

    Raises:
        BadRow: There are fewer than two options, a gap among them, or two equal ones.
    """
    names = list(columns.names["options"])
    named = _named(row.get(names[0])) if len(names) == 1 else {}
    if len(names) > 1 or named:
        cells, names = (named, list(named)) if named else (row, names)
        options = [cell_text(cells, name, may_be_blank=True).strip() for name in names]
    else:
        options = cell_texts(row, names)
    while options and options[-1].strip() in ("", "nan"):
        options.pop()
    if "" in options:
        raise BadRow(f"option {names[options.index('')]!r} is blank, but {names[len(options) - 1]!r} is not")
    options, labels = [option.strip() for option in options], [name.upper() for name in names[: len(options)]]
    if not named:
        options, labels = without_labels(options)
    if len(options) < 2:
        how = ', as a list such as ["a cat", "a dog"]' if len(names) == 1 else ""
        raise BadRow(f"{len(options)} option is not enough; {', '.join(map(repr, names))} must have at least two{how}")
    if len(options) > 26:
        raise BadRow(f"it has {len(options)} options, but at most 26 are possible")
    if len(set(options)) < len(options):
        again = next(option for option in options if options.count(option) > 1)
        raise BadRow(f"two options are {quoted(again)}")
    return options, labels


def right_option(
    row: Mapping[str, Any], columns: Columns, options: Sequence[str], labels: Sequence[str], answers: Mapping[str, str]
) -> int:
    """The index of the right option, from its words, its letter, or its number from 0 or 1.

    Raises:
        BadRow: The answer is none of the options.
    """
    for base, role in enumerate(("answer_index", "answer_number")):
        if role in columns.names:
            text = cell_text(row, columns.one(role)).strip()
            place = int(text) - base if text.lstrip("-").isdecimal() else -1
            if not 0 <= place < len(options):
                raise BadRow(f"{columns.one(role)!r} is {quoted(text)}, not one of {base} to {base + len(options) - 1}")
            return place
    column = columns.one("answer")
    text = cell_text(row, column).strip()
    text = answers.get(text, text)
    if text in options:
        return options.index(text)
    label = in_plain_digits(re.sub(r"[\s().:]", "", text)).upper()
    if label in labels:
        return labels.index(label)
    alike = [place for place, option in enumerate(options) if _folded(option) == _folded(text)]
    if len(alike) == 1:
        return alike[0]
    number = "; for a number, use --columns answer_index=COLUMN (from 0) or answer_number=COLUMN (from 1)"
    raise BadRow(
        f"{column!r} is {quoted(text)}, which is not one of the {len(options)} options and not the letter of one"
        f"{number if text.isdecimal() else ''}"
    )


def _named(cell: Any) -> dict[str, Any]:
    """The options of a cell by their labels; empty if the cell does not name them."""
    if isinstance(cell, str):
        if "{" not in cell:  # a list of texts, which is read elsewhere
            return {}
        cell = parsed(cell, "{}" if cell.lstrip()[:1] == "{" else "[]")
    if isinstance(cell, dict) and isinstance(cell.get("label"), list) and isinstance(cell.get("text"), list):
        pairs = list(zip(cell["label"], cell["text"], strict=False)) if len(cell["label"]) == len(cell["text"]) else []
    elif isinstance(cell, dict):
        pairs = list(cell.items())
    elif isinstance(cell, list) and all(
        isinstance(entry, dict) and {"label", "text"} <= entry.keys() for entry in cell
    ):
        pairs = [(entry["label"], entry["text"]) for entry in cell]
    else:
        return {}
    found = {str(label).strip().upper(): text for label, text in pairs}
    usual = ([chr(ord("A") + place) for place in range(len(found))], [str(place + 1) for place in range(len(found))])
    return found if list(found) in usual and len(found) == len(pairs) else {}


def _folded(text: str) -> str:
    """A text in one spelling of case and accents."""
    return unicodedata.normalize("NFC", text.casefold())
