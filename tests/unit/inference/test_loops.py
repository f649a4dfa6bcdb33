from __future__ import annotations

import pytest
import torch

from mblip.inference.loops import NoLoops


def banned(*ids: int) -> set[int]:
    scores = NoLoops()(torch.tensor([ids], dtype=torch.long).reshape(1, len(ids)), torch.zeros(1, 50))
    return set(torch.isinf(scores[0]).nonzero().flatten().tolist())


@pytest.mark.parametrize(
    ("ids", "forbidden"),
    [
        ((5, 5, 5), {5}),  # no, no, no
        ((9, 5, 6, 5, 6), {5}),  # fox, fox, fox
        ((1, 2, 3, 1, 2, 3), {1}),
        ((1, 2, 3, 4, 5, 6, 1, 2, 3, 4), {5}),  # ubao mtelezo, ubao mtelezo, in pieces
        ((*range(20), 0, 1, 2, 3), {4}),
        ((7, 8, 9, 7, 8, 9, 7), {8}),
    ],
)
def test_what_goes_round_in_circles_ends(ids: tuple[int, ...], forbidden: set[int]) -> None:
    assert banned(*ids) == forbidden


@pytest.mark.parametrize(
    "ids",
    [
        (),
        (5,),
        (5, 5),  # a word twice
        (5, 6, 5),  # fox, fox
        (1, 2, 3, 9, 1, 2, 3),  # again, but not right behind
        (1, 2, 3, 1, 2),
        (30, 31, 32, 30, 31, 33, 30, 31, 32),  # letters in bytes, the same one again
        tuple(range(40)),
    ],
)
def test_ordinary_texts_are_left_alone(ids: tuple[int, ...]) -> None:
    assert banned(*ids) == set()


def test_rows_do_not_touch_one_another_and_scores_are_not_changed_in_place() -> None:
    ids, scores = torch.tensor([[5, 5, 5, 5], [1, 2, 3, 4]]), torch.zeros(2, 50)
    found = NoLoops()(ids, scores)
    assert not scores.any()
    assert torch.isinf(found[0]).sum() == 1 and not found[1].any()


def test_a_loop_that_nothing_else_ends_is_left_within_a_few_words() -> None:
    """The likeliest next token is always the one a phrase before; without the check that is for ever."""
    ids = [4, 7, 3, 9, 2]
    while len(ids) < 40:
        scores = torch.zeros(1, 50)
        scores[0, ids[-5]] = 1
        scores[0, 1] = 0.5  # the end
        ids.append(int(NoLoops()(torch.tensor([ids]), scores).argmax()))
        if ids[-1] == 1:
            break
    assert ids == [4, 7, 3, 9, 2, 4, 7, 3, 9, 1]
