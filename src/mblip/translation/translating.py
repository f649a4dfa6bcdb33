"""Translate English examples into their languages; failures become drops with a reason."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from mblip.config import TranslationSection
from mblip.endpoint import one_line
from mblip.errors import InputError, counted
from mblip.languages import Profile
from mblip.schema import Drop, Example
from mblip.translation.engines import Engine, Result, Untranslated, open_engine, stream
from mblip.translation.filters import rejection
from mblip.translation.holdout import is_held_out
from mblip.translation.journal import Journal
from mblip.translation.sentences import has_words, join_sentences, split_sentences

ANSWER = "answer"

Outcome = tuple[str, str]
"""A translation, or the engine's message if there is none, and the reason why it is not used (empty if it is)."""

OnTranslated = Callable[[int, int], None]
"""A function that is called with the numbers of answered texts and of all texts."""

_NOTHING: Outcome = ("", "no translation")
_LEAST_FAILURES = 20
"""Number of failures below which a translation never stops: one of three rows may be refused."""


Words = Callable[[Example], Iterable[str]]
"""A function that returns the English words of an example that ``held_out`` withholds from some languages."""


def nobody(answered: int, total: int) -> None:
    """Ignore progress, the default."""


def no_words(example: Example) -> tuple[str, ...]:
    """No words, the default."""
    return ()


