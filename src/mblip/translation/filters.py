"""Filters for translations: pure functions of the English text and its translation, which return the reason."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from mblip.config import FilterSection
from mblip.detecting import lingua_languages
from mblip.errors import InputError
from mblip.languages import LANGUAGES, Profile
from mblip.translation.numerals import spoken_numbers

# Names of the table's scripts (ISO 15924) in Unicode's character names; Japanese and Chinese use several.
_SCRIPTS: dict[str, tuple[str, ...]] = {
    "Arab": ("ARABIC",), "Armn": ("ARMENIAN",), "Beng": ("BENGALI",), "Cyrl": ("CYRILLIC",), "Deva": ("DEVANAGARI",),
    "Ethi": ("ETHIOPIC",), "Geor": ("GEORGIAN",), "Grek": ("GREEK",), "Gujr": ("GUJARATI",), "Guru": ("GURMUKHI",),
    "Hang": ("HANGUL",), "Hans": ("CJK",), "Hant": ("CJK",), "Hebr": ("HEBREW",),
    "Jpan": ("CJK", "HIRAGANA", "KATAKANA"),
    "Khmr": ("KHMER",), "Knda": ("KANNADA",), "Kore": ("HANGUL", "CJK"), "Laoo": ("LAO",), "Latn": ("LATIN",),
    "Mlym": ("MALAYALAM",), "Mymr": ("MYANMAR",), "Sinh": ("SINHALA",), "Taml": ("TAMIL",), "Telu": ("TELUGU",),
    "Thai": ("THAI",),
}  # fmt: skip
# Scripts that need fewer characters than English, with the factor.
_DENSE = {"Hans": 3.0, "Hant": 3.0, "Jpan": 2.0, "Kore": 2.0, "Hang": 2.0}

_KEPT = re.compile(r"\{\w*\}|<[^<>\s]+>|https?://\S+")
_NUMBER = re.compile(r"\d+")
# Thousands with a separator between them, lakhs too: 1,200 and 1.200 and 1 200 and 1,20,000.
_GROUPED = re.compile(r"(?<!\d)(?<!\d[.,])\d{1,3}(?:[,.٬،'’\u00a0\u202f ]\d{2,3})*[,.٬،'’\u00a0\u202f ]\d{3}(?!\d)")
_LOOP = re.compile(r"(?P<unit>\S(?:.{0,60}?\S)??)(?:[\s,،、;؛.。]*(?P=unit))+", re.DOTALL)


# Two characters that are a word, in scripts without blanks between words: Han, kana, Hangul, Thai, Lao, Khmer, Myanmar.
_JOINED_WORD = re.compile(
    "[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\u0e01-\u0e5b\u0e81-\u0edf\u1000-\u109f\u1780-\u17d3]{2}"
)
_SENTENCE_END = re.compile(r"[.!?。！？।॥؟۔።…\n]+")
_BROKEN = frozenset({"Cc", "Co", "Cs"})


def rejection(
    section: FilterSection, source: str, translation: str, language: str, profile: Profile = "correct"
) -> str:
    """Why a translation is not used, such as ``wrong script``; empty if it passes.

    Args:
        section: The thresholds.
        source: The English text.
        translation: Its translation.
        language: mC4 code of the language it should be in.
        profile: ``original`` expects the scripts that the original mBLIP translated into.
    """
    if not translation.strip():
        return "empty"
    if section.characters and broken_characters(translation) - broken_characters(source):
        return "broken characters"
    words = len(source.split())
    if section.copied_words and words >= section.copied_words and _plain(source) == _plain(translation):
        return "copied source"
    script = LANGUAGES[language].in_profile(profile).script
    if section.script_share and script_share(translation, script) < section.script_share:
        return "wrong script"
    if section.length_ratio and not length_fits(source, translation, script, section.length_ratio):
        return "length ratio"
    if section.characters and has_letters(source) and not has_letters(translation):
        return "no letters"
    if section.repeats and (
        longest_loop(translation) >= max(section.repeats, longest_loop(source) + 1)
        or (says_twice(translation) and not says_twice(source, short=True))
    ):
        return "repetition"
    if section.numbers and not keeps_numbers(source, translation, language):
        return "lost number or placeholder"
    if section.language_words and words >= section.language_words:
        confidence = language_confidence(translation, language)
        if confidence is not None and confidence < section.language_confidence:
            return "wrong language"
    return ""


def script_share(text: str, script: str) -> float:
    """The share of a text's letters that belong to a script; 1 for a text without letters."""
    names = _SCRIPTS[script]
    letters = [_script(character) for character in text if character.isalpha()]
    return sum(name in names for name in letters) / len(letters) if letters else 1.0


def length_fits(source: str, translation: str, script: str, ratio: float) -> bool:
    """Whether a translation has at most ``ratio`` times the characters of its source, and at least 1 / ``ratio``.

    Ten characters are added to both, so that one word may become an article and a noun. The characters of scripts such
    as Chinese, which need fewer, are converted to the equivalent number of Latin letters.
    """
    length = len(translation) * _DENSE.get(script, 1.0)
    return (length + 10) <= ratio * (len(source) + 10) and (len(source) + 10) <= ratio * (length + 10)


