"""Which corpora there are, and reading one as a recipe says."""

from __future__ import annotations

import importlib
import inspect
from collections import Counter
from collections.abc import Iterator
from typing import Any

from pydantic import ConfigDict, ValidationError, validate_call

from mblip.config import DataRecipe, SourceSection
from mblip.errors import InputError, nearest
from mblip.schema import Drop, Example

READERS = ("scenes",)
"""Modules of this package with a ``read(source, ...)``; its parameters are the options a recipe may give."""


def read_source(recipe: DataRecipe, source: SourceSection) -> Iterator[Example | Drop]:
    """Read one source of a recipe; rows that cannot be used come as drops.

    Raises:
        InputError: An unknown reader or option, an unreadable file, or a bad row where the recipe wants those to stop.
    """
    records = _call(source, recipe.seed)
    return _stop_at_drops(records) if recipe.bad_rows == "error" else records


def count_tasks(recipe: DataRecipe, source: SourceSection) -> dict[str, int]:
    """Examples by task, found by reading the whole source."""
    return dict(Counter(record.task for record in read_source(recipe, source) if isinstance(record, Example)))


def _stop_at_drops(records: Iterator[Example | Drop]) -> Iterator[Example | Drop]:
    for record in records:
        if isinstance(record, Drop):
            raise InputError(f"{record.id}: {record.reason} ({record.detail}); mend it, or set bad_rows to drop")
        yield record


def _call(source: SourceSection, seed: int) -> Iterator[Example | Drop]:
    if source.reader not in READERS:
        raise InputError(f"source {source.name!r}: no reader {source.reader!r}{nearest(source.reader, READERS)}")
    read = importlib.import_module(f"mblip.corpora.{source.reader}").read
    options: dict[str, Any] = dict(source.options)
    known = list(inspect.signature(read).parameters)[1:]
    if "seed" in known:
        options.setdefault("seed", seed)
    for name in options:
        if name not in known:
            raise InputError(f"source {source.name!r}: {source.reader!r} has no option {name!r}{nearest(name, known)}")
    checked = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(read)
    try:
        records: Iterator[Example | Drop] = checked(source.name, **options)
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(str(part) for part in first["loc"])
        raise InputError(f"source {source.name!r}: option {option!r}: {first['msg'].lower()}") from error
    return records
