"""Normalisation of short answers and the variants of VQA accuracy."""

import pytest

from mblip.evaluation.metrics.answers import (
    any_match,
    exact_match,
    normalize_vqa,
    normalized_match,
    relaxed_match,
    strip_punctuation,
    vqa_accuracy_2021,
    vqa_accuracy_before_2021,
    vqa_accuracy_mblip,
)


def people(*answers: str) -> list[dict[str, object]]:
    return [{"answer": answer, "answer_id": number} for number, answer in enumerate(answers, start=1)]


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("The Dog.", "dog"),
        ("two", "2"),
        ("none", "0"),
        ("dont", "don't"),
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("A\nB", "ab"),  # mBLIP removes the line break
        ("a", ""),
        ("." * 40, "." * 8),  # at most 32 periods go, as in the official scorer
    ],
)
def test_normalisation(answer: str, normal: str) -> None:
    assert normalize_vqa(answer) == normal


def test_a_comma_in_a_number_changes_how_all_signs_are_taken() -> None:
    assert strip_punctuation("a-b") == "a b"
    assert strip_punctuation("a-b 1,000") == "ab 1000"


def test_matches() -> None:
    assert exact_match("yes", "yes") and not exact_match("Yes", "yes")
    assert normalized_match("The Yes.", "yes")
    assert (
        relaxed_match("yes it is", "yes")
        and relaxed_match("it is yes", "yes")
        and not relaxed_match("oh yes sir", "yes")
    )
    assert any_match(" Katze ", ["katze", "kater"]) and not any_match("die katze", ["katze"])


def test_vqa_accuracy_leaves_each_person_out() -> None:
    answers = people(*["net"] * 3, *["fence"] * 7)
    # Seven people see 3 matches, three see 2.
    assert vqa_accuracy_2021("net", answers) == pytest.approx((7 * 1 + 3 * 2 / 3) / 10)


def test_2021_normalises_both_sides_only_where_people_differ() -> None:
    assert vqa_accuracy_2021("Two", people(*["2"] * 10)) == 0
    assert vqa_accuracy_2021("Two", people(*["2"] * 9, "3")) == 1
    assert vqa_accuracy_before_2021("Two", people(*["2"] * 10)) == 1


def test_before_2021_people_kept_their_articles() -> None:
    answers = people(*["the net"] * 9, "x")
    assert vqa_accuracy_2021("net", answers) == 1
    assert vqa_accuracy_before_2021("net", answers) == 0


def test_mblip_does_not_touch_people() -> None:
    assert vqa_accuracy_mblip("Two", people(*["two"] * 10)) == 0
    assert vqa_accuracy_mblip("Two", people(*["2"] * 10)) == 1


def test_people_that_are_equal_in_every_field_are_one() -> None:
    assert vqa_accuracy_2021("a cat", [{"answer": "a cat"}] * 10) == 0
