"""Allocation: exact counts, stable under other sources, every constraint of the recipe."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mblip.config import AllocationSection
from mblip.errors import InputError
from mblip.languages import LANGUAGES
from mblip.translation import allocate, apportion, codes, plan_counts


def _counts(numbers: np.ndarray) -> dict[str, int]:
    return dict(Counter(codes()[number] for number in numbers.tolist()))


def test_largest_remainder_by_hand() -> None:
    # Quotas 4.7, 3.3, 2.0: the one left over goes to the largest remainder.
    assert apportion(10, {"a": 47, "b": 33, "c": 20}) == {"a": 5, "b": 3, "c": 2}
    assert apportion(2, {"a": 1, "b": 1, "c": 1}) == {"a": 1, "b": 1, "c": 0}
    assert apportion(0, {"a": 1, "b": 2}) == {"a": 0, "b": 0}


def test_floor_lifts_the_small_at_the_cost_of_the_large() -> None:
    assert apportion(100, {"a": 97, "b": 2, "c": 1}, floor=10) == {"a": 80, "b": 10, "c": 10}
    assert apportion(5, {"a": 97, "b": 2, "c": 1}, floor=10) == {"a": 3, "b": 1, "c": 1}


@pytest.mark.parametrize("total", [0, 1, 95, 96, 23_000, 2_273_005])
@pytest.mark.parametrize("section", [
    AllocationSection(),
    AllocationSection(temperature=3.0),
    AllocationSection(floor=40),
    AllocationSection(method="uniform"),
    AllocationSection(english_share=0.4, temperature=2.0, floor=10),
])  # fmt: skip
def test_counts_add_up(total: int, section: AllocationSection) -> None:
    counts = plan_counts(section, "caption", total)
    assert sum(counts.values()) == total
    if section.floor and total >= 96 * section.floor * 2:
        assert len(counts) == 96
        assert min(counts.values()) >= section.floor
    if section.english_share is not None:
        assert counts.get("en", 0) == round(section.english_share * total)


def test_papers_proportions() -> None:
    """The paper's figures: most languages get few of 2.27 M captions, Yoruba about 21, and 19 get none of 23 k."""
    counts = plan_counts(AllocationSection(), "caption", 2_273_005)
    assert counts["en"] / 2_273_005 == pytest.approx(0.438, abs=0.003)
    assert sum(count < 1000 for count in counts.values()) == 52
    assert sum(count < 100 for count in counts.values()) == 19
    assert counts["yo"] == pytest.approx(21, abs=1)


def test_temperature_flattens() -> None:
    smallest = [min(plan_counts(AllocationSection(temperature=t), "vqa", 10**6).values()) for t in (1.5, 2.0, 4.0)]
    assert smallest == sorted(smallest)
    assert smallest[-1] > 10 * smallest[0]


def test_allocation_is_the_plan_and_stable() -> None:
    section = AllocationSection(temperature=2.0)
    alone = allocate(section, "coco", {"caption": 5000}, seed=7)
    with_more = allocate(section, "coco", {"caption": 5000, "vqa": 300}, seed=7)
    assert np.array_equal(alone["caption"], with_more["caption"])
    assert _counts(alone["caption"]) == plan_counts(section, "caption", 5000)
    assert not np.array_equal(alone["caption"], allocate(section, "coco", {"caption": 5000}, seed=8)["caption"])
    assert not np.array_equal(alone["caption"], allocate(section, "vqav2", {"caption": 5000}, seed=7)["caption"])


def test_tasks_of_the_same_rows_get_different_languages() -> None:
    section = AllocationSection(disjoint=(("vqa", "question_generation"),))
    allocation = allocate(section, "vqav2", {"vqa": 20_000, "question_generation": 20_000}, seed=1)
    assert not np.any(allocation["vqa"] == allocation["question_generation"])
    assert (
        _counts(allocation["vqa"]) == _counts(allocation["question_generation"]) == plan_counts(section, "vqa", 20_000)
    )


def test_tasks_apart_of_unequal_length() -> None:
    section = AllocationSection(disjoint=(("vqa", "question_generation"),))
    with pytest.raises(InputError, match="have 3 and 4 examples"):
        allocate(section, "vqav2", {"vqa": 3, "question_generation": 4}, seed=1)


def test_lists_of_languages() -> None:
    section = AllocationSection(
        method="uniform", languages=("en", "de", "sw", "yo"), exclude_languages=("sw",),
        task_languages={"presence": ("de", "sw", "fr"), "count_all": ("en",)},
    )  # fmt: skip
    assert plan_counts(section, "naming", 30) == {"de": 10, "en": 10, "yo": 10}
    assert plan_counts(section, "presence", 30) == {"de": 30}
    assert plan_counts(section, "count_all", 30) == {"en": 30}


@pytest.mark.parametrize(("section", "message"), [
    (AllocationSection(languages=("hr",)), "allocation.languages: unknown language 'hr'"),
    (AllocationSection(exclude_languages=("hr",)), "exclude_languages: unknown language 'hr'"),
    (AllocationSection(task_languages={"vqa": ("quz",)}), "task_languages.vqa: unknown language 'quz'"),
    (AllocationSection(languages=("de",), english_share=0.4), "English is not among the languages"),
    (AllocationSection(languages=("de",), exclude_languages=("de",)), "leaves no language for the task 'vqa'"),
])  # fmt: skip
def test_settings_that_cannot_be(section: AllocationSection, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_counts(section, "vqa", 10)


def test_codes_are_those_of_the_table() -> None:
    assert codes() == tuple(LANGUAGES) and len(codes()) == 96
