"""Telling the language of a text with lingua (Apache-2.0), whose models are inside its wheel, so that it works offline."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from mblip.languages import LANGUAGES

# The least distance of the likeliest language from the next one, below which the language counts as unknown.
_APART = 0.1
_OTHER_CODES = {"no": "nb", "fil": "tl"}  # lingua has Bokmål, and Tagalog under its own name


def has_detector() -> bool:
    """Whether lingua is installed."""
    return find_spec("lingua") is not None


@lru_cache(maxsize=1)
def lingua_languages() -> dict[str, Any]:
    """Languages of lingua by mC4 code, if both have them."""
    import lingua

    by_iso = {language.iso_code_639_1.name.lower(): language for language in lingua.Language.all()}
    codes = {code: _OTHER_CODES.get(code, language.bcp47) for code, language in LANGUAGES.items()}
    return {code: by_iso[iso] for code, iso in codes.items() if iso in by_iso}


def detect_languages(texts: Sequence[str]) -> list[str]:
    """Detect the mC4 code of each text's language, empty if it is unclear; for very many texts.

    lingua's fast models (trigrams only) run on all cores. Languages that mC4 lacks are not considered.
    """
    detector, codes = _fast_detector()
    found = detector.detect_languages_in_parallel_of([text.encode("utf-8", "replace").decode() for text in texts])
    return ["" if language is None else codes[language] for language in found]


@lru_cache(maxsize=1)
def _fast_detector() -> tuple[Any, dict[Any, str]]:
    from lingua import LanguageDetectorBuilder

    known = lingua_languages()
    builder = LanguageDetectorBuilder.from_languages(*known.values()).with_low_accuracy_mode()
    return builder.with_minimum_relative_distance(_APART).build(), {found: code for code, found in known.items()}
