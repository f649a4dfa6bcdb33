"""What a recipe would make, counted before anything is spent."""

from __future__ import annotations

from pathlib import Path

from mblip.config import DataRecipe
from mblip.corpora import EnglishStage, count_tasks
from mblip.corpora.sampling import stage_folder
from mblip.translation import plan_counts

Counts = dict[str, dict[str, dict[str, int]]]
"""Examples by source, task and language."""


def plan_mix(recipe: DataRecipe, work: Path | None = None) -> Counts:
    """How many examples of each source and task go to each language, before any is dropped.

    Args:
        recipe: The sources and the allocation.
        work: Work folder of ``mblip data sample``; a source that lies there is not read again.

    Raises:
        InputError: A source cannot be read, or the allocation leaves no language for a task.
    """
    counts: Counts = {}
    for source in recipe.sources:
        if work and (stage_folder(work, source.name) / "manifest.json").is_file():
            tasks = EnglishStage(work, source.name).tasks
        else:
            tasks = count_tasks(recipe, source)
        section = source.allocation or recipe.allocation
        counts[source.name] = {task: plan_counts(section, task, total) for task, total in sorted(tasks.items())}
    return counts
