"""Published values of other works, each with its source (``published.json``)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class Source:
    """The source of a published value.

    Attributes:
        title: The work and the table in it.
        url: Address of the work.
        settings: Known differences from the settings here.
    """

    title: str
    url: str
    settings: str


@dataclass(frozen=True, slots=True)
class Published:
    """Published values of one model on one benchmark.

    Attributes:
        model: Name of the model in the source.
        benchmark: Name of the benchmark in this project.
        metric: ``accuracy`` in percent, or ``CIDEr`` as a fraction.
        english: Value in English; None if it was not published.
        others: Mean of the other languages; None if it was not published.
        languages: Published values by mC4 code.
        language_fidelity: Share of answers in the requested language, if published.
        source: The source.
    """

    model: str
    benchmark: str
    metric: str
    english: float | None
    others: float | None
    languages: dict[str, float]
    language_fidelity: float | None
    source: Source


def load_published() -> list[Published]:
    """All published values, in the order of the file."""
    data = json.loads(resources.files("mblip.report").joinpath("published.json").read_text(encoding="utf-8"))
    sources = {name: Source(**source) for name, source in data["sources"].items()}
    return [Published(**{**row, "source": sources[row["source"]]}) for row in data["values"]]
