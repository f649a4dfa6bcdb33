"""English examples and the languages they go to -> translated examples, or drops that say why not."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from mblip.config import TranslationSection
from mblip.languages import Profile
from mblip.nano.words import load_lexicon
from mblip.schema import Drop, Example
from mblip.translation.engines import Engine, open_engine
from mblip.translation.engines.lexicon import SEPARATOR
from mblip.translation.filters import rejection
from mblip.translation.holdout import never_shown
from mblip.translation.sentences import join_sentences, split_sentences

ANSWER = "answer"

Outcome = tuple[str, str]
"""A translation, and why it is not used (empty if it is)."""

_NOTHING: Outcome = ("", "no translation")


class Translator:
    """Translates examples as a recipe says.

    Args:
        section: The recipe's.
        frequent: Short answers that occur often enough to be translated, in small letters.
        profile: ``original`` for the languages and scripts that the original mBLIP translated into.

    Raises:
        InputError: The engine cannot be opened.
    """

    def __init__(
        self, section: TranslationSection, frequent: frozenset[str] = frozenset(), profile: Profile = "correct"
    ) -> None:
        self.section = section
        self.engine: Engine = open_engine(section.engine, section.options, profile)
        self._frequent, self._profile = frequent, profile

    def translate(self, examples: Sequence[Example], languages: Sequence[str]) -> list[Example | Drop]:
        """Translate each example into its language; one result for each, in order.

        Equal texts of one language are translated once.
        """
        texts: dict[str, dict[str, Outcome]] = {}
        answers: dict[str, dict[str, Outcome]] = {}
        for example, language in zip(examples, languages, strict=True):
            if language == "en":
                continue
            for role, text in example.texts.items():
                if not self._is_short_answer(example, role):
                    texts.setdefault(language, {})[text] = _NOTHING
                elif self._wants_answer(example, text):
                    answers.setdefault(language, {})[text] = _NOTHING
        for language, wanted in texts.items():
            wanted.update(self._judge(self.translate_texts(list(wanted), language), language))
        for language, wanted in answers.items():
            wanted.update(self._judge(self._translate_answers(list(wanted), language), language))
        return [
            example
            if language == "en"
            else self._finish(example, language, texts.get(language, {}), answers.get(language, {}))
            for example, language in zip(examples, languages, strict=True)
        ]

    def translate_texts(self, texts: list[str], language: str) -> dict[str, str | None]:
        """Translate distinct English texts sentence by sentence; None for a text with one that cannot be."""
        parts = {text: split_sentences(text) for text in texts}
        sentences = list(dict.fromkeys(sentence for split in parts.values() for sentence, _ in split))
        found = dict(zip(sentences, self.engine.translate(sentences, "en", language), strict=True))
        results: dict[str, str | None] = {}
        for text, split in parts.items():
            translated = [found[sentence] for sentence, _ in split]
            whole = [sentence for sentence in translated if sentence is not None]
            gaps = [gap for _, gap in split]
            results[text] = join_sentences(whole, gaps, language) if len(whole) == len(split) else None
        return results

    def _is_short_answer(self, example: Example, role: str) -> bool:
        return role == ANSWER and example.task in self.section.short_answers.tasks

    def _wants_answer(self, example: Example, text: str) -> bool:
        """Whether an example's short answer may be translated and the coin says so."""
        if text.lower() not in self._frequent or len(text) < 2 or any(character.isdigit() for character in text):
            return False
        digest = hashlib.blake2b(example.id.encode("utf-8", "replace"), digest_size=8).digest()
        return int.from_bytes(digest) < self.section.short_answers.share * 2**64

    def _translate_answers(self, answers: list[str], language: str) -> dict[str, str | None]:
        """Translations of short answers, None where translating them back gives something else."""
        there = self.engine.translate(answers, "en", language)
        back = iter(self.engine.translate([text for text in there if text], language, "en"))
        results: dict[str, str | None] = {}
        for answer, text in zip(answers, there, strict=True):
            again = next(back) if text else None
            results[answer] = text if again is not None and again.casefold() == answer.casefold() else None
        return results

    def _judge(self, translations: dict[str, str | None], language: str) -> dict[str, Outcome]:
        """Put the filters' verdict beside each translation."""
        filters = self.section.filters
        return {
            text: _NOTHING if result is None else (result, rejection(filters, text, result, language, self._profile))
            for text, result in translations.items()
        }

    def _finish(
        self, example: Example, language: str, texts: dict[str, Outcome], answers: dict[str, Outcome]
    ) -> Example | Drop:
        translated, languages = dict(example.texts), dict(example.languages)
        for role, text in example.texts.items():
            if self._is_short_answer(example, role):
                result, problem = answers.get(text, _NOTHING) if self._wants_answer(example, text) else _NOTHING
                if problem:  # the prompt will say that an English answer is wanted
                    continue
            else:
                result, problem = texts[text]
                if problem:
                    return _drop(example, language, problem, f"{role}: {text}" + (f" -> {result}" if result else ""))
            translated[role], languages[role] = result, language
        if self.section.never_shown:
            for word in _concepts(example):
                if never_shown(word, language, self.section.never_shown):
                    return _drop(example, language, "never shown", word)
        return Example(example.id, example.source, example.task, example.images, translated, languages, example.licence)


def _concepts(example: Example) -> list[str]:
    known = load_lexicon().emoji
    return [word for text in example.texts.values() for word in text.split(SEPARATOR) if word in known]


def _drop(example: Example, language: str, reason: str, detail: str) -> Drop:
    return Drop(example.id, example.source, reason, detail, example.task, language)
