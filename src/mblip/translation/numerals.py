"""Find numbers from 1 to 20 written as words, in languages whose words are in CLDR (``numerals.csv``)."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections import Counter
from functools import lru_cache
from importlib import resources

from mblip.languages import LANGUAGES

# Languages without blanks between words, where a numeral may be anywhere in the text.
_JOINED = frozenset({"zh", "ja", "th", "lo", "km", "my"})
# Scripts whose texts may add or omit marks compared with dictionaries.
_LOOSE_MARKS = frozenset({"Arab", "Hebr", "Cyrl", "Grek"})
# Prefixes of a numeral in the same word: articles, prepositions, noun classes.
_BEFORE = {
    "ar": "[وف]?(?:[بكل]?ال|لل|[بكل])?", "iw": "[והבלמשכ]{0,2}", "id": "(?:ber)?", "ms": "(?:ber)?",
    "sw": "(?:wa|vi|mi|ma|ki|m|u|i|ya|za|la)?",
}  # fmt: skip
# Languages with endings of numerals (up to two letters) that CLDR's rules lack; in Korean they are counters.
_ENDED = frozenset({
    "az", "be", "bg", "cs", "eo", "et", "fil", "hu", "hy", "ka", "kk", "ky", "lt", "lv", "mk", "sk", "sl", "sr", "ta", "tr",
    "uk",
})  # fmt: skip
_COUNTERS = "(?:(?:명|마리|개|대|사람|살|시|번|장|권|번째)[^ ]{0,2})?"
# Endings of the dual, where the noun alone means "two".
_DUAL = {"ar": "[^ ]{2,}(?:ان|ين)", "iw": "[^ ]{2,}יים", "mt": "[^ ]{2,}[ea]jn"}
_HAN = "〇零一二三四五六七八九十百千万萬億亿壱弐参拾壹贰叁肆捌"


def spoken_numbers(text: str, language: str) -> Counter[int]:
    """The numbers from 1 to 20 that a text writes as words, ordinals included, with counts.

    A number within another ("sixteen" within "one hundred and sixteen") counts; the longest words win. The result is
    empty if CLDR has no spell-out rules for the language.

    Args:
        text: A text in any language.
        language: mC4 code of its language.
    """
    pattern, numbers = _pattern(language)
    if pattern is None:
        return Counter()
    plain = _plain(text, language)
    found = Counter(numbers[match.group("word")] for match in pattern.finditer(plain))
    if language in _DUAL:
        found[2] += len(re.findall(f" {_DUAL[language]}(?= )", plain))
    return +found


@lru_cache(maxsize=len(LANGUAGES))
def _pattern(language: str) -> tuple[re.Pattern[str] | None, dict[str, int]]:
    numbers: dict[str, int] = {}
    for number, forms in _table().get(language, {}).items():
        for form in forms:
            numbers.setdefault(_plain(form, language).strip(), number)
    if not numbers:
        return None, {}
    longest = sorted(numbers, key=len, reverse=True)
    if language in _JOINED:
        words = "|".join(f"(?<![{_HAN}]){word}(?![{_HAN}])" if word[-1] in _HAN else word for word in longest)
        return re.compile(f"(?P<word>{words})"), numbers
    words = "|".join(map(re.escape, longest))
    after = "[^ ]{0,2}" if language in _ENDED else _COUNTERS if language == "ko" else ""
    return re.compile(f" {_BEFORE.get(language, '')}(?P<word>{words}){after}(?= )"), numbers


@lru_cache(maxsize=1)
def _table() -> dict[str, dict[int, list[str]]]:
    table: dict[str, dict[int, list[str]]] = {}
    with resources.files("mblip.translation").joinpath("numerals.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            table.setdefault(row["language"], {})[int(row["number"])] = row["words"].split("|")
    return table


def _plain(text: str, language: str) -> str:
    """Lower-case letters, marks and digits with single blanks between and around words; no blanks in joined scripts."""
    text = unicodedata.normalize("NFKC", text).casefold()
    if LANGUAGES[language].script in _LOOSE_MARKS or language == "fil":
        text = unicodedata.normalize(
            "NFC", "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
        )
    text = "".join(c if unicodedata.category(c)[0] in "LMN" else "" if c in "\u200b\u200c\u200d" else " " for c in text)
    return "".join(text.split()) if language in _JOINED else f" {' '.join(text.split())} "
