"""What a recipe would make, counted before anything is spent."""

from __future__ import annotations

from pathlib import Path

from mblip.config import DataRecipe
from mblip.corpora import EnglishStage, count_examples
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
            read = EnglishStage(work, source.name).manifest.counts[source.name]
        else:
            read = count_examples(recipe, source)
        if source.translate:
            section = source.allocation or recipe.allocation
            read = {task: plan_counts(section, task, sum(read[task].values())) for task in read}
        counts[source.name] = read
    return counts
