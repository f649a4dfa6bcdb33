"""How sure a score is: intervals, tests between two runs, and means over languages.

Items of one picture rise and fall together (xGQA asks 24 questions a picture), so that whole pictures are drawn anew, not
items: the bootstrap clustered on images (Efron and Tibshirani 1993; Field and Welsh 2007).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mblip.languages import LANGUAGES

RESAMPLES = 10_000
# Percent of mC4 that a language must have to count as low-, mid- or high-resource.
RESOURCE_GROUPS = {"low": 0.0, "mid": 0.1, "high": 1.0}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs on the same items.

    Attributes:
        difference: Mean of the first minus mean of the second.
        interval: 95 % confidence interval of the difference.
        p_value: Two-sided: how often a difference this large appears where there is none.
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
        resamples: How many draws.
        seed: Of the draws.
    """
    means = _resampled_means(np.asarray(values, dtype=np.float64), images, resamples, seed)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def paired_bootstrap(
    first: ArrayLike, second: ArrayLike, images: Sequence[Hashable], resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Compare two runs on the same items; every draw takes the same pictures from both.

    Args:
        first: Scores of the first run, [items].
        second: Scores of the second, in the same order.
        images: The picture of each item.
        resamples: How many draws.
        seed: Of the draws.

    Raises:
        ValueError: The runs do not have the same number of items.
    """
    ours, theirs = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"{len(ours)} items against {len(theirs)}")
    difference = ours - theirs
    observed = float(difference.mean())
    draws = _resampled_means(difference, images, resamples, seed)
    low, high = np.quantile(draws, [0.025, 0.975])
    # Under the null hypothesis the draws lie around 0 as they do around the observed difference.
    extreme = int(np.sum(np.abs(draws - observed) >= abs(observed) - 1e-12))
    return Comparison(observed, (float(low), float(high)), (extreme + 1) / (resamples + 1))


def macro_averages(scores: Mapping[str, float]) -> dict[str, float]:
    """Means over languages, each weighing the same: ``all``, ``without_english`` and by resource group.

    Args:
        scores: By mC4 code.

    Returns:
        Only what there are languages for.
    """
    members = {
        "all": list(scores),
        "without_english": [code for code in scores if code != "en"],
        **{
            group: [code for code in scores if code != "en" and resource_group(code) == group]
            for group in RESOURCE_GROUPS
        },
    }
    return {name: float(np.mean([scores[code] for code in codes])) for name, codes in members.items() if codes}


def resource_group(language: str) -> str:
    """``low`` (under 0.1 % of mC4, or none of it), ``mid`` or ``high`` (from 1 %)."""
    share = LANGUAGES[language].mc4_share if language in LANGUAGES else 0.0
    return [group for group, least in RESOURCE_GROUPS.items() if share >= least][-1]


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
