"""Uncertainty of scores: intervals, tests between two runs, and means over languages.

Items of one picture are correlated (xGQA has 24 questions per picture), so pictures are resampled and not items: the
bootstrap clustered on images (Efron and Tibshirani 1993; Field and Welsh 2007).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mblip.languages import LANGUAGES

RESAMPLES = 10_000
# For means over languages, where every draw covers the images of all languages.
MACRO_RESAMPLES = 2_000
# Minimal percentage of mC4 for a language to count as low-, mid- or high-resource.
RESOURCE_GROUPS = {"low": 0.0, "mid": 0.1, "high": 1.0}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs on the same items.

    Attributes:
        difference: Mean of the first minus mean of the second.
        interval: 95 % confidence interval of the difference.
        p_value: Two-sided probability of a difference this large if there is none.
    """

    difference: float
    interval: tuple[float, float]
    p_value: float


def bootstrap_interval(
    values: ArrayLike, images: Sequence[Hashable], resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """95 % confidence interval of a mean (percentiles), images drawn with replacement.

    Args:
        values: The score of each item, [items].
        images: The picture of each item; items of one picture are drawn together.
        resamples: Number of draws.
        seed: Seed of the draws.
    """
    return _percentiles(_resampled_means(np.asarray(values, dtype=np.float64), images, resamples, seed))


@dataclass(frozen=True, slots=True)
class Sample:
    """The values of a metric in one language and the picture of each, both [items]."""

    values: ArrayLike
    images: Sequence[Hashable]


def language_groups(languages: Iterable[str]) -> dict[str, list[str]]:
    """The languages behind each mean: ``all``, ``without_english``, and one mean per resource group.

    Args:
        languages: mC4 codes.

    Returns:
        Only the groups that have a language.
    """
    codes = list(languages)
    others = [code for code in codes if code != "en"]
    groups = {"all": codes, "without_english": others}
    groups |= {name: [code for code in others if resource_group(code) == name] for name in RESOURCE_GROUPS}
    return {name: members for name, members in groups.items() if members}


def macro_averages(scores: Mapping[str, float]) -> dict[str, float]:
    """Unweighted means over languages, by :func:`language_groups`.

    Args:
        scores: Scores by mC4 code.
    """
    return {name: float(np.mean([scores[code] for code in codes])) for name, codes in language_groups(scores).items()}


def macro_intervals(
    samples: Mapping[str, Sample], resamples: int = MACRO_RESAMPLES, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % confidence intervals of :func:`macro_averages`.

    A picture of several languages is drawn for all of them at once: its difficulty is common to them, so intervals of
    single languages cannot simply be averaged.

    Args:
        samples: By mC4 code.
        resamples: Number of draws.
        seed: Seed of the draws.
    """
    means = _resampled_by_language(samples, resamples, seed)
    return {name: _percentiles(_macro(means, codes)) for name, codes in language_groups(samples).items()}


def paired_languages(
    first: Mapping[str, Sample], second: Mapping[str, ArrayLike], resamples: int = MACRO_RESAMPLES, seed: int = 0
) -> dict[str, Comparison]:
    """Compare two runs on the same items, in each language and in the means of :func:`language_groups`.

    Every draw uses the same pictures for both runs and all languages.

    Args:
        first: Samples of the first run, by mC4 code.
        second: Values of the second run on the same items, in the same order.
        resamples: Number of draws.
        seed: Seed of the draws.

    Raises:
        ValueError: The runs do not have the same languages, or not the same number of items in one.
    """
    if set(first) != set(second):
        raise ValueError(f"{sorted(first)} against {sorted(second)}")
    differences = {}
    for code, sample in first.items():
        ours, theirs = np.asarray(sample.values, dtype=np.float64), np.asarray(second[code], dtype=np.float64)
        if ours.shape != theirs.shape:
            raise ValueError(f"{code}: {len(ours)} items against {len(theirs)}")
        differences[code] = Sample(ours - theirs, sample.images)
    draws = _resampled_by_language(differences, resamples, seed)
    observed = {code: float(np.mean(np.asarray(sample.values))) for code, sample in differences.items()}
    found = {code: _compare(observed[code], draws[code]) for code in differences}
    for name, codes in language_groups(differences).items():
        found[name] = _compare(float(np.mean([observed[code] for code in codes])), _macro(draws, codes))
    return found


def english_gap(samples: Mapping[str, Sample], resamples: int = MACRO_RESAMPLES, seed: int = 0) -> Comparison:
    """The cross-lingual gap: English minus the mean of the other languages, with shared pictures drawn together.

    Args:
        samples: By mC4 code, with ``en`` and at least one other.
        resamples: Number of draws.
        seed: Seed of the draws.
    """
    draws = _resampled_by_language(samples, resamples, seed)
    others = [code for code in samples if code != "en"]
    means = {code: float(np.mean(np.asarray(sample.values))) for code, sample in samples.items()}
    observed = means["en"] - float(np.mean([means[code] for code in others]))
    return _compare(observed, draws["en"] - _macro(draws, others))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P values of several tests, adjusted to control the family-wise error rate (Holm 1979)."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def resource_group(language: str) -> str:
    """``low`` (under 0.1 % of mC4, or none of it), ``mid`` or ``high`` (from 1 %)."""
    share = LANGUAGES[language].mc4_share if language in LANGUAGES else 0.0
    return [group for group, least in RESOURCE_GROUPS.items() if share >= least][-1]


def _percentiles(draws: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(draws[np.isfinite(draws)], [0.025, 0.975])
    return float(low), float(high)


def _compare(observed: float, draws: NDArray[np.float64]) -> Comparison:
    draws = draws[np.isfinite(draws)]
    # Under the null hypothesis the draws are distributed around 0 as they are around the observed difference.
    extreme = int(np.sum(np.abs(draws - observed) >= abs(observed) - 1e-12))
    return Comparison(observed, _percentiles(draws), (extreme + 1) / (len(draws) + 1))


def _macro(means: Mapping[str, NDArray[np.float64]], codes: Sequence[str]) -> NDArray[np.float64]:
    """The mean over languages in each draw, [resamples].

    A language without any drawn picture is left out; NaN if that is true for every language.
    """
    stacked = np.stack([means[code] for code in codes])
    present = np.isfinite(stacked)
    with np.errstate(invalid="ignore"):
        mean: NDArray[np.float64] = np.where(present, stacked, 0).sum(axis=0) / present.sum(axis=0)
    return mean


def _resampled_by_language(samples: Mapping[str, Sample], resamples: int, seed: int) -> dict[str, NDArray[np.float64]]:
    """The mean of each language over the same resampled images, [resamples]; NaN if none of its own was drawn."""
    numbers: dict[Hashable, int] = {}
    clusters = {}
    for code, sample in samples.items():
        clusters[code] = np.array([numbers.setdefault(image, len(numbers)) for image in sample.images], dtype=np.int64)
        if len(clusters[code]) != len(np.asarray(sample.values)) or not len(clusters[code]):
            raise ValueError(f"{code}: {len(np.asarray(sample.values))} scores with {len(clusters[code])} images")
    images, rng = len(numbers), np.random.default_rng(seed)
    sizes = np.stack([np.bincount(cluster, minlength=images) for cluster in clusters.values()]).astype(np.float64)
    values = [np.asarray(sample.values, dtype=np.float64) for sample in samples.values()]
    sums = np.stack(
        [np.bincount(cluster, value, images) for cluster, value in zip(clusters.values(), values, strict=True)]
    )
    means = np.empty((len(samples), resamples))
    block = max(1, 4_000_000 // images)
    for start in range(0, resamples, block):
        drawn = rng.integers(images, size=(min(block, resamples - start), images))
        times = np.stack([np.bincount(row, minlength=images) for row in drawn]).astype(np.float64)
        with np.errstate(invalid="ignore"):
            means[:, start : start + len(drawn)] = (sums @ times.T) / (sizes @ times.T)
    return dict(zip(samples, means, strict=True))


def _resampled_means(
    values: NDArray[np.float64], images: Sequence[Hashable], resamples: int, seed: int
) -> NDArray[np.float64]:
    """The mean over resampled images, [resamples]."""
    numbers: dict[Hashable, int] = {}
    cluster = np.array([numbers.setdefault(image, len(numbers)) for image in images])
    if len(cluster) != len(values) or not len(cluster):
        raise ValueError(f"{len(values)} scores with {len(cluster)} images")
    sizes = np.bincount(cluster).astype(np.float64)
    sums = np.bincount(cluster, weights=values)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    block = max(1, 4_000_000 // len(sizes))
    for start in range(0, resamples, block):
        drawn = rng.integers(len(sizes), size=(min(block, resamples - start), len(sizes)))
        means[start : start + len(drawn)] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    return means
