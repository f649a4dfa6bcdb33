"""Find the option that an answer chooses, by its letter or its words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# Look-alike letters of other scripts, which people and models type.
_ALIKE = str.maketrans("АВСЕНΑΒΕΗ", "ABCEHABEH")
_LETTER = r"(?:\(([A-Za-z])\)|([a-z])(?=\)|$)|\[([A-Z])\]|\*\*([A-Z])\b[.):]?|([A-Z])(?=\s*(?:[.):,;]|$|\n)))"
_ALONE = re.compile(rf"\W*{_LETTER}", re.MULTILINE)
_SAID = re.compile(
    rf"\b(?:answer|option|choice)\b\W*(?:is|would be|:)?\W*(?:option|choice|letter)?\W*{_LETTER}", re.IGNORECASE
)


def letter(place: int) -> str:
    """The letter of an option: A for 0."""
    return chr(ord("A") + place)


def chosen_option(answer: str, options: Sequence[str]) -> int | None:
    """The index of the option that an answer chooses; None if it chooses none or several.

    Tried in this order: the words of one option and nothing else; a letter at the beginning, alone or followed by a
    sign ("B", "(B)", "B. a cat", but not "A cat"); a letter after "answer", "option" or "choice"; the only option whose
    words are in the answer.
    """
    said = _normal(answer)
    words = [_normal(option) for option in options]
    if words.count(said) == 1:
        return words.index(said)
    text = unicodedata.normalize("NFKC", answer).translate(_ALIKE).strip()
    for pattern in (_ALONE.match, _SAID.search):
        if found := pattern(text):
            place = ord(next(filter(None, found.groups())).upper()) - ord("A")
            if place < len(options):
                return place
    inside = [
        place for place, option in enumerate(words) if option and re.search(rf"(?<!\w){re.escape(option)}(?!\w)", said)
    ]
    longest = [place for place in inside if not any(words[place] in words[other] for other in inside if other != place)]
    return longest[0] if len(longest) == 1 else None


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split()).strip(" .\"'“”«»")
