"""New scenes of the nano world: naming, captions, counting, presence and matching in every language.

Items and pictures are generated from fixed seeds.

The results are limited: every concept has one picture, known from training, in new sizes, places and surroundings, and
the language model has read the same words. Transfer is measured on held-out pairs of concept and language, which no
training picture has joined (``translation.held_out``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mblip.evaluation.benchmark import Benchmark, Item, Options, Scored, mean_accuracy
from mblip.evaluation.metric import ACCURACY, Metric
from mblip.languages import LANGUAGES, YES_NO
from mblip.mixture.templates import load_templates
from mblip.nano.plugin import TEMPLATES
from mblip.nano.scenes import Scene, sample_scene
from mblip.nano.words import load_lexicon
from mblip.translation.holdout import is_held_out

NAME = "scenes"
TASKS = ("naming", "naming_never_shown", "caption_1", "caption_2", "caption_3", "counting", "presence", "matching")
PROMPTS = {task: template.prompt for task, template in load_templates((str(TEMPLATES),)).english()}
GENERATION = {"max_new_tokens": 12, "do_sample": False, "num_beams": 1}


@dataclass(frozen=True, slots=True)
class SceneItem:
    """One question about one scene; ``reference`` is the only right answer."""

    id: str
    image: str
    task: str
    language: str
    prompt: str
    reference: str


def load_items(
    languages: Sequence[str],
    scenes: int = 50,
    tasks: Sequence[str] = TASKS,
    held_out: float = 0.2,
    split: str = "test",
) -> list[SceneItem]:
    """Make ``scenes`` items per language and task; yes/no tasks only in languages whose two words were checked by hand.

    Args:
        languages: mC4 codes of the lexicon.
        scenes: Number of items per language and task.
        tasks: Some of :data:`TASKS`.
        held_out: The share of pairs that the mix holds out (its recipe's ``translation.held_out``).
        split: ``test``, or ``validation`` to choose settings; never that of training.
    """
    lexicon = load_lexicon()
    items = []
    for language in languages:
        named = [concept for concept in lexicon.concepts if lexicon.name(concept, language)]
        held = [concept for concept in named if is_held_out(concept, language, held_out)]
        shown = [concept for concept in named if concept not in set(held)]
        for task in tasks:
            pool = held if task == "naming_never_shown" else shown
            if (task in ("presence", "matching") and language not in YES_NO) or len(pool) < 4:
                continue
            seed = [TASKS.index(task), list(LANGUAGES).index(language), 7 if split == "test" else 8]
            rng = np.random.default_rng(seed)
            for number in range(scenes):
                scene, prompt, reference = _draw(rng, task, language, pool)
                items.append(SceneItem(f"{language}-{task}-{number}", scene.key, task, language, prompt, reference))
    return items


def _draw(rng: np.random.Generator, task: str, language: str, pool: list[str]) -> tuple[Scene, str, str]:
    name = LANGUAGES[language].name
    if task.startswith("naming"):
        scene = sample_scene(rng, 1, pool)
        return scene, PROMPTS["naming"].format(language=name), _words(scene.concepts, language)
    if task.startswith("caption"):
        scene = sample_scene(rng, int(task[-1]), pool)
        return scene, PROMPTS["caption"].format(language=name), _words(scene.concepts, language)
    if task == "counting":
        scene = sample_scene(rng, int(rng.integers(1, 5)), pool, repeat=0.6)
        asked = scene.concepts[int(rng.integers(len(scene.concepts)))]
        return scene, PROMPTS["count"].format(question=_words([asked], language)), str(scene.concepts.count(asked))
    scene = sample_scene(rng, int(rng.integers(1, 4)), pool)
    truth = bool(rng.random() < 0.5)
    named = list(scene.concepts)
    place = int(rng.integers(len(named)))
    if not truth:
        named[place] = _absent(rng, pool, scene)
    answer = YES_NO[language][0 if truth else 1]
    if task == "presence":
        return scene, PROMPTS["presence"].format(question=_words([named[place]], language), language=name), answer
    return scene, PROMPTS["matching"].format(caption=_words(named, language), language=name), answer


def _absent(rng: np.random.Generator, pool: list[str], scene: Scene) -> str:
    while (concept := pool[int(rng.integers(len(pool)))]) in scene.concepts:
        continue
    return concept


def _words(concepts: Sequence[str], language: str) -> str:
    lexicon = load_lexicon()
    return ", ".join(lexicon.name(concept, language) or "" for concept in concepts)


def is_right(item: SceneItem, answer: str) -> bool:
    """Exact match of the complete answer."""
    return answer == item.reference


def is_faithful(item: SceneItem, answer: str) -> bool | None:
    """Whether every word of an answer is in the requested language's lexicon; None for tasks answered by a number.

    A name that several languages share counts for each of them. A list that is cut off at a comma is wrong, but its
    words still have a language.
    """
    if item.task == "counting":
        return None
    if item.task in ("presence", "matching"):
        return answer in YES_NO[item.language]
    own = _vocabulary(item.language)
    words = answer.rstrip(", ").split(", ")
    return all(word in own for word in words)


def _vocabulary(language: str) -> set[str]:
    if language not in _VOCABULARIES:
        _VOCABULARIES[language] = set(load_lexicon().names[language].values())
    return _VOCABULARIES[language]


_VOCABULARIES: dict[str, set[str]] = {}


def read(path: Path, language: str) -> list[Item]:
    """The items in a language; the path is ignored."""
    return [as_item(item) for item in load_items((language,))]


def score(items: Sequence[Item], answers: Sequence[str], options: Options) -> Scored:
    """Accuracy over all questions, exact match of each task as a fraction, and language fidelity.

    Fidelity is measured on answers that are words.
    """
    pairs = [(_told(item, options.language), answer) for item, answer in zip(items, answers, strict=True)]
    accuracy, right = mean_accuracy([is_right(item, answer) for item, answer in pairs])
    tasks = np.array([item.task for item, _ in pairs])
    by_task = {task: float(right[tasks == task].mean()) for task in TASKS if task in tasks}
    found = [judged for item, answer in pairs if (judged := is_faithful(item, answer)) is not None]
    fidelity = {"language_fidelity": sum(found) / len(found)} if found else {}
    return Scored(
        {"accuracy": accuracy, **by_task, **fidelity}, items, {"accuracy": right}, {"normaliser": "none, exact match"}
    )


def as_item(item: SceneItem) -> Item:
    """The item for the evaluation's runner."""
    return Item(item.id, (item.image,), item.prompt, item.reference)


def _task(item: Item) -> str:
    return item.id.partition("-")[2].rpartition("-")[0]


def _told(item: Item, language: str) -> SceneItem:
    return SceneItem(item.id, item.images[0], _task(item), language, item.text, item.gold)


BENCHMARK = Benchmark(
    name=NAME,
    languages=load_lexicon().named_languages(),
    files=(),
    read=read,
    prompt="{text}",
    decoding=GENERATION,
    score=score,
    kind=_task,
    metrics=(ACCURACY, *map(Metric, TASKS), Metric("language_fidelity")),
    images=("nano:scenes",),
    source="made by mblip, of emoji (Noto, OFL-1.1) and their names (Unicode CLDR, Unicode-3.0)",
)
