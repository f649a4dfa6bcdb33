"""Count what a recipe would make, and check that its settings are consistent, before any costly work."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mblip.config import DataRecipe, SourceSection
from mblip.corpora import Counted, EnglishStage, check_names, count_examples, sample_source, sample_sources
from mblip.corpora.reading import reader_module
from mblip.errors import InputError, MblipError, counted, nearest
from mblip.mixture.exclusion import evaluation_images
from mblip.mixture.templates import Templates, has_prompt, load_templates
from mblip.progress import Progress, silent
from mblip.schema import Example
from mblip.translation import check_engine, check_languages, plan_counts

Counts = dict[str, dict[str, dict[str, int]]]
"""Examples by source, task and language."""


def plan_mix(recipe: DataRecipe, work: Path | None = None, progress: Progress = silent) -> Counts:
    """Numbers of examples by source, task and language, before any is dropped.

    Args:
        recipe: The sources and the allocation.
        work: Work folder of ``mblip data sample``, whose samples are reused and to which new ones are added.
        progress: Called with the progress.

    Raises:
        InputError: A source cannot be read, or settings are inconsistent.
    """
    templates = check_recipe(recipe)
    return {source.name: _count(recipe, source, templates, work, progress)[0] for source in recipe.sources}


@dataclass(frozen=True)
class PartialPlan:
    """The plan of a recipe with missing corpora.

    Attributes:
        counts: Counts of the sources that can be read.
        drops: Rows of these that were left out, by source and reason.
        missing: Why the others cannot be counted, by source.
    """

    counts: Counts = field(default_factory=dict)
    drops: dict[str, dict[str, int]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def plan_what_is_there(recipe: DataRecipe, work: Path | None = None, progress: Progress = silent) -> PartialPlan:
    """Like :func:`plan_mix` for the sources that can be counted, with the reasons why others cannot.

    Raises:
        InputError: Settings are inconsistent.
    """
    templates, plan = check_recipe(recipe), PartialPlan()
    for source in recipe.sources:
        try:
            plan.counts[source.name], plan.drops[source.name] = _count(recipe, source, templates, work, progress)
        except MblipError as error:
            plan.missing[source.name] = str(error)
    return plan


def _count(
    recipe: DataRecipe, source: SourceSection, templates: Templates, work: Path | None, progress: Progress
) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """Examples of a source by task and language, and the rows that were left out."""
    if work:
        stage = sample_source(recipe, source, work, progress)
        read = Counted(stage.counts, stage.manifest.drops, stage.first_examples())
    else:
        read = count_examples(recipe, source)
    _check_source(source, read.examples, read.first, templates)
    if not source.translate:
        return read.examples, read.drops
    section = source.allocation or recipe.allocation
    totals = {task: sum(languages.values()) for task, languages in read.examples.items()}
    return {task: plan_counts(section, task, total) for task, total in totals.items()}, read.drops


def check_samples(recipe: DataRecipe, work: Path, progress: Progress = silent) -> dict[str, EnglishStage]:
    """Read the sources, as ``sample_sources`` does, and check that the templates fit what was read.

    The check comes before any translation; otherwise a template with a text that the examples lack would be noticed
    last.

    Raises:
        InputError: As in :func:`check_recipe` and ``sample_sources``, or a template does not fit an example.
    """
    templates = check_recipe(recipe)
    stages = sample_sources(recipe, work, progress)
    for source in recipe.sources:
        stage = stages[source.name]
        _check_source(source, stage.counts, stage.first_examples(), templates)
    return stages


def _check_source(
    source: SourceSection, counts: dict[str, dict[str, int]], first: list[Example], templates: Templates
) -> None:
    """Check a source's examples: each task needs templates that fit, and only English may need translation."""
    known = _tasks(templates)
    as_they_are = {example.task for example in first if has_prompt(example)}
    for task, languages in counts.items():
        if task not in known and task not in as_they_are:
            raise InputError(f"source {source.name!r}: no template is for its task {task!r}{nearest(task, known)}")
        for code in languages:
            if source.translate and code != "en":
                raise InputError(
                    f"source {source.name!r} holds {counted(languages[code], 'example')} in {code!r}, but only English is "
                    "translated; set the source's translate to false"
                )
    for example in first:
        templates.check(example)


def _tasks(templates: Templates) -> set[str]:
    return {task for task, _ in templates.english()} | templates.text_only.keys()


def check_recipe(recipe: DataRecipe) -> Templates:
    """Check all that needs no corpus and no model; returns the recipe's templates.

    Raises:
        InputError: A language, engine, template or task is unknown, two sources have the same name, or a list of
            evaluation images cannot be read.
    """
    check_names(recipe)
    templates = load_templates(recipe.templates, recipe.profile)
    known = _tasks(templates)
    check_engine(recipe.translation.engine, recipe.translation.options)
    if recipe.translation.held_out and not any(hasattr(reader_module(source), "words") for source in recipe.sources):
        names = ", ".join(dict.fromkeys(source.reader for source in recipe.sources))
        raise InputError(
            f"translation.held_out: the corpora of this recipe ({names}) do not record the words of their examples; "
            "set it to 0"
        )
    evaluation_images(recipe.exclude_images)
    named = {"translation.short_answers.tasks": recipe.translation.short_answers.tasks}
    for section in [recipe.allocation, *(source.allocation for source in recipe.sources if source.allocation)]:
        check_languages(section)
        named |= {"allocation.task_languages": tuple(section.task_languages)}
        for pair in section.disjoint:
            named |= {"allocation.disjoint": pair}
        for setting, tasks in named.items():
            for task in tasks:
                if task not in known:
                    raise InputError(f"{setting}: no template is for a task {task!r}{nearest(task, known)}")
    return templates
