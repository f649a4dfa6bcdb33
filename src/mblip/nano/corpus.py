"""Emoji scenes of the nano world as an English corpus.

Licence: pictures from Noto Color Emoji (OFL-1.1), names from Unicode CLDR (Unicode-3.0). No download is needed: a
    picture is composed from its key, which is also its key in the image store ``nano:scenes``.

Texts are the English names of concepts, in reading order and joined by a comma and a blank, so that a lexicon can
translate them.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mblip.errors import InputError, nearest, quoted
from mblip.nano.lexicon import SEPARATOR
from mblip.nano.scenes import Scene, sample_scene
from mblip.nano.words import load_lexicon
from mblip.schema import Example

LICENCE = "OFL-1.1 (pictures), Unicode-3.0 (names)"

# Share of negative texts: half of the yes/no texts are untrue, a tenth of the counts are zero, and half of the wrong
# objects are neighbours in Unicode's order, where a fox is beside a wolf.
_UNTRUE = 0.5
_ABSENT = 0.1
_NEAR = 0.5
_NEIGHBOURHOOD = 5
_MOST_OBJECTS = 4  # in a scene
_MOST_SCENES = 100_000_000  # the numbers of objects of all scenes are drawn at once

DEFAULT_TASKS = {
    "naming": 4.0, "caption": 4.0, "count_all": 1.0, "count": 1.5, "presence": 3.0, "left": 2.0, "right": 2.0,
    "matching": 1.0, "question_generation": 0.5, "cells": 1.0,
}  # fmt: skip


def read(
    source: str,
    scenes: int,
    texts: int = 6,
    split: str = "train",
    objects: tuple[float, ...] = (0.4, 0.3, 0.2, 0.1),
    repeat: float = 0.15,
    tasks: dict[str, float] | None = None,
    seed: int = 0,
) -> Iterator[Example]:
    """Yield ``texts`` examples of each of ``scenes`` scenes; a task may occur more than once per scene.

    Args:
        source: First part of the ids.
        scenes: Number of pictures.
        texts: Number of examples per picture.
        split: Name of the split; each name gives other pictures.
        objects: Shares of scenes with one, two, three and four objects.
        repeat: Share of scenes with several objects in which one occurs more than once.
        tasks: Weight of each task, if the scene allows it; :data:`DEFAULT_TASKS` by default.
        seed: Seed of all draws.

    Raises:
        InputError: A task is unknown, a number or share is invalid, or no task fits a scene.
    """
    weights = DEFAULT_TASKS if tasks is None else tasks
    if not 1 <= scenes <= _MOST_SCENES or texts < 1:
        raise InputError(
            f"the corpus 'scenes' makes 1 to {_MOST_SCENES:,} scenes and a text of each or more, not {quoted(scenes)} "
            f"and {quoted(texts)}"
        )
    for field, shares in (("objects", list(objects)), ("tasks", list(weights.values()))):
        if not all(0 <= share < math.inf for share in shares) or not sum(shares) or len(objects) > _MOST_OBJECTS:
            raise InputError(
                f"the corpus 'scenes' needs for {field} shares of 0 or more, at least one above 0, and at most "
                f"{_MOST_OBJECTS} objects, not {quoted(shares)}"
            )
    for task in weights:
        if task not in TASKS:
            raise InputError(f"the corpus 'scenes' has no task {task!r}{nearest(task, TASKS)}")
    concepts = load_lexicon().concepts
    stream = [zlib.crc32(split.encode()), seed]
    rng, draw = np.random.default_rng(stream), random.Random(f"{split} {seed}")
    counts = draw.choices(range(1, len(objects) + 1), objects, k=scenes)
    for index, count in enumerate(counts):
        scene = sample_scene(rng, count, concepts, repeat)
        possible = [task for task in possible_tasks(scene) if weights.get(task)]
        if not possible:
            raise InputError(f"none of the tasks {', '.join(weights)} can be used for a scene of {count} objects")
        chosen = draw.choices(possible, [weights[task] for task in possible], k=texts)
        for number, task in enumerate(chosen):
            yield scene_example(draw, scene, task, source, f"{split}-{index}-{number}")


def words(example: Example) -> list[str]:
    """The concepts of an English example, for ``translation.held_out``."""
    known = load_lexicon().emoji
    return [word for text in example.texts.values() for word in text.split(SEPARATOR) if word in known]


def possible_tasks(scene: Scene) -> list[str]:
    """The tasks that have one right answer for a scene."""
    return [task for task, (allows, _) in TASKS.items() if allows(scene)]


def scene_example(draw: random.Random, scene: Scene, task: str, source: str, row: str) -> Example:
    """An English example of a task about a scene that allows it (see :func:`possible_tasks`)."""
    texts = TASKS[task][1](draw, scene)
    return Example(
        id=f"{source}/{row}",
        source=source,
        task=task,
        images=(scene.key,),
        texts=texts,
        languages=dict.fromkeys(texts, "en"),
        licence=LICENCE,
    )


def _single(scene: Scene) -> bool:
    return len(scene.objects) == 1


def _listable(scene: Scene) -> bool:
    return len(scene.objects) <= 3 and len(set(scene.concepts)) == len(scene.objects)


def _side_by_side(scene: Scene) -> bool:
    return len(set(scene.concepts)) == 2 and [cell for _, cell in scene.objects] in ([0, 1], [2, 3])


def _any(scene: Scene) -> bool:
    return True


def _name(draw: random.Random, scene: Scene) -> dict[str, str]:
    return {"answer": scene.concepts[0]}


def _caption(draw: random.Random, scene: Scene) -> dict[str, str]:
    return {"caption": ", ".join(scene.concepts)}


def _count_all(draw: random.Random, scene: Scene) -> dict[str, str]:
    return {"answer": str(len(scene.objects))}


def _count(draw: random.Random, scene: Scene) -> dict[str, str]:
    asked = _other(draw, scene.concepts) if draw.random() < _ABSENT else draw.choice(scene.concepts)
    return {"question": asked, "answer": str(scene.concepts.count(asked))}


def _presence(draw: random.Random, scene: Scene) -> dict[str, str]:
    if draw.random() < _UNTRUE:
        return {"question": _other(draw, scene.concepts), "answer": "no"}
    return {"question": draw.choice(scene.concepts), "answer": "yes"}


def _left(draw: random.Random, scene: Scene) -> dict[str, str]:
    return {"answer": scene.concepts[0]}


def _right(draw: random.Random, scene: Scene) -> dict[str, str]:
    return {"answer": scene.concepts[1]}


def _matching(draw: random.Random, scene: Scene) -> dict[str, str]:
    named = list(scene.concepts)
    untrue = draw.random() < _UNTRUE
    if untrue:
        named[draw.randrange(len(named))] = _other(draw, scene.concepts)
    return {"caption": ", ".join(named), "answer": "no" if untrue else "yes"}


def _cells(draw: random.Random, scene: Scene) -> dict[str, str]:
    return {"caption": ", ".join(scene.cells)}


def _question(draw: random.Random, scene: Scene) -> dict[str, str]:
    return {"question": scene.concepts[0], "answer": "yes"}


def _other(draw: random.Random, present: Sequence[str]) -> str:
    """A concept that is not in the picture; half of the time a neighbour of one that is."""
    concepts = load_lexicon().concepts
    while True:
        if draw.random() < _NEAR:
            step = draw.choice([-1, 1]) * draw.randint(1, _NEIGHBOURHOOD)
            concept = concepts[(concepts.index(draw.choice(present)) + step) % len(concepts)]
        else:
            concept = draw.choice(concepts)
        if concept not in present:
            return concept


TASKS: dict[str, tuple[Callable[[Scene], bool], Callable[[random.Random, Scene], dict[str, str]]]] = {
    "naming": (_single, _name),
    "caption": (_listable, _caption),
    "count_all": (_any, _count_all),
    "count": (_any, _count),
    "presence": (_any, _presence),
    "left": (_side_by_side, _left),
    "right": (_side_by_side, _right),
    "matching": (_listable, _matching),
    "question_generation": (_single, _question),
    "cells": (_any, _cells),
}
"""By task: a condition on the scene, and the function that draws its texts."""
