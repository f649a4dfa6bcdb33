"""The cross-lingual gap (paper, Figure 2): how far other languages stay behind English on the same benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mblip.evaluation.benchmarks import find_benchmark
from mblip.schema import Score

_METRICS = ("accuracy", "CIDEr")


@dataclass(frozen=True, slots=True)
class Gap:
    """One benchmark of one model.

    Attributes:
        benchmark: Its name.
        metric: ``accuracy`` (percent) or ``CIDEr``.
        english: Its value in English, which may be another benchmark's (NLVR2 for MaRVL).
        languages: English minus the value in each other language.
    """

    benchmark: str
    metric: str
    english: float
    languages: dict[str, float]

    @property
    def mean(self) -> float:
        """English minus the mean of the other languages, which weigh the same."""
        return sum(self.languages.values()) / len(self.languages)


def transfer_gaps(scores: Sequence[Score]) -> list[Gap]:
    """The gap of each benchmark that was scored in English and in another language.

    Args:
        scores: Of one run directory.
    """
    found = {(score.benchmark, score.language): score.metrics for score in scores}
    gaps = []
    for name in dict.fromkeys(score.benchmark for score in scores):
        english = found.get((find_benchmark(name).english or name, "en"), {})
        metric = next((metric for metric in _METRICS if metric in english), "")
        others = {
            code: english[metric] - metrics[metric]
            for (benchmark, code), metrics in found.items()
            if benchmark == name and code != "en" and metric in metrics
        }
        if others:
            gaps.append(Gap(name, metric, english[metric], others))
    return gaps
