"""Examples through a translator: sentences, short answers, filters; equal texts are translated once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mblip.config import FilterSection, ShortAnswerSection, TranslationSection
from mblip.schema import Drop, Example
from mblip.translation import Translator

GERMAN = {
    "dog": "Hund", "cat": "Katze", "net": "Netz", "yes": "ja", "A dog runs.": "Ein Hund rennt.",
    "What is it?": "Was ist das?", "Two cats sit.": "Zwei Katzen sitzen.", "bank": "Ufer",
    "The end of it all.": "The end of it all.",
}  # fmt: skip
ENGLISH = {german: english for english, german in GERMAN.items()} | {"Ufer": "shore"}


class Dictionary:
    """An engine that records what it is asked."""

    name, licence = "dictionary", "own"

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str | None]:
        self.asked += [(text, source, target) for text in texts]
        return [(GERMAN if source == "en" else ENGLISH).get(text) for text in texts]


def _translator(frequent: Sequence[str] = (), share: float = 1.0) -> tuple[Translator, Dictionary]:
    section = TranslationSection(
        short_answers=ShortAnswerSection(tasks=("vqa", "question_generation"), share=share), filters=FilterSection()
    )
    translator = Translator(section, frozenset(frequent))
    engine = Dictionary()
    translator.engine = engine
    return translator, engine


def _example(row: int, task: str, **texts: str) -> Example:
    return Example(f"s/{row}", "s", task, ("k",), texts, dict.fromkeys(texts, "en"), "own")


def test_paragraphs_go_sentence_by_sentence_and_equal_ones_once() -> None:
    translator, engine = _translator()
    examples = [
        _example(0, "caption", caption="A dog runs. Two cats sit."),
        _example(1, "caption", caption="Two cats sit.\nA dog runs."),
        _example(2, "caption", caption="A dog runs."),
        _example(3, "caption", caption="A dog runs. Nobody knows this."),
    ]
    records: list[Any] = translator.translate(examples, ["de", "de", "en", "de"])
    assert [r.texts["caption"] for r in records[:2]] == [
        "Ein Hund rennt. Zwei Katzen sitzen.",
        "Zwei Katzen sitzen.\nEin Hund rennt.",
    ]
    assert records[2] == examples[2]
    assert isinstance(records[3], Drop) and records[3].reason == "no translation"
    assert sorted(engine.asked) == [
        (text, "en", "de") for text in ["A dog runs.", "Nobody knows this.", "Two cats sit."]
    ]


@pytest.mark.parametrize(("answer", "language", "text"), [
    ("net", "de", "Netz"),
    ("bank", "en", "bank"),  # comes back as something else
    ("cat", "en", "cat"),  # too rare
    ("2 dogs", "en", "2 dogs"),  # a digit
    ("x", "en", "x"),  # one character
])  # fmt: skip
def test_short_answers_are_translated_where_that_is_safe(answer: str, language: str, text: str) -> None:
    translator, _ = _translator(frequent=["net", "bank", "2 dogs", "x"])
    [record] = translator.translate([_example(0, "vqa", question="What is it?", answer=answer)], ["de"])
    assert isinstance(record, Example)
    assert record.texts == {"question": "Was ist das?", "answer": text}
    assert record.languages == {"question": "de", "answer": language}


def test_half_of_the_safe_answers_stay_english_and_always_the_same_half() -> None:
    examples = [_example(row, "vqa", question="What is it?", answer="net") for row in range(2000)]
    translator, engine = _translator(["net"], share=0.5)
    records = translator.translate(examples, ["de"] * 2000)
    german = [r.id for r in records if isinstance(r, Example) and r.languages["answer"] == "de"]
    assert 900 < len(german) < 1100
    assert engine.asked == [("What is it?", "en", "de"), ("net", "en", "de"), ("Netz", "de", "en")]
    again = _translator(["net"], share=0.5)[0].translate(examples[:100], ["de"] * 100)
    assert again == records[:100]


def test_filters_make_drops_with_both_texts() -> None:
    translator, _ = _translator()
    [record] = translator.translate([_example(0, "caption", caption="The end of it all.")], ["de"])
    assert isinstance(record, Drop)
    assert (record.reason, record.detail) == ("copied source", "caption: The end of it all. -> The end of it all.")


@pytest.mark.parametrize(("text", "asked"), [
    ("1. A dog runs.\n2. Two cats sit.", ["1. A dog runs.", "2. Two cats sit."]), ("He lives at No. 5 Main Street.", None),
    ("5", []), ("...", []), ("A dog runs.\n***\n12:30", ["A dog runs."]), ("A dog runs. ...", ["A dog runs."]),
    ("1.\nA dog runs.", ["A dog runs."]), ("🐕", []), ("3.14 2.71", []), ("- A dog runs.", ["- A dog runs."]),
])  # fmt: skip
def test_numbers_and_signs_are_never_sentences_of_their_own(text: str, asked: list[str] | None) -> None:
    translator, engine = _translator()
    found = translator.translate_texts([text], "de")
    assert [sent for sent, _, _ in engine.asked] == ([text] if asked is None else asked)
    assert all(any(character.isalpha() for character in sent) for sent, _, _ in engine.asked)
    if asked == []:
        assert found == {text: text}
