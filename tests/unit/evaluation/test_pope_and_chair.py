"""POPE and CHAIR on cases small enough to reckon by hand."""

import pytest

from mblip.evaluation.metrics.chair import chair_objects, chair_scores, chair_words, singular
from mblip.evaluation.metrics.pope import is_clear, pope_scores, says_yes


@pytest.mark.parametrize(
    ("answer", "yes"),
    [
        ("Yes, there is.", True),
        ("no", False),
        ("No, there is not", False),
        ("There is not a dog.", False),
        ("Yes. I do not see more.", True),  # only the first sentence counts
        ("NO", True),  # POPE knows three spellings
        ("maybe", True),
        ("", True),
    ],
)
def test_what_pope_takes_for_yes(answer: str, yes: bool) -> None:
    assert says_yes(answer) is yes


def test_unclear_answers_are_counted_apart() -> None:
    assert is_clear("No") and not is_clear("maybe") and not is_clear("nothing")
    scores = pope_scores(["yes", "maybe", "no", "no"], [True, False, False, True])
    assert scores == {
        "accuracy": 50.0, "precision": 0.5, "recall": 0.5, "f1": 0.5, "yes_ratio": 0.5, "unparsed": 0.25
    }  # fmt: skip


@pytest.mark.parametrize(
    "answer",
    ["NO", "**No**", "No!", "no\nThere is none.", "It isn't there.", "nope", "Hmm. No.", '"no"', "No-one is there", "none",
     "Yes, no doubt", "Yes, there is no question", "yes or no", "a dog on a bench", "", "False", "не знаю"],
)  # fmt: skip
def test_what_pope_turns_round_or_guesses_is_unparsed(answer: str) -> None:
    assert not is_clear(answer)


@pytest.mark.parametrize(
    "answer",
    ["yes", "Yes.", "YES", "**Yes**", "no", "No, there is not.", "There is not a dog", "Yes. Not big.", "yes!"],
)
def test_what_pope_reads_as_it_is_meant(answer: str) -> None:
    assert is_clear(answer)


def test_pope_without_a_yes_has_no_precision() -> None:
    scores = pope_scores(["no", "no"], [True, False])
    assert (scores["precision"], scores["recall"], scores["f1"], scores["yes_ratio"]) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("plural", "one"),
    [("dogs", "dog"), ("children", "child"), ("women", "woman"), ("knives", "knife"), ("boxes", "box"), ("sheep", "sheep"),
     ("puppies", "puppy"), ("scissors", "scissors"), ("dogs'", "dog's"), ("mothers-in-law", "mother-in-law"),
     ("glass", "glas")],
)  # fmt: skip
def test_singulars(plural: str, one: str) -> None:
    assert singular(plural) == one


def test_of_two_signs_that_follow_each_other_the_first_stands_alone() -> None:
    assert chair_words("a cat,:dog 1:2") == ["a", "cat", ",", ":dog", "1:2"]


def test_words() -> None:
    assert chair_words("A dog's ball, 3.5 m (red). It can't fly!") == [
        "a", "dog", "'s", "ball", ",", "3.5", "m", "(", "red", ")", ".", "it", "ca", "n't", "fly", "!"
    ]  # fmt: skip


def test_objects_by_synonym_and_double_word() -> None:
    assert chair_objects("Two puppies and a baby bird on a motor cycle") == ["dog", "bird", "motorcycle"]
    assert chair_objects("a motor bike") == []  # the list of synonyms spells it with a blank before
    assert chair_objects("a hot dog on a dining table") == ["hot dog", "dining table"]
    assert chair_objects("the seat of a toilet") == ["toilet"]
    assert chair_objects("a wooden seat") == ["chair"]


def test_scores() -> None:
    scores = chair_scores(["A dog and a cat.", "A man rides a horse."], [["dog", "person"], ["person", "horse"]])
    assert scores == {"chair_s": 0.5, "chair_i": 1 / 4, "recall": 3 / 4, "length": 5.0}
