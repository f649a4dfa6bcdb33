"""Values that others have published, each with the place it was printed in (``published.json``)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value was printed.

    Attributes:
        title: The work and the table in it.
        url: Of the work.
        settings: What was done otherwise than here, as far as it is known.
    """

    title: str
    url: str
    settings: str


@dataclass(frozen=True, slots=True)
class Published:
    """One model on one benchmark, as printed.

    Attributes:
        model: As the source names it.
        benchmark: Name in this project.
        metric: ``accuracy`` in percent, or ``CIDEr`` as a fraction.
        english: In English; None where it was not printed.
        others: Mean of the other languages; None where it was not printed.
        languages: By mC4 code, where printed.
        language_fidelity: Share of answers in the language asked for, where printed.
        source: Where from.
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
