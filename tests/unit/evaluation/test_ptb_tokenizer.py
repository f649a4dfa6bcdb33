"""The tokeniser on our own strings, with what the Java reference made of them."""

import json
from pathlib import Path

import pytest

from mblip.evaluation.metrics.ptb_tokenizer import tokenize, tokenize_all

ROWS = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "fixtures/evaluation/ptb_tokens.jsonl").read_text("utf-8").splitlines()
]


def test_the_fixture_is_whole() -> None:
    assert len(ROWS) == 1215


def test_own_strings_equal_the_reference() -> None:
    assert [row for row in ROWS if tokenize(row["text"]) != row["tokens"]] == []


def test_a_second_time_gives_the_same() -> None:  # chunks come from the cache then
    first = [tokenize(row["text"]) for row in ROWS]
    assert [tokenize(row["text"]) for row in ROWS] == first


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", ""),
        ('A man (in red) says "hello"...', "a man -lrb- in red -rrb- says hello"),
        ("three!four?five gimme cannot", "three!four?five gim me can not"),
        ("can't won't I'm dogs'", "ca n't wo n't i 'm dogs"),
        ("emoji 😀 end ☺", "emoji end ☺"),
        ("Call (555) 123-4567", "call -lrb-555-rrb-\xa0123-4567"),
        ("1 1/2 cups", "1\xa01/2 cups"),
        ("plan B. The x", "plan b the x"),
        ("plan B. Zebra", "plan b. zebra"),
        ("ΑΣ ΣΑΣ", "ας σας"),
        ("one\ntwo\u2028three", "one two three"),
        ("a\u00adb", "ab"),
        ("5 m⁻¹ x₋₁ ⁺⁴", "5 m ⁻¹ x ₋₁ ⁺⁴"),
        ("1⁄2 12-3⁄4 1⁄2⁄3", "1⁄2 12-3⁄4 1⁄2 ⁄ 3"),
        ("No.\u20035 no.\u30005", "no. 5 no. 5"),
        ("ɐΣ Σʰ a豈Σ a1.Σ a-Σ aΣ1", "ɐς σʰ a豈σ a1.σ a-ς aς1"),
        ("\u0345Σ aΣ\u0345", "\u0345σ aσ\u0345"),
        ("a@b.com\u205f 1 http://a.b\u1680", "a@b.com\u205f 1 http://a.b"),
        ("pro- and ANTI--war, pro-life, non-", "pro- and anti- war pro-life non"),
        ("1\n1/2", "1\xa01/2"),  # pycocoevalcap makes a blank of the line break
    ],
)
def test_what_is_known(text: str, tokens: str) -> None:
    assert tokenize(text) == tokens


def test_what_stands_beyond_blanks_is_seen() -> None:
    # Each part alone is tokenised otherwise than in its place.
    assert tokenize("no. 5") == "no. 5"
    assert tokenize("no.") == "no"
    assert tokenize("<a b>") == "<a\xa0b>"
    assert tokenize("<a") == "< a"


def test_the_next_caption_decides_about_a_period_at_the_end() -> None:
    assert tokenize_all(["the Wii U.", "A room", "plan B. ", "Zebras", "see fig.", "5 dogs", "see fig."]) == [
        "the wii u", "a room", "plan b.", "zebras", "see fig.", "5 dogs", "see fig"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("a \0 b", "a b"),
        ("a\0b", "a b"),
        ("\0", ""),
        ("dog\0", "dog"),
        ("\0dog.", "dog"),
        ("don\0t", "don t"),
        ("3\0 4", "3 4"),
    ],
)
def test_a_nul_ends_a_token_and_vanishes(text: str, tokens: str) -> None:
    """As CoreNLP 3.4.1 was seen to do with these very texts."""
    assert tokenize_all([text]) == [tokens]
