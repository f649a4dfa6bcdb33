"""BLEU, ROUGE-L and CIDEr on cases small enough to reckon by hand."""

import math

import pytest

from mblip.evaluation.metrics.captions import caption_scores
from mblip.evaluation.metrics.ngrams import score_captions


def test_a_perfect_caption() -> None:
    scores = score_captions(
        ["a cat sat on a mat", "two dogs ran in the sun"], [["a cat sat on a mat"], ["two dogs ran in the sun"]]
    )
    assert scores.total["Bleu_4"] == pytest.approx(1, abs=1e-8)
    assert scores.total["ROUGE_L"] == pytest.approx(1)
    assert scores.total["CIDEr"] == pytest.approx(10)
    assert scores.bleu_counts == {"testlen": 12, "reflen": 12, "guess": [12, 10, 8, 6], "correct": [12, 10, 8, 6]}


def test_counts_are_clipped_by_the_best_reference() -> None:
    scores = score_captions(["the the the"], [["the cat", "the dog the"]])
    assert scores.bleu_counts["correct"] == [2, 0, 0, 0]
    assert scores.total["Bleu_1"] == pytest.approx(2 / 3)


def test_the_closest_reference_counts_and_of_two_equally_close_the_shorter() -> None:
    scores = score_captions(["a b c d"], [["a b c", "a b c d e", "a"]])
    assert scores.bleu_counts["reflen"] == 3
    shorter = score_captions(["a b"], [["a b c d"]])
    assert shorter.total["Bleu_1"] == pytest.approx(math.exp(1 - 2))


def test_rouge_l_by_hand() -> None:
    # Common subsequence "a c": precision 2/3, recall 2/4.
    scores = score_captions(["a b c"], [["a x c y"]])
    precision, recall, beta = 2 / 3, 2 / 4, 1.2
    assert scores.total["ROUGE_L"] == pytest.approx((1 + beta**2) * precision * recall / (recall + beta**2 * precision))


def test_words_in_every_image_weigh_nothing_in_cider() -> None:
    scores = score_captions(["a cat", "a dog"], [["a bird"], ["a fish"]])
    assert scores.total["CIDEr"] == 0


def test_empty_captions_are_scored_not_dropped() -> None:
    scores = score_captions(["", "a cat"], [["a dog"], ["a cat"]])
    assert len(scores.per_image["CIDEr"]) == 2
    assert scores.per_image["CIDEr"][0] == scores.per_image["ROUGE_L"][0] == 0


def test_characters_make_words_of_unbroken_scripts() -> None:
    broken = caption_scores(["猫がいる", "犬"], [["猫がいた"], ["犬"]], "ja", "characters", nfc=True)
    whole = caption_scores(["猫がいる", "犬"], [["猫がいた"], ["犬"]], "ja", "none", nfc=True)
    assert broken.total["Bleu_1"] == pytest.approx(4 / 5)
    assert whole.total["Bleu_1"] == pytest.approx(1 / 2)


def test_nfc_makes_spellings_equal() -> None:
    apart = caption_scores(["cafe\u0301"], [["café"]], "fr")
    joined = caption_scores(["cafe\u0301"], [["café"]], "fr", nfc=True)
    assert (apart.total["Bleu_1"] < 0.1, joined.total["Bleu_1"]) == (True, pytest.approx(1))


@pytest.mark.parametrize("text", ["a \0 b", "\0", "a b\0", "\0\0 a b", "a\0b", "a \ud800 b"])
def test_odd_characters_are_tokens_like_others(text: str) -> None:
    """A NUL once ended a sentence in the tables, so that numbers of sentences and images fell apart."""
    scores = score_captions([text, "x y"], [["a b"], ["x y", text]])
    assert len(scores.per_image["CIDEr"]) == 2 and 0 <= scores.total["Bleu_1"] <= 1
