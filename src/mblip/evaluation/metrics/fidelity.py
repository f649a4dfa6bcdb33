"""Language fidelity: the share of answers that are in the requested language.

It corresponds to the share of captions in the right language in Centurio (arXiv 2501.05122) and Pangea (arXiv
2410.16153). A detector assigns texts in an unknown language to a neighbour, and cannot separate some neighbours. The
fidelity of such a language is None; the language is listed, and left out of means.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from mblip.detecting import lingua_languages
from mblip.errors import InputError
from mblip.evaluation.metrics.segmentation import without_halves

# Languages that cannot be separated on short texts: lingua took 188 of 300 Indonesian captions for Malay. A detector
# that knows only one language of a group has no such problem (300 of 300 right).
_ALIKE = (frozenset({"id", "ms"}),)


class Detector(Protocol):
    """Identifies languages."""

    name: str
    languages: frozenset[str]

    def detect(self, text: str) -> str | None:
        """The mC4 code of one of ``languages``, or None if the text is unclear."""
        ...


class LinguaDetector:
    """lingua (Apache-2.0), whose models are in its wheel.

    Args:
        languages: mC4 codes to choose from; by default all that lingua and mC4 share. Fewer languages are easier to
            separate, but a text in any other language is then assigned to one of these.

    Raises:
        InputError: lingua is not installed.
    """

    def __init__(self, languages: Iterable[str] | None = None) -> None:
        try:
            import lingua
        except ImportError as error:
            raise InputError("language fidelity needs lingua; pip install 'mblip[eval]'") from error
        by_code = lingua_languages()
        chosen = sorted(set(by_code) if languages is None else set(languages) & set(by_code))
        if len(chosen) < 2:
            raise InputError(
                f"language fidelity needs two or more languages that lingua knows, not {sorted(languages or ())}"
            )
        from importlib.metadata import version

        self.name = f"lingua-{version('lingua-language-detector')}"
        self.languages = frozenset(chosen)
        self._code = {by_code[code]: code for code in chosen}
        self._detector = lingua.LanguageDetectorBuilder.from_languages(*(by_code[code] for code in chosen)).build()

    def detect(self, text: str) -> str | None:
        """See :class:`Detector`."""
        found = self._detector.detect_language_of(without_halves(text))
        return None if found is None else self._code[found]

    def ranking(self, text: str) -> list[tuple[str, float]]:
        """Every language with its confidence (0 to 1), the likeliest first."""
        return [
            (self._code[one.language], one.value) for one in self._detector.compute_language_confidence_values(text)
        ]


def language_fidelity(answers: Sequence[str], language: str, detector: Detector) -> float | None:
    """The share of answers that are in a language; an empty answer is in none.

    Args:
        answers: The model's answers.
        language: mC4 code of the requested language.
        detector: The language detector.

    Returns:
        A fraction, or None if the detector does not know the language or cannot separate it from a neighbour.
    """
    if not answers or not is_separable(language, detector):
        return None
    return sum(detector.detect(answer) == language for answer in answers) / len(answers)


def is_separable(language: str, detector: Detector) -> bool:
    """Whether a detector knows a language and can separate it from its neighbours."""
    if language not in detector.languages:
        return False
    return not any(language in group and len(group & detector.languages) > 1 for group in _ALIKE)
