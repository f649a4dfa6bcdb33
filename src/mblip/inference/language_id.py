"""Identify the language of a question."""

from __future__ import annotations

from functools import lru_cache

from mblip.errors import InputError
from mblip.evaluation.metrics.fidelity import LinguaDetector
from mblip.languages import LANGUAGES
from mblip.processing.prompts import check_text

# Every text has a likeliest language; it is accepted only if the second is this many times less likely.
_AHEAD = 1.2
_WORDS = 2
_SURE = 0.5  # if the script decides, one word is enough


def language_of(question: str) -> str:
    """The mC4 code of a question's language.

    Raises:
        InputError: The question is too short, or another language is as likely; the message names both and the remedy. Or
            it is no text.
    """
    check_text(question)
    ranking = _detector().ranking(question)
    (first, ahead), (second, behind) = ranking[0], ranking[1]
    words = len(question.split())
    if ahead >= _SURE or (words >= _WORDS and ahead >= _AHEAD * behind):
        return first
    likely = f"{LANGUAGES[first].name} or {LANGUAGES[second].name}" if ahead else "none that is known"
    raise InputError(
        f"the language of the question {question!r} is unclear (perhaps {likely}): name the language of the answer"
    )


@lru_cache(maxsize=1)
def _detector() -> LinguaDetector:
    try:
        return LinguaDetector()
    except InputError as error:
        raise InputError(
            "identifying a question's language needs lingua: name the language of the answer, or pip install "
            "'mblip[serve]'"
        ) from error
