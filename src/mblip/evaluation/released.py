"""Evaluation files of the paper authors' data set (``Gregor/mblip-train``), with one layout for every benchmark.

A file is a list of ``{"context": text, "label": "", "image_id": file, "text_label": gold}``; MaRVL's rows have two
fields of images. Items are numbered, because the rows have no identifiers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mblip.errors import InputError
from mblip.evaluation.benchmark import Item
from mblip.evaluation.json_files import Row, rows, take, take_id, take_language

GOLD = "text_label"
MARK = f'"{GOLD}"'


def is_released(values: Sequence[Any]) -> bool:
    """Whether the values of a file are rows of this layout."""
    first = values[0] if values else None
    return isinstance(first, dict) and {"context", GOLD} <= first.keys()


def read_released(values: Sequence[Any], path: Path, gold: Callable[[Row, str], Any], language: str = "") -> list[Item]:
    """The items of a file.

    Args:
        values: The rows.
        path: The file, for errors.
        gold: Returns the reference for answers, from a row and its name for errors.
        language: mC4 code that rows with a field ``language`` must have; empty for any.

    Raises:
        InputError: A row lacks a field, or is in another language.
    """
    items = []
    for number, (where, row) in enumerate(rows(list(values), path), start=1):
        if language and isinstance(row.get("language"), str) and take_language(row, where) != language:
            raise InputError(f"{where} is in {row['language']!r}, not in {language!r}; give the file of that language")
        name = next((take_id(row, field, where) for field in ("question_id", "id") if field in row), str(number))
        items.append(Item(name, _images(row, where), take(row, "context", str, where), gold(row, where)))
    return items


def gold_text(row: Row, where: str) -> str:
    """A gold answer that is one text."""
    return take(row, GOLD, str, where)


def gold_texts_of(row: Row, where: str) -> tuple[str, ...]:
    """Gold answers that are a list of texts."""
    golds = take(row, GOLD, list, where)
    if not golds or not all(isinstance(gold, str) for gold in golds):
        raise InputError(f"{where}: {GOLD!r} must be a list of texts, not {golds!r}")
    return tuple(golds)


def _images(row: Row, where: str) -> tuple[str, ...]:
    """The pictures of a row: a list, or the fields whose names begin with ``image`` or end in ``img``, in order."""
    fields = sorted(name for name in row if name.startswith("image") or name.endswith("img"))
    found: list[str] = []
    for field in fields:
        value = row[field]
        found += [str(name) for name in value] if isinstance(value, list) else [take_id(row, field, where)]
    if not found:
        raise InputError(f"{where} names no picture; it should have a field 'image_id'")
    return tuple(found)
