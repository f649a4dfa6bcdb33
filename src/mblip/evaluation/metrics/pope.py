"""POPE: is there such an object in the picture? Li et al. 2023.

Source: ``evaluate.py`` of RUCAIBox/POPE at 3df3ba1b.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Words that mean yes or no in plain English; the first one in an answer decides how a reader understands it.
_WORD = re.compile(
    r"\b(?:(yes|yeah|yep|yup|true)|no|not|nope|none|nothing|never|neither|false|cannot|\w+n['’]t)\b", re.IGNORECASE
)
_EITHER = re.compile(r"\byes\s*(?:/|or|and)\s*no\b", re.IGNORECASE)


def says_yes(answer: str) -> bool:
    """Whether POPE counts an answer as yes: no "No", "no" or "not" in its first sentence, ignoring commas."""
    words = answer.partition(".")[0].replace(",", "").split(" ")
    return not {"No", "no", "not"}.intersection(words)


def plainly(answer: str) -> bool | None:
    """A reader's understanding of an answer: yes or no by the first such word, in any case; None without one."""
    found = _WORD.search(answer)
    return None if found is None or _EITHER.search(answer) else found[1] is not None


def is_clear(answer: str) -> bool:
    """Whether POPE understands an answer as a reader does.

    POPE counts answers that say neither (a caption, "maybe") as yes. It inverts "NO", "**No**", "No!" and "it isn't",
    which it counts as yes, and "Yes, no doubt", which it counts as no.
    """
    return plainly(answer) is says_yes(answer)


def pope_scores(answers: Sequence[str], labels: Sequence[bool]) -> dict[str, float]:
    """POPE of a set of answers.

    Args:
        answers: The model's answers.
        labels: Whether yes is right.

    Returns:
        ``accuracy`` in percent; ``precision``, ``recall`` and ``f1`` of yes (0 if they are undefined); ``yes_ratio``,
        the share of yes among the answers; ``unparsed``, the share of answers that say neither yes nor no, or that this
        reading inverts (:func:`is_clear`).
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