class Translator:
    """Translates examples as a recipe says.

    Args:
        section: The recipe's settings.
        frequent: Short answers that occur often enough to be translated, in lower case.
        profile: ``original`` for the languages and scripts that the original mBLIP translated into.
        words: Returns the words of an example that the recipe's ``held_out`` withholds from some languages.

    Raises:
        InputError: The engine cannot be opened.
    """

    def __init__(
        self,
        section: TranslationSection,
        frequent: frozenset[str] = frozenset(),
        profile: Profile = "correct",
        words: Words = no_words,
    ) -> None:
        self.section = section
        self.engine: Engine = open_engine(section.engine, section.options, profile)
        self._frequent, self._profile, self._words = frequent, profile, words
        self._asked, self._failures = 0, Counter[str]()

    def translate(
        self,
        examples: Sequence[Example],
        languages: Sequence[str],
        journal: Journal | None = None,
        on_translated: OnTranslated = nobody,
    ) -> list[Example | Drop]:
        """Translate each example into its language; one result for each, in order.

        Equal texts of one language are translated once. A text that cannot be translated loses only its own example.

        Args:
            examples: English examples.
            languages: The mC4 code for each example.
            journal: Answers of an earlier, stopped run, which are not requested again, and to which new answers are
                added.
            on_translated: Called with the progress.

        Raises:
            InputError: No text can be translated, or more than ``max_failed`` of them could not.
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
        before, total = 0, sum(map(len, texts.values())) + sum(map(len, answers.values()))
        for language, wanted in texts.items():
            found = self._translate_texts(
                list(wanted), language, journal, _part(on_translated, before, len(wanted), total)
            )
            wanted.update(self._judge(found, language))
            before += len(wanted)
        for language, wanted in answers.items():
            wanted.update(self._judge(self._translate_answers(list(wanted), language, journal), language))
            before += len(wanted)
            on_translated(before, total)
        return [
            example
            if language == "en"
            else self._finish(example, language, texts.get(language, {}), answers.get(language, {}))
            for example, language in zip(examples, languages, strict=True)
        ]

    def translate_texts(self, texts: list[str], language: str) -> dict[str, str | None]:
        """Translate distinct English texts sentence by sentence; None for a text with a sentence that fails."""
        found = self._translate_texts(texts, language, None, nobody)
        return {text: result if isinstance(result, str) else None for text, result in found.items()}

    def _translate_texts(
        self, texts: list[str], language: str, journal: Journal | None, on_translated: OnTranslated
    ) -> dict[str, Result]:
        parts = {text: split_sentences(text) for text in texts}
        sentences = dict.fromkeys(sentence for split in parts.values() for sentence, _ in split)
        # Engines invent text for a single number or sign.
        wordless: dict[str, Result] = {sentence: sentence for sentence in sentences if not has_words(sentence)}
        found = wordless | self._ask(
            [s for s in sentences if s not in wordless], "en", language, journal, on_translated
        )
        results: dict[str, Result] = {}
        for text, split in parts.items():
            translated = [found[sentence] for sentence, _ in split]
            whole = [sentence for sentence in translated if isinstance(sentence, str)]
            if len(whole) == len(split):
                results[text] = join_sentences(whole, [gap for _, gap in split], language)
            else:
                results[text] = next((part for part in translated if isinstance(part, Untranslated)), None)
        return results

    def _ask(
        self, texts: list[str], source: str, target: str, journal: Journal | None, on_translated: OnTranslated = nobody
    ) -> dict[str, Result]:
        """Results for distinct texts, from the journal or the engine."""
        kept = journal.answers(source, target) if journal else {}
        found = {text: kept[text] for text in texts if text in kept}
        done = {number for number, text in enumerate(texts) if text in kept}
        for result in found.values():
            self._count(result)
        on_translated(len(found), len(texts))
        if len(done) == len(texts):
            return found
        for number, result in stream(self.engine, texts, source, target, done):
            if number in done:  # repeated with its batch
                continue
            text, result = texts[number], _storable(result)
            found[text] = result
            if journal:
                journal.keep(source, target, text, result)
            self._count(result)
            on_translated(len(found), len(texts))
        return found

    def _count(self, result: Result) -> None:
        """Count a failure, and stop if there are too many."""
        self._asked += 1
        if not isinstance(result, Untranslated):
            return
        self._failures[result.reason] += 1
        failed = self._failures.total()
        if failed >= _LEAST_FAILURES and failed > self.section.max_failed * self._asked:
            kinds = ", ".join(f"{count:,} {reason}" for reason, count in self._failures.most_common())
            last = f" (the last: {result.detail})" if result.detail else ""
            raise InputError(
                f"{self.engine.name}: {failed:,} of {counted(self._asked, 'text')} were not translated: {kinds}{last}; correct "
                "the cause or raise translation.max_failed; finished translations are kept"
            )

    def _is_short_answer(self, example: Example, role: str) -> bool:
        return role == ANSWER and example.task in self.section.short_answers.tasks

    def _wants_answer(self, example: Example, text: str) -> bool:
        """Whether an example's short answer may be translated and is drawn for it."""
        if text.lower() not in self._frequent or len(text) < 2 or any(character.isdigit() for character in text):
            return False
        digest = hashlib.blake2b(example.id.encode("utf-8", "replace"), digest_size=8).digest()
        return int.from_bytes(digest) < self.section.short_answers.share * 2**64

    def _translate_answers(self, answers: list[str], language: str, journal: Journal | None) -> dict[str, Result]:
        """Translations of short answers; None if the translation back into English differs."""
        there = self._ask(answers, "en", language, journal)
        texts = list(dict.fromkeys(text for text in there.values() if isinstance(text, str) and text))
        back = self._ask(texts, language, "en", journal)
        results: dict[str, Result] = {}
        for answer, text in there.items():
            again = back.get(text) if isinstance(text, str) else None
            results[answer] = text if isinstance(again, str) and again.casefold() == answer.casefold() else None
        return results

    def _judge(self, translations: dict[str, Result], language: str) -> dict[str, Outcome]:
        """Add the filters' verdict to each translation."""
        filters = self.section.filters
        outcomes: dict[str, Outcome] = {}
        for text, result in translations.items():
            if isinstance(result, str):
                outcomes[text] = (result, rejection(filters, text, result, language, self._profile))
            else:
                outcomes[text] = (result.detail, result.reason) if result else _NOTHING
        return outcomes

    def _finish(
        self, example: Example, language: str, texts: dict[str, Outcome], answers: dict[str, Outcome]
    ) -> Example | Drop:
        translated, languages = dict(example.texts), dict(example.languages)
        for role, text in example.texts.items():
            if self._is_short_answer(example, role):
                result, problem = answers.get(text, _NOTHING) if self._wants_answer(example, text) else _NOTHING
                if problem:  # the prompt will ask for an English answer
                    continue
            else:
                result, problem = texts[text]
                if problem:
                    return _drop(example, language, problem, f"{role}: {text}" + (f" -> {result}" if result else ""))
            translated[role], languages[role] = result, language
        if self.section.held_out:
            for word in self._words(example):
                if is_held_out(word, language, self.section.held_out):
                    return _drop(example, language, "never shown", word)
        return Example(example.id, example.source, example.task, example.images, translated, languages, example.licence)


def _part(on_translated: OnTranslated, before: int, texts: int, total: int) -> OnTranslated:
    """Convert progress in sentences of some texts to progress in all texts."""
    return lambda answered, sentences: on_translated(before + round(texts * answered / max(1, sentences)), total)


def _storable(result: Result) -> Result:
    """The result, unless it is a text that no file can store."""
    if isinstance(result, str) and (lone := _SURROGATE.search(result)):
        shown = one_line(result.encode("utf-8", "backslashreplace").decode())
        return Untranslated("broken answer", f"half a surrogate pair at character {lone.start() + 1}: {shown}")
    return result


_SURROGATE = re.compile("[\ud800-\udfff]")


def _drop(example: Example, language: str, reason: str, detail: str) -> Drop:
    return Drop(example.id, example.source, reason, detail, example.task, language)
