"""Texts in the shares and lengths of the paper's mix, made up.

The mean and spread of the lengths in tokens were measured with a Unigram vocabulary of 24,000 on real rows (COCO and
xFlickrCo captions, xGQA questions and answers, XVNLI sentences, quoted LLaVA turns). One text in 220 is a long
description; it alone decides the peak of the memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# task: share of the paper's mix in thousands of examples; prompt and answer tokens, mean and spread
LENGTHS = {
    "caption": (2687, (7, 2), (13, 5)),
    "vqa": (444, (17, 4), (2.3, 0.5)),
    "question_generation": (444, (14, 3), (11, 4)),
    "matching": (600, (25, 5), (2, 0)),
    "conversation": (219, (18, 4), (13, 5)),
    "reasoning": (66, (22, 5), (18, 8)),
    "naming": (296, (8, 1), (3, 1)),
    "presence": (296, (14, 2), (2, 0)),
    "description": (23, (12, 2), (117, 15)),
}
LONGEST = 128
END = 1


@dataclass(frozen=True)
class Example:
    """A text about a picture, in token ids with the end token."""

    picture: int
    prompt: list[int]
    answer: list[int]


def examples(count: int, per_image: int, step: int, descriptions: float | None = None) -> list[Example]:
    """The texts of a step, so many a picture; the texts are the same for any number.

    One place in so many is each task's: a batch has the shares of the mix but for rounding, several have them exactly.
    ``descriptions`` replaces the share of long descriptions.
    """
    rng = np.random.default_rng(step)
    parts = np.array([share for share, _, _ in LENGTHS.values()], float)
    if descriptions is not None:  # which stand last
        parts[-1] = parts[:-1].sum() * descriptions / (1 - descriptions)
    shares = np.cumsum(parts)
    places = (np.arange(count) + (0.6 + 0.618 * step) % 1) / count
    tasks = rng.permutation(np.searchsorted(shares / shares[-1], places))

    def ids(mean: float, spread: float) -> list[int]:
        length = int(np.clip(round(rng.normal(mean, spread)), 1, LONGEST - 1))
        return [int(i) for i in rng.integers(10, 20_000, length)]

    rows = []
    for number, task in enumerate(tasks):
        _, prompt, answer = list(LENGTHS.values())[task]
        rows.append(Example(number // per_image, [*ids(*prompt), END], [*ids(*answer), END]))
    return rows


def longest(count: int, per_image: int = 2) -> list[Example]:
    """Texts of the greatest lengths that a recipe allows, so many a picture."""
    return [Example(number // per_image, [5] * LONGEST, [5] * LONGEST) for number in range(count)]
