"""Templates of pages (``templates/``) and their functions; every text is escaped, and pages load nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader, StrictUndefined

from mblip.evaluation.statistics import resource_group
from mblip.languages import find_language
from mblip.report.values import show_share

COLOURS = ("#3b6fd4", "#d98a2b", "#2f9e78", "#a24bb8", "#c2455b", "#6b7280")


class TableCell(NamedTuple):
    """One cell of a table: a text, and a smaller text below it."""

    text: str
    small: str = ""
    strong: bool = False


class Table(NamedTuple):
    """A table; ``numbers`` are the right-aligned columns, by default all but two."""

    head: Sequence[str]
    rows: Sequence[Sequence[TableCell]]
    numbers: Sequence[int] = range(2, 100)


class Bar(NamedTuple):
    """A bar from 0, or only its label if there is no value.

    ``interval`` is drawn as a whisker, ``reference`` as a vertical line.
    """

    label: str
    value: float | None = None
    interval: tuple[float, float] | None = None
    reference: float | None = None


def render(template: str, folder: Path | None = None, **values: Any) -> str:
    """Render a page from a template with values and functions.

    Args:
        template: File in ``templates/``, or in another folder; there it may extend those of ``templates/``.
        folder: The other folder.
        **values: Values and functions of the template.
    """
    return _environment(folder).get_template(template).render(values)


def ticks(largest: float) -> list[float]:
    """Round values from 0 to the first that is not below the largest one drawn."""
    largest = largest if largest > 0 else 1.0
    least = largest / 4
    power = 10.0 ** math.floor(math.log10(least))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power > least * (1 - 1e-9))
    return [step * number for number in range(math.ceil(largest / step - 1e-9) + 1)]


@cache
def _environment(folder: Path | None) -> Environment:
    ours = PackageLoader("mblip.report")
    environment = Environment(
        loader=ChoiceLoader([FileSystemLoader(folder), ours]) if folder else ours,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "along": _along, "as_json": _as_json, "colour": _colour, "resources": resource_group, "share": show_share, "zip": zip,
    }  # fmt: skip
    environment.globals["language"] = find_language
    return environment


def _along(value: float, axis: Sequence[float]) -> str:
    """The position of a value along an axis."""
    return f"{100 * min(1.0, max(0.0, value / axis[-1])):.2f}%"


def _colour(number: int) -> str:
    """The colour of a run by its number; after the last colour they repeat."""
    return COLOURS[number % len(COLOURS)]


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1)
