"""The lexicon of the nano world: names of objects, lists of them, yes and no, numbers in digits, and empty cells."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

from mblip.errors import InputError
from mblip.languages import YES_NO, Profile
from mblip.nano.scenes import NOTHING
from mblip.nano.words import load_lexicon
from mblip.translation.engines.base import Result

SEPARATOR = ", "

LICENCE = "Unicode-3.0"


class LexiconEngine:
    """Looks words up in CLDR's human translations; a text with a missing word is not translated."""

    name = "lexicon (Unicode CLDR)"
    licence = LICENCE
    cheap = True

    def __init__(self) -> None:
        self._lexicon = load_lexicon()

    def knows(self, source: str, target: str) -> bool:
        """Whether any word has a name in the language."""
        return source == "en" and target in self._lexicon.languages

    def stream(
        self, texts: Sequence[str], source: str, target: str, done: Container[int] = ()
    ) -> Iterator[tuple[int, Result]]:
        """Yield all results at once, because a look-up costs nothing."""
        yield from enumerate(self.translate(texts, source, target))

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[Result]:
        """Translate from English, see :class:`~mblip.translation.engines.base.Engine`.

        Raises:
            InputError: The source is not English, the only source language.
        """
        if source != "en":
            raise InputError(f"the lexicon translates only from English, not from {source!r}")
        return [self._text(text, target) for text in texts]

    def _text(self, text: str, target: str) -> str | None:
        names = [self._word(word, target) for word in text.split(SEPARATOR)]
        return None if None in names else SEPARATOR.join(name for name in names if name)

    def _word(self, word: str, target: str) -> str | None:
        if word.isdecimal() or word == NOTHING:
            return word
        if word in YES_NO["en"]:
            return YES_NO[target][YES_NO["en"].index(word)] if target in YES_NO else None
        return self._lexicon.name(word, target) if word in self._lexicon.emoji else None


def open_engine() -> LexiconEngine:
    """The engine; it has no options."""
    return LexiconEngine()


def lacking(languages: Sequence[str], options: Mapping[str, Any], profile: Profile) -> list[str]:
    """The languages that it cannot translate English into."""
    engine = open_engine()
    return [code for code in languages if not engine.knows("en", code)]
