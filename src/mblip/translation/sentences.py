"""Split paragraphs into sentences, which translation models need, and join the translations again."""

from __future__ import annotations

import re

# English abbreviations after which a full stop ends no sentence (lower case, without the last stop).
_ABBREVIATIONS = frozenset({
    "mr", "mrs", "ms", "dr", "prof", "st", "sr", "jr", "rev", "gen", "col", "capt", "lt", "sgt", "rep", "sen", "gov",
    "pres", "nos", "vs", "e.g", "i.e", "cf", "approx", "dept", "fig", "inc", "ltd", "co", "corp", "ave", "blvd", "rd",
    "mt", "ft", "jan", "feb", "apr", "aug", "sept", "oct", "nov", "dec", "u.s", "u.k",
})  # fmt: skip
# Abbreviations after which a full stop ends no sentence if a number follows, as in "No. 5".
_BEFORE_NUMBERS = frozenset(
    {"no", "nr", "num", "vol", "ch", "chap", "sec", "art", "p", "pp", "pg", "para", "pt", "ver", "v", "ca", "c", "op"}
)
# The mark of a list item, which belongs to the text after it.
_ITEM = re.compile(r"[(\[]?(?:\d+(?:\.\d+)*|[ivxlc]+|[a-z])[.)\]]+", re.IGNORECASE)
_LAST = frozenset(".!?…\"'”’)]")  # possible last characters of a sentence
_WORD_BEFORE = re.compile(r"[\w.]*$")
# Languages without blanks between sentences.
_JOINED = frozenset({"zh", "ja", "km", "lo", "my", "th"})


def split_sentences(text: str) -> list[tuple[str, str]]:
    """Split an English text into pairs (sentence, white space after it); line breaks always split.

    The mark of a list's item ("1.", "b)") stays with the item, and "No." with its number.

    Joining all the parts gives the text again.
    """
    parts: list[tuple[str, str]] = []
    start = 0
    for match in re.finditer(r"\s*\n\s*|\s+", text):
        if match.start() < start:
            continue
        if "\n" not in match.group() and not (
            text[match.start() - 1] in _LAST and _ends(text[start : match.start()], text[match.end() :])
        ):
            continue
        if match.start() > start:
            parts.append((text[start : match.start()], match.group()))
        elif parts:
            parts[-1] = (parts[-1][0], parts[-1][1] + match.group())
        start = match.end()
    if start < len(text):
        parts.append((text[start:], ""))
    return parts


def join_sentences(sentences: list[str], gaps: list[str], language: str) -> str:
    """Join translated sentences; in languages without blanks between sentences, only line breaks are kept."""
    if language in _JOINED:
        gaps = ["" if gap.isspace() and "\n" not in gap else gap for gap in gaps]
    return "".join(sentence + gap for sentence, gap in zip(sentences, gaps, strict=True)).strip()


def has_words(sentence: str) -> bool:
    """Whether there is anything to translate; numbers and signs alone are the same in every language."""
    return any(character.isalpha() for character in sentence)


def _ends(before: str, after: str) -> bool:
    if not has_words(before) or _ITEM.fullmatch(before):
        return False
    match = re.search(r"([.!?…]+)[\"'”’)\]]*$", before)
    if not match or not after:
        return False
    opening = after.lstrip("\"'“‘([")[:1]
    if match.group(1) != ".":
        return not opening.islower()
    word = _WORD_BEFORE.search(before[: match.start()])
    last = word.group().lower() if word else ""
    initial = len(last) == 1 and last.isalpha() and before[: match.start()][-1:].isupper()
    if last in _BEFORE_NUMBERS and opening.isdigit():
        return False
    return last not in _ABBREVIATIONS and not initial and not opening.islower()
