"""The emoji scenes as a corpus: every text is true of its picture, or untrue where it says so."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from mblip.errors import InputError
from mblip.nano import corpus as scenes
from mblip.nano.scenes import Scene
from mblip.nano.words import load_lexicon
from mblip.schema import Example


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return list(scenes.read("nano", scenes=1500, texts=4, seed=3))


def _scene(example: Example) -> Scene:
    return Scene.from_key(example.images[0])


def test_every_answer_follows_from_the_picture(examples: list[Example]) -> None:
    seen = Counter[str]()
    for example in examples:
        concepts = _scene(example).concepts
        cells = dict(zip(concepts, (cell for _, cell in _scene(example).objects), strict=True))
        texts = example.texts
        answer = texts.get("answer")
        match example.task:
            case "naming":
                assert [answer] == list(concepts)
            case "caption":
                assert texts["caption"].split(", ") == list(concepts)
                assert 1 <= len(concepts) <= 3
            case "cells":
                told = texts["caption"].split(", ")
                assert {cell: told[cell] for cell in range(4) if told[cell] != "-"} == {
                    cell: concept for concept, cell in _scene(example).objects
                }
            case "count_all":
                assert answer == str(len(concepts))
            case "count":
                assert answer == str(concepts.count(texts["question"]))
            case "presence":
                assert (answer == "yes") == (texts["question"] in concepts)
            case "left" | "right":
                assert len(concepts) == 2
                assert cells[str(answer)] % 2 == (0 if example.task == "left" else 1)
                assert len({cell // 2 for cell in cells.values()}) == 1
            case "matching":
                assert (answer == "yes") == (texts["caption"].split(", ") == list(concepts))
            case "question_generation":
                assert (texts["question"], answer) == (concepts[0], "yes")
            case other:
                raise AssertionError(other)
        seen[example.task] += 1
    assert set(seen) == set(scenes.TASKS)


def test_yes_and_no_are_balanced_and_half_the_wrong_objects_are_near(examples: list[Example]) -> None:
    order = list(load_lexicon().concepts)
    presence = [example for example in examples if example.task == "presence"]
    no = [example for example in presence if example.texts["answer"] == "no"]
    assert len(presence) > 500
    assert 0.45 < len(no) / len(presence) < 0.55
    near = 0
    for example in no:
        gaps = [abs(order.index(example.texts["question"]) - order.index(c)) for c in _scene(example).concepts]
        near += min(min(gap, len(order) - gap) for gap in gaps) <= 5
    assert 0.45 < near / len(no) < 0.7


def test_ids_are_unique_and_texts_of_a_scene_share_its_key(examples: list[Example]) -> None:
    assert len({example.id for example in examples}) == len(examples) == 6000
    by_scene = Counter(example.images[0] for example in examples)
    assert set(by_scene.values()) == {4}


def test_same_seed_same_examples_other_split_other_pictures(examples: list[Example]) -> None:
    assert list(scenes.read("nano", scenes=1500, texts=4, seed=3)) == examples
    other = {example.images[0] for example in scenes.read("nano", scenes=1500, texts=1, seed=3, split="test")}
    assert not other & {example.images[0] for example in examples}


def test_unknown_task_is_named() -> None:
    with pytest.raises(InputError, match="no task 'countall'; did you mean 'count_all'"):
        list(scenes.read("nano", scenes=1, tasks={"countall": 1}))


def test_scene_that_no_task_fits() -> None:
    with pytest.raises(InputError, match="none of the tasks left can be used for a scene of 1 objects"):
        list(scenes.read("nano", scenes=3, objects=(1.0,), tasks={"left": 1}))


@pytest.mark.parametrize(
    "options",
    [
        {"scenes": 0},
        {"scenes": 10**30},
        {"texts": -5},
        {"objects": ()},
        {"objects": (0.0, 0.0)},
        {"objects": (float("nan"), 1.0)},
        {"objects": (1.0,) * 5},
        {"tasks": {"naming": -1.0}},
        {"tasks": {"naming": float("inf")}},
    ],
)
def test_numbers_that_no_corpus_has_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="the corpus 'scenes'"):
        next(scenes.read("nano", **{"scenes": 1, **options}))
