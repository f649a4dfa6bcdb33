"""Sentences: nothing is lost, paragraphs come apart where sentences end and nowhere else."""

from __future__ import annotations

import random
import time

import pytest

from mblip.translation.sentences import join_sentences, split_sentences


@pytest.mark.parametrize(("text", "sentences"), [
    ("A dog.", ["A dog."]),
    ("A dog. Two cats", ["A dog.", "Two cats"]),
    ("Is it? Yes! It is.", ["Is it?", "Yes!", "It is."]),
    ("Mr. Smith of the U.S. Navy meets A. Doe. He waves.", ["Mr. Smith of the U.S. Navy meets A. Doe.", "He waves."]),
    ("It costs 3.50 dollars. Cheap", ["It costs 3.50 dollars.", "Cheap"]),
    ('He says "Stop." Then he goes.', ['He says "Stop."', "Then he goes."]),
    ("Fruit, e.g. apples, etc. are here. (A lot.) More", ["Fruit, e.g. apples, etc. are here.", "(A lot.)", "More"]),
    ("The answer is no. It is red.", ["The answer is no.", "It is red."]),
    ("Wait... what? ok", ["Wait... what? ok"]),
    ("One line\nanother line\n\nA paragraph. Here.", ["One line", "another line", "A paragraph.", "Here."]),
    ("no stop at all", ["no stop at all"]),
    ("", []),
    ("1. Boil water.\n2. Add salt.", ["1. Boil water.", "2. Add salt."]),
    ("1. Boil water. 2. Add salt.", ["1. Boil water.", "2. Add salt."]),
    ("(1) Boil. (2) Add.", ["(1) Boil.", "(2) Add."]), ("A) One. B) Two.", ["A) One.", "B) Two."]),
    ("1) Boil water. It is hot.", ["1) Boil water.", "It is hot."]), ("IV. A dog. V. A cat.", ["IV. A dog.", "V. A cat."]),
    ("He lives at No. 5 Main Street.", ["He lives at No. 5 Main Street."]),
    ("See p. 7 and Vol. 2 here.", ["See p. 7 and Vol. 2 here."]),
    ("No. It is red.", ["No.", "It is red."]), ("It was in 2019. Then he left.", ["It was in 2019.", "Then he left."]),
    ("2.1. A dog runs. 2.2. A cat sits.", ["2.1. A dog runs.", "2.2. A cat sits."]), ("... A dog.", ["... A dog."]),
])  # fmt: skip
def test_split(text: str, sentences: list[str]) -> None:
    assert [sentence for sentence, _ in split_sentences(text)] == sentences


def test_parts_join_to_the_text_again() -> None:
    draw = random.Random(4)
    pieces = ["A dog", " ", ". ", "Mr. ", "\n", "\n\n", "  ", "? ", '." ', "e.g. ", "3.5", "No", ". the", "…", ") "]
    checked = 0
    for _ in range(3000):
        text = "".join(draw.choices(pieces, k=draw.randint(1, 12))).strip()
        parts = split_sentences(text)
        checked += len(parts) > 1
        assert "".join(sentence + gap for sentence, gap in parts) == text
        assert all(sentence and sentence == sentence.strip() for sentence, _ in parts)
    assert checked > 1000


def test_a_long_text_without_a_stop_takes_linear_time() -> None:
    text = "a word" + " or two" * 20_000
    started = time.process_time()
    assert split_sentences(text) == [(text, "")]
    assert time.process_time() - started < 1  # 7 s where each blank had the whole text before it searched


def test_join_in_scripts_without_blanks() -> None:
    assert join_sentences(["一。", "二。", "三。"], [" ", "\n\n", ""], "zh") == "一。二。\n\n三。"
    assert join_sentences(["Eins.", "Zwei."], [" ", ""], "de") == "Eins. Zwei."
