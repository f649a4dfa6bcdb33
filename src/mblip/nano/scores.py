"""Score answers about scenes: means over languages, with intervals over scenes and seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mblip.nano.benchmark import SceneItem, is_faithful, is_right

# The task of each figure in the headline.
HEADLINE = {
    "naming_exact": "naming",
    "naming_exact_never_shown": "naming_never_shown",
    "two_object_caption": "caption_2",
    "presence": "presence",
    "counting": "counting",
}
RESAMPLES = 500

# For each seed of training, item id -> answer.
Answers = Sequence[Mapping[str, str]]


def score_scenes(items: Sequence[SceneItem], answers: Answers) -> dict[str, Any]:
    """All figures of one model (one or more training seeds).

    Returns:
        ``headline`` (each figure is a fraction with ``ci95``: languages have equal weight, scenes and seeds are
        resampled 500 times), ``tasks`` (the same by task), and ``languages``: code -> the headline's figures of that
        language, and its ``tasks``.
    """
    rights: dict[tuple[str, str], NDArray[np.float64]] = {}
    faithful: dict[tuple[str, str], NDArray[np.float64]] = {}
    grouped: dict[tuple[str, str], list[SceneItem]] = defaultdict(list)
    for item in items:
        grouped[item.task, item.language].append(item)
    for key, group in grouped.items():
        rights[key] = np.array([[is_right(i, run[i.id]) for i in group] for run in answers], dtype=float)
        judged = [[is_faithful(i, run[i.id]) for i in group] for run in answers]
        if judged[0][0] is not None:
            faithful[key] = np.array(judged, dtype=float)
    rng = np.random.default_rng(0)
    headline: dict[str, Any] = {"languages": len({item.language for item in items})}
    by_task: dict[str, Any] = {}
    # The headline's tasks draw random numbers first, then the others.
    for task in dict.fromkeys([*HEADLINE.values(), *sorted({task for task, _ in rights})]):
        cells = [array for (of, _), array in rights.items() if of == task]
        if cells:
            by_task[task] = with_interval(cells, rng)
    headline.update({name: by_task[task] for name, task in HEADLINE.items() if task in by_task})
    headline["language_fidelity"] = with_interval(list(faithful.values()), rng)
    languages: dict[str, dict[str, Any]] = {item.language: {} for item in items}
    for language, figures in languages.items():
        tasks = {task: with_interval([array], rng) for (task, code), array in rights.items() if code == language}
        figures.update({name: tasks[task] for name, task in HEADLINE.items() if task in tasks})
        own = [array for (_, code), array in faithful.items() if code == language]
        figures.update(language_fidelity=with_interval(own, rng), tasks=tasks)
    return {
        "headline": headline,
        "tasks": by_task,
        "languages": languages,
        "seeds": len(answers),
    }


def with_interval(cells: list[NDArray[np.float64]], rng: np.random.Generator) -> dict[str, Any]:
    """The mean over languages and its 95 % interval; each cell is [seeds, scenes] of one language."""
    value = float(np.mean([cell.mean() for cell in cells]))
    seeds = len(cells[0])
    # Counts of each seed, the same for all languages, and of each scene of a language [draws, seeds or scenes].
    drawn_seeds = rng.multinomial(seeds, [1 / seeds] * seeds, size=RESAMPLES)
    draws = np.zeros(RESAMPLES)
    for cell in cells:
        scenes = cell.shape[1]
        drawn = rng.multinomial(scenes, [1 / scenes] * scenes, size=RESAMPLES)
        draws += ((drawn_seeds @ cell) * drawn).sum(1) / (seeds * scenes)
    low, high = np.quantile(draws / len(cells), [0.025, 0.975])
    return {"value": value, "ci95": [float(low), float(high)]}