def longest_loop(text: str) -> int:
    """The number of times in a row that the most repeated phrase occurs in a text; 1 if nothing repeats.

    Case is ignored. A unit shorter than three characters counts from 8 repetitions on, so "aaah" or "haha" is not a
    loop; in scripts without blanks, two characters are a word and count.
    """
    most = 1
    for match in _LOOP.finditer(text.lower()):
        unit = match.group("unit")
        times = len(re.findall(re.escape(unit), match.group()))
        if len(unit) >= 3 or times >= 8 or (len(unit) == 2 and _JOINED_WORD.fullmatch(unit)):
            most = max(most, times)
    return most


def says_twice(text: str, *, short: bool = False) -> bool:
    """Whether a sentence, or a phrase of at least four words, occurs twice in a row; a sentence also later.

    In scripts without blanks, eight characters count as four words.

    Args:
        text: A text in any language.
        short: Whether short sentences and phrases of two words count too. This is meant for a source, because its
            translation may repeat what it repeats.
    """
    text = text.casefold()
    sentences = Counter(_plain(sentence) for sentence in _SENTENCE_END.split(text))
    if any(count > 1 and sentence and (short or _is_phrase(sentence)) for sentence, count in sentences.items()):
        return True
    words = re.findall(r"\w+", text)
    joined = "".join(words)
    if _JOINED_WORD.search(joined):
        return _doubled(joined, 8, 120)
    return _doubled(words, 2 if short else 4, 60)


def _is_phrase(sentence: str) -> bool:
    return len(sentence) >= (6 if _JOINED_WORD.search(sentence) else 12)


def _doubled(units: Sequence[str], least: int, most: int) -> bool:
    """Whether ``least`` to ``most`` units occur twice in a row: each unit of a period equals that of the next."""
    for period in range(least, min(most, len(units) // 2) + 1):
        run = 0
        for place in range(len(units) - period):
            run = run + 1 if units[place] == units[place + period] else 0
            if run == period:
                return True
    return False


def has_letters(text: str) -> bool:
    """Whether a text has a letter of any script."""
    return any(character.isalpha() for character in text)


def broken_characters(text: str) -> set[str]:
    """Control and private-use characters, and replacement characters (U+FFFD, U+2047)."""
    return {
        character
        for character in text
        if character in "\ufffd\u2047" or (unicodedata.category(character) in _BROKEN and character not in "\t\n\r")
    }


def keeps_numbers(source: str, translation: str, language: str = "") -> bool:
    """Whether a translation keeps all numbers, ``{fields}``, ``<tags>`` and addresses of the source.

    Digits count in any script and with any grouping of thousands. A number up to 20 may be a word, cardinal or ordinal,
    if CLDR knows the words of the language; in languages with a dual, the noun may express "2".

    Args:
        source: The English text.
        translation: Its translation.
        language: mC4 code of its language; without it, only digits count.
    """
    if Counter(_KEPT.findall(source)) - Counter(_KEPT.findall(translation)):
        return False
    # Either reading is accepted: "1.200" is a grouped number in German, and a decimal in English.
    missing = min((_numbers(read(source)) - _numbers(read(translation)) for read in (_ungroup, str)), key=len)
    if not missing:
        return True
    if not language or any(len(number) > 2 for number in missing):
        return False
    wanted = Counter({int(number): count for number, count in missing.items()})
    return len(wanted) == len(missing) and not wanted - spoken_numbers(translation, language)


def language_confidence(text: str, language: str) -> float | None:
    """Confidence of lingua that a text is in a language, from 0 to 1; None if lingua does not know the language.

    Raises:
        InputError: lingua is not installed.
    """
    detector, known = _detector()
    if language not in known:
        return None
    return float(detector.compute_language_confidence(text, known[language]))


@lru_cache(maxsize=1)
def _detector() -> tuple[Any, dict[str, Any]]:
    try:
        from lingua import LanguageDetectorBuilder
    except ImportError as error:
        raise InputError("filters.language_words needs lingua; pip install 'mblip[translate]'") from error
    return LanguageDetectorBuilder.from_all_languages().with_low_accuracy_mode().build(), lingua_languages()


@lru_cache(maxsize=1 << 16)
def _script(character: str) -> str:
    return re.split("[ -]", unicodedata.name(character, ""), maxsplit=1)[0]


def _numbers(text: str) -> Counter[str]:
    # Decimal separators differ between languages; the digits do not.
    return Counter("".join(str(unicodedata.digit(digit)) for digit in number) for number in _NUMBER.findall(text))


def _ungroup(text: str) -> str:
    return _GROUPED.sub(lambda match: re.sub(r"\D", "", match.group()), text)


def _plain(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())
