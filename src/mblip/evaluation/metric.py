"""Metrics: declared on the benchmark, written beside its scores, read by everything that shows them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of a benchmark.

    Attributes:
        name: Its key in the scores.
        unit: ``%`` if scores are percentages; empty for fractions and plain numbers.
        higher_is_better: None if neither is better, as for the length of a caption.
        shown_times: Factor that papers multiply the score by, such as 100 for CIDEr.
        decimals: Number of decimals that papers print.
    """

    name: str
    unit: str = ""
    higher_is_better: bool | None = True
    shown_times: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    decimals: Annotated[int, Field(ge=0, le=12)] = 3

    @property
    def title(self) -> str:
        """The name with the unit that :meth:`show` prints."""
        unit = self.unit or (f"x {self.shown_times:g}" if self.shown_times != 1 else "")
        return f"{self.name}, {unit}" if unit else self.name

    @property
    def scale(self) -> float:
        """Factor from the values of single items, which are fractions, to the unit of the score."""
        return 100.0 if self.unit == "%" else 1.0

    def show(self, value: float) -> str:
        """A score as papers print it."""
        return f"{self.shown_times * value:.{self.decimals}f}"

    def tick(self, value: float) -> str:
        """A round value on an axis."""
        return f"{self.shown_times * value:g}"


def find_metric(metrics: Iterable[Metric], name: str) -> Metric:
    """A metric by name; an undeclared one is a plain number, and higher is better."""
    return next((metric for metric in metrics if metric.name == name), Metric(name))


ACCURACY = Metric("accuracy", "%", decimals=1)
CIDER = Metric("CIDEr", shown_times=100, decimals=1)
RELAXED = Metric("relaxed")
"""The share of answers that contain the right one."""
UNPARSED = Metric("unparsed", higher_is_better=False)
"""The share of answers that are none of the possible ones."""
