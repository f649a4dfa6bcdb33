"""Allocate every English example to one language (paper, section 3.2).

The counts follow the shares by the largest-remainder rule, so they add up exactly. Examples are assigned by a shuffle
whose seed depends only on the source and the task, so adding a source changes no other source.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from mblip.config import AllocationSection
from mblip.errors import InputError, counted
from mblip.languages import LANGUAGES, UNDETERMINED, name_code

Allocation = dict[str, NDArray[np.uint16]]
"""By task: the index in :func:`codes` of the language of each example."""


def codes() -> tuple[str, ...]:
    """The code for each index in an allocation: those of the table, followed by those of added languages."""
    return tuple(LANGUAGES)


def plan_counts(section: AllocationSection, task: str, total: int) -> dict[str, int]:
    """Number of examples per language, of ``total`` examples of a task; languages without examples are left out.

    Raises:
        InputError: A language is unknown, or the settings leave no language.
    """
    shares = language_shares(section, task)
    counts: dict[str, int] = {}
    if section.english_share is not None and "en" in shares and len(shares) > 1:
        counts["en"] = round(section.english_share * total)
        del shares["en"]
    counts |= apportion(total - sum(counts.values()), shares, section.floor)
    return {code: counts[code] for code in codes() if counts.get(code)}


def language_shares(section: AllocationSection, task: str) -> dict[str, float]:
    """The weight of each language for a task, with English by its natural share."""
    check_languages(section)
    allowed = allowed_languages(section) & set(section.task_languages.get(task, codes()))
    found = [code for code in codes() if code in allowed]
    if not found:
        raise InputError(f"the allocation leaves no language for the task {task!r}; check its lists of languages")
    if section.method == "uniform":
        return dict.fromkeys(found, 1.0)
    return {code: float(LANGUAGES[code].mc4_share ** (1 / section.temperature)) for code in found}


def allowed_languages(section: AllocationSection) -> frozenset[str]:
    """The codes of all languages that a mix may have; without a list, also the unknown language."""
    return frozenset(section.languages or (*codes(), UNDETERMINED)) - set(section.exclude_languages)


def check_languages(section: AllocationSection) -> None:
    """Check the codes of an allocation.

    Raises:
        InputError: A code is unknown, or English has a share but is not among the languages.
    """
    lists = {"languages": section.languages, "exclude_languages": section.exclude_languages}
    lists |= {f"task_languages.{task}": codes for task, codes in section.task_languages.items()}
    for field, named in lists.items():
        for code in named:
            if code not in LANGUAGES:
                raise InputError(
                    f"allocation.{field}: unknown language {code!r}; mixes do not hold {name_code(code)}: add it with "
                    "more_languages"
                )
    if section.english_share and "en" not in allowed_languages(section):
        raise InputError("allocation.english_share is set, but English is not among the languages")


def apportion(total: int, shares: Mapping[str, float], floor: int = 0) -> dict[str, int]:
    """Split ``total`` by shares with the largest-remainder rule, with no part below ``floor``.

    If ``total`` is too small for the floor, all parts are as equal as possible. Ties of remainders go to the first
    part.
    """
    floor = min(floor, total // len(shares))
    raised: dict[str, int] = {}
    while True:
        open_parts = {name: share for name, share in shares.items() if name not in raised}
        counts = _largest_remainder(total - sum(raised.values()), open_parts)
        low = [name for name, count in counts.items() if count < floor]
        if not low:
            return {name: raised.get(name, counts.get(name, 0)) for name in shares}
        raised |= dict.fromkeys(low, floor)


def allocate(section: AllocationSection, source: str, tasks: Mapping[str, int], seed: int) -> Allocation:
    """Assign a language to every example of a source.

    Args:
        section: The settings of the allocation.
        source: Name of the source, part of the shuffle's seed.
        tasks: Number of examples by task.
        seed: The recipe's seed.

    Raises:
        InputError: As in :func:`plan_counts`; or tasks that must be ``disjoint`` have different lengths.
    """
    allocation, places = {}, {code: place for place, code in enumerate(codes())}
    for task, total in tasks.items():
        counts = plan_counts(section, task, total)
        numbers = np.array([places[code] for code in counts], np.uint16)
        ordered = np.repeat(numbers, list(counts.values()))
        allocation[task] = _rng(seed, source, task).permutation(ordered)
    for first, second in section.disjoint:
        if first in tasks and second in tasks:
            if tasks[first] != tasks[second]:
                raise InputError(
                    f"source {source!r}: {first!r} and {second!r} cannot get different languages, because "
                    f"they have {tasks[first]} and {counted(tasks[second], 'example')}"
                )
            _keep_apart(allocation[first], allocation[second], _rng(seed, source, f"{first} {second}"))
    return allocation


def _largest_remainder(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    # Exact arithmetic, because the sum must not depend on rounding.
    exact = {name: Fraction(share) for name, share in shares.items()}
    whole = sum(exact.values())
    quotas = {name: total * share / whole for name, share in exact.items()}
    counts = {name: int(quota) for name, quota in quotas.items()}
    rest = total - sum(counts.values())
    by_remainder = sorted(shares, key=lambda name: quotas[name] - counts[name], reverse=True)
    for name in by_remainder[:rest]:
        counts[name] += 1
    return counts


def _keep_apart(first: NDArray[np.uint16], second: NDArray[np.uint16], rng: np.random.Generator) -> None:
    """Swap entries of ``second`` until no position has the same language in both, as far as possible."""
    for _ in range(100):
        same = np.flatnonzero(first == second)
        if not len(same):
            return
        for place, other in zip(same, rng.integers(len(second), size=len(same)), strict=True):
            if first[place] == second[place] and second[other] != first[place] and second[place] != first[other]:
                second[place], second[other] = second[other], second[place]


def _rng(seed: int, source: str, task: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(f"{source}\0{task}".encode())])
