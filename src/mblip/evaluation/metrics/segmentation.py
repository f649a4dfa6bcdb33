"""Segment languages that are written without blanks, before the PTB tokeniser, which splits only at blanks.

The paper segments Chinese, Japanese and Thai with spaCy's tokenisers, in hypotheses and references alike (Chinese: one
token per character). Scores under different schemes cannot be compared, so every score names its scheme.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from importlib import metadata

from mblip.errors import InputError, nearest

_HALVES = re.compile("[\ud800-\udfff]")
SEGMENTERS = ("none", "characters", "spacy")
_SPACY_CLASSES = {"ja": ("ja", "Japanese"), "th": ("th", "Thai"), "zh": ("zh", "Chinese")}
_SPACY_PARTS = {"ja": ("spacy", "sudachipy", "sudachidict-core"), "th": ("spacy", "pythainlp"), "zh": ("spacy",)}


def default_segmenter(language: str) -> str:
    """The paper's segmenter: ``spacy`` for Japanese, Thai and Chinese, ``none`` for other languages."""
    return "spacy" if language in _SPACY_CLASSES else "none"


def segmenter(name: str, language: str) -> Callable[[str], str]:
    """A function that puts blanks between words.

    Args:
        name: ``none`` changes nothing, ``characters`` puts a blank between any two characters, ``spacy`` is spaCy's
            tokeniser for Japanese, Thai or Chinese.
        language: mC4 code.

    Raises:
        InputError: The segmenter is unknown, does not support the language, or its library is not installed.
    """
    if name == "none":
        return lambda text: text
    if name == "characters":
        return " ".join
    if name != "spacy":
        raise InputError(f"unknown segmenter {name!r}{nearest(name, SEGMENTERS)}")
    if language not in _SPACY_CLASSES:
        raise InputError(f"segmenter 'spacy' supports {', '.join(_SPACY_CLASSES)}, not {language!r}; choose 'none'")
    return _spacy(language)


def segmenter_scheme(name: str, language: str) -> str:
    """The scheme with the versions that it depends on, for fingerprints."""
    if name != "spacy":
        return name
    return " ".join(["spacy", *(f"{part}-{metadata.version(part)}" for part in _SPACY_PARTS[language])])


def without_halves(text: str) -> str:
    """Replace lone surrogates by blanks: UTF-8 cannot encode them, and PTB does not count them as tokens."""
    return _HALVES.sub(" ", text)


@lru_cache(maxsize=3)
def _spacy(language: str) -> Callable[[str], str]:
    module, class_name = _SPACY_CLASSES[language]
    try:
        import importlib

        nlp = getattr(importlib.import_module(f"spacy.lang.{module}"), class_name)()
    except ImportError as error:
        raise InputError(
            f"segmenter 'spacy' for {language!r} lacks a library ({error}); pip install 'mblip[eval]'"
        ) from error
    return lambda text: " ".join(word.text for word in nlp.make_doc(without_halves(text)))
