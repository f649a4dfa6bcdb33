"""POPE: is there such an object in the picture? Li et al. 2023.

Source: ``evaluate.py`` of RUCAIBox/POPE at 3df3ba1b.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = re.compile(r"\w+")


def says_yes(answer: str) -> bool:
    """Whether POPE takes an answer for a yes: no "No", "no" or "not" in its first sentence, commas aside."""
    words = answer.partition(".")[0].replace(",", "").split(" ")
    return not {"No", "no", "not"}.intersection(words)


def is_clear(answer: str) -> bool:
    """Whether an answer says yes or no at all, in any case; POPE counts one that does not as a yes."""
    return not {"yes", "no", "not"}.isdisjoint(_WORD.findall(answer.lower()))


def pope_scores(answers: Sequence[str], labels: Sequence[bool]) -> dict[str, float]:
    """POPE of a set of answers.

    Args:
        answers: What the model said.
        labels: Whether yes is right.

    Returns:
        ``accuracy`` in percent; ``precision``, ``recall`` and ``f1`` of yes (0 where they are undefined); ``yes_ratio``,
        the share of yes among the ANSWERS; ``unparsed``, the share of answers that say neither yes nor no.
    """
    said = [says_yes(answer) for answer in answers]
    pairs = list(zip(said, labels, strict=True))
    hits, false_alarms, misses = pairs.count((True, True)), pairs.count((True, False)), pairs.count((False, True))
    precision = hits / (hits + false_alarms) if hits + false_alarms else 0.0
    recall = hits / (hits + misses) if hits + misses else 0.0
    right = hits + pairs.count((False, False))
    return {
        "accuracy": 100 * (right / len(pairs)),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "yes_ratio": sum(said) / len(said),
        "unparsed": sum(not is_clear(answer) for answer in answers) / len(answers),
    }
