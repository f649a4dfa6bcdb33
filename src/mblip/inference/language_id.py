"""The language that a question is asked in."""

from __future__ import annotations

from functools import lru_cache

from mblip.errors import InputError
from mblip.evaluation.metrics.fidelity import LinguaDetector
from mblip.languages import LANGUAGES

# A short text has a likeliest language always; it is told only where the next one is clearly behind.
_AHEAD = 1.2
_WORDS = 2
_SURE = 0.5  # where the script decides, a word is enough


def language_of(question: str) -> str:
    """The mC4 code of a question's language.

    Raises:
        InputError: Too short, or as likely in another language; names both and the remedy.
    """
    ranking = _detector().ranking(question)
    (first, ahead), (second, behind) = ranking[0], ranking[1]
    words = len(question.split())
    if ahead >= _SURE or (words >= _WORDS and ahead >= _AHEAD * behind):
        return first
    likely = f"{LANGUAGES[first].name} or {LANGUAGES[second].name}" if ahead else "none that is known"
    raise InputError(
        f"the language of the question {question!r} cannot be told (perhaps {likely}): name the language of the answer"
    )


@lru_cache(maxsize=1)
def _detector() -> LinguaDetector:
    try:
        return LinguaDetector()
    except InputError as error:
        raise InputError(
            "telling a question's language needs lingua: name the language of the answer, or pip install 'mblip[serve]'"
        ) from error
