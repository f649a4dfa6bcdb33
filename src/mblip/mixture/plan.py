"""What a recipe would make, counted before anything is spent, and whether its settings fit each other."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import Any

from mblip.config import DataRecipe, SourceSection
from mblip.corpora import EnglishStage, check_names, count_examples, sample_source, sample_sources
from mblip.corpora.jobs import Progress, silent
from mblip.errors import InputError, nearest
from mblip.mixture.exclusion import evaluation_images
from mblip.mixture.templates import load_templates
from mblip.translation import check_engine, check_languages, plan_counts

Counts = dict[str, dict[str, dict[str, int]]]
"""Examples by source, task and language."""


def plan_mix(recipe: DataRecipe, work: Path | None = None, progress: Progress = silent) -> Counts:
    """How many examples of each source and task go to each language, before any is dropped.

    Args:
        recipe: The sources and the allocation.
        work: Work folder of ``mblip data sample``: what lies there is not read again, what does not is kept there.
        progress: Is told how far it is.

    Raises:
        InputError: A source cannot be read, or settings that cannot be.
    """
    known = check_recipe(recipe)
    return {source.name: _count(recipe, source, known, work, progress) for source in recipe.sources}


def plan_what_is_there(
    recipe: DataRecipe, work: Path | None = None, progress: Progress = silent
) -> tuple[Counts, dict[str, str]]:
    """As :func:`plan_mix` for the sources that can be counted; and why the others cannot, by source.

    Raises:
        InputError: Settings that cannot be.
    """
    known = check_recipe(recipe)
    counts: Counts = {}
    missing: dict[str, str] = {}
    for source in recipe.sources:
        try:
            counts[source.name] = _count(recipe, source, known, work, progress)
        except InputError as error:
            missing[source.name] = str(error)
    return counts, missing


def _count(
    recipe: DataRecipe, source: SourceSection, known: Set[str], work: Path | None, progress: Progress
) -> dict[str, Any]:
    """Examples of a source by task and language."""
    read: dict[str, Any]
    if work:
        read = sample_source(recipe, source, work, progress).manifest.counts[source.name]
    else:
        read = count_examples(recipe, source)
    _check_source(source, read, known)
    if source.translate:
        section = source.allocation or recipe.allocation
        read = {task: plan_counts(section, task, sum(read[task].values())) for task in read}
    return read


def check_samples(recipe: DataRecipe, work: Path, progress: Progress = silent) -> dict[str, EnglishStage]:
    """Read the sources, as ``sample_sources`` does, and check that the templates fit what was read.

    Before anything is translated, that is: a template that shows a text which the examples lack would be noticed last.

    Raises:
        InputError: As in :func:`check_recipe` and ``sample_sources``, or an example that a template does not fit.
    """
    known = check_recipe(recipe)
    stages = sample_sources(recipe, work, progress)
    templates = load_templates(recipe.templates, recipe.profile)
    for source in recipe.sources:
        stage = stages[source.name]
        _check_source(source, stage.manifest.counts[source.name], known)
        for example in stage.first_examples():
            templates.check(example)
    return stages


def _check_source(source: SourceSection, counts: dict[str, Any], known: Set[str]) -> None:
    """Check what was read of a source: a template for each of its tasks, and nothing to translate but English."""
    for task, languages in counts.items():
        if task not in known:
            raise InputError(f"source {source.name!r}: no template is for its task {task!r}{nearest(task, known)}")
        for code in languages:
            if source.translate and code != "en":
                raise InputError(
                    f"source {source.name!r} holds {languages[code]:,} examples in {code!r}, but only English is "
                    "translated; set the source's translate to false"
                )


def check_recipe(recipe: DataRecipe) -> Set[str]:
    """Check what can be checked without reading a corpus or loading a model; the tasks that have a template.

    Raises:
        InputError: An unknown language, engine, template or task, two sources of one name, or a file of evaluation
            images that cannot be read.
    """
    check_names(recipe)
    known = {task for task, _ in load_templates(recipe.templates).english()}
    check_engine(recipe.translation.engine, recipe.translation.options)
    evaluation_images(recipe.exclude_images)
    named = {"translation.short_answers.tasks": recipe.translation.short_answers.tasks}
    for section in [recipe.allocation, *(source.allocation for source in recipe.sources if source.allocation)]:
        check_languages(section)
        named |= {"allocation.task_languages": tuple(section.task_languages)}
        for pair in section.apart:
            named |= {"allocation.apart": pair}
        for field, tasks in named.items():
            for task in tasks:
                if task not in known:
                    raise InputError(f"{field}: no template is for a task {task!r}{nearest(task, known)}")
    return known
