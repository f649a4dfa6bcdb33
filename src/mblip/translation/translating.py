"""English examples and the languages they go to -> translated examples, or drops that say why not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mblip.config import TranslationSection
from mblip.nano.words import load_lexicon
from mblip.schema import Drop, Example
from mblip.translation.engines import open_engine
from mblip.translation.engines.lexicon import SEPARATOR
from mblip.translation.holdout import never_shown


class Translator:
    """Translates examples as a recipe says.

    Raises:
        InputError: The engine cannot be opened.
    """

    def __init__(self, section: TranslationSection) -> None:
        self.section = section
        self.engine = open_engine(section.engine, section.options)

    def translate(self, examples: Sequence[Example], languages: Sequence[str]) -> list[Example | Drop]:
        """Translate every text of each example into its language; one result for each, in order."""
        wanted: dict[str, dict[str, str | None]] = {}
        for example, language in zip(examples, languages, strict=True):
            if language != "en":
                wanted.setdefault(language, {}).update(dict.fromkeys(example.texts.values()))
        for language, texts in wanted.items():
            texts.update(zip(texts, self.engine.translate(list(texts), "en", language), strict=True))
        return [
            example if language == "en" else self._finish(example, language, wanted[language])
            for example, language in zip(examples, languages, strict=True)
        ]

    def _finish(self, example: Example, language: str, translations: dict[str, str | None]) -> Example | Drop:
        texts: dict[str, str] = {}
        for role, text in example.texts.items():
            translation = translations[text]
            if translation is None:
                return _drop(example, language, "no translation", f"{role}: {text}")
            texts[role] = translation
        if self.section.never_shown:
            for word in _concepts(example):
                if never_shown(word, language, self.section.never_shown):
                    return _drop(example, language, "never shown", word)
        return dataclasses.replace(example, texts=texts, languages=dict.fromkeys(texts, language))


def _concepts(example: Example) -> list[str]:
    known = load_lexicon().emoji
    return [word for text in example.texts.values() for word in text.split(SEPARATOR) if word in known]


def _drop(example: Example, language: str, reason: str, detail: str) -> Drop:
    return Drop(example.id, example.source, reason, detail, example.task, language)
