from __future__ import annotations

import pytest

from mblip.mixture.inspecting import Counts, count_only

COUNTS: Counts = {"coco": {"caption": {"en": 3, "sw": 2, "de": 1}, "vqa": {"en": 5}}, "web": {"caption": {"sw": 7}}}


@pytest.mark.parametrize(
    ("languages", "task", "expected"),
    [
        ((), "", COUNTS),
        (("sw",), "", {"coco": {"caption": {"sw": 2}}, "web": {"caption": {"sw": 7}}}),
        (("en", "de"), "", {"coco": {"caption": {"en": 3, "de": 1}, "vqa": {"en": 5}}}),
        (("en",), "vqa", {"coco": {"vqa": {"en": 5}}}),
        ((), "caption", {"coco": {"caption": {"en": 3, "sw": 2, "de": 1}}, "web": {"caption": {"sw": 7}}}),
        (("ja",), "", {}),
    ],
)
def test_counts_of_the_languages_and_the_task_that_are_named(
    languages: tuple[str, ...], task: str, expected: Counts
) -> None:
    assert count_only(COUNTS, languages, task) == expected
