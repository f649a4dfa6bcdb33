"""The cross-lingual gap (paper, Figure 2): the distance of other languages from English on the same benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mblip.evaluation.about import About
from mblip.schema import Score


@dataclass(frozen=True, slots=True)
class Gap:
    """The gap of one model on one benchmark.

    Attributes:
        benchmark: Name of the benchmark.
        metric: The first of its metrics that English has.
        english: Its value in English, which may be another benchmark's (NLVR2 for MaRVL).
        languages: English minus the value in each other language.
    """

    benchmark: str
    metric: str
    english: float
    languages: dict[str, float]

    @property
    def mean(self) -> float:
        """English minus the unweighted mean of the other languages."""
        return sum(self.languages.values()) / len(self.languages)


def transfer_gaps(scores: Sequence[Score], about: Mapping[str, About]) -> list[Gap]:
    """The gap of each benchmark that was scored in English and in another language.

    Args:
        scores: The scores of one run directory.
        about: Its descriptions of the benchmarks, by name (:func:`~mblip.evaluation.about.read_about`).
    """
    found = {(score.benchmark, score.language): score.metrics for score in scores}
    gaps = []
    for name in dict.fromkeys(score.benchmark for score in scores):
        english = found.get((about[name].english or name, "en"), {})
        metric = next((metric.name for metric in about[name].metrics if metric.name in english), "")
        others = {
            code: english[metric] - metrics[metric]
            for (benchmark, code), metrics in found.items()
            if benchmark == name and code != "en" and metric in metrics
        }
        if others:
            gaps.append(Gap(name, metric, english[metric], others))
    return gaps
