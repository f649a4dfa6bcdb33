"""The translated examples of every source on disk, in parts that are complete or absent.

A part is a fixed range of a source's English examples. Its shard appears first, and its exclusion file, which marks it
as finished, last; so a stopped run continues with the parts without this mark. The engine's answers for an unfinished
part are in its journal, so at most the batches in flight are requested again. A part depends only on the recipe and the
English stage: one process, many, a cluster or a second try give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from itertools import accumulate
from pathlib import Path
from typing import Any

from mblip import plugins
from mblip.config import DataRecipe, ShortAnswerSection, SourceSection
from mblip.corpora.jobs import run_jobs
from mblip.corpora.reading import reader_module
from mblip.corpora.sampling import EnglishStage, sample_sources, stage_folder
from mblip.errors import InputError
from mblip.progress import Progress, silent
from mblip.replies import RULES
from mblip.schema import Drop, Example
from mblip.storage import (
    ImageStore,
    JsonlWriter,
    Manifest,
    ShardReader,
    ShardWriter,
    atomic_write,
    exclusive_lock,
    language_of,
    open_images,
    read_manifest,
    write_manifest,
)
from mblip.translation.allocation import Allocation, allocate, allowed_languages, codes, plan_counts
from mblip.translation.engines import Engine, lacking
from mblip.translation.journal import Journal
from mblip.translation.translating import ANSWER, OnTranslated, Translator, no_words, nobody


@dataclass(frozen=True)
class Part:
    """A range of a source's English examples.

    Attributes:
        offsets: Number of examples of each task before it, which locates its examples in the allocation.
    """

    recipe: DataRecipe
    source: SourceSection
    work: Path
    number: int
    start: int
    stop: int
    offsets: tuple[tuple[str, int], ...]

    @property
    def folder(self) -> Path:
        """The folder of the source's translated examples."""
        return translated_folder(self.work, self.source.name)

    @property
    def stem(self) -> str:
        """Common prefix of the names of its files."""
        return f"part-{self.number:05d}"

    @property
    def rows(self) -> int:
        """Number of its English examples."""
        return self.stop - self.start

    @property
    def answers(self) -> Path:
        """The journal of the engine's answers, while the part is unfinished."""
        return self.folder / f".{self.stem}.answers.jsonl"

    @property
    def mark(self) -> Path:
        """The exclusion file, which is written last."""
        return self.folder / f"exclusions-{self.number:05d}.jsonl"


def translated_folder(work: Path, source: str) -> Path:
    """The folder of a source's translated examples in a work folder."""
    return work / "translated" / source


def parts_of(recipe: DataRecipe, source: SourceSection, work: Path, rows: int) -> Iterator[Part]:
    """The parts of a source, each with ``rows`` examples (a multiple of the row group)."""
    stage = EnglishStage(work, source.name)
    for number, offsets in enumerate(stage.offsets(rows)):
        start, stop = number * rows, min((number + 1) * rows, stage.manifest.rows)
        yield Part(recipe, source, work, number, start, stop, tuple(offsets.items()))


def translate_part(part: Part, answers: Path, on_translated: OnTranslated = nobody) -> list[Example | Drop]:
    """Translate the examples of a part; one result for each, in order.

    Args:
        part: The part.
        answers: File of the :class:`~mblip.translation.journal.Journal`; the caller removes it when the results are
            saved.
        on_translated: Called with the number of the part's texts that the engine has answered.

    Raises:
        InputError: As in :meth:`mblip.translation.Translator.translate`.
    """
    examples = list(_reader(part.work, part.source.name).rows(part.start, part.stop))
    results: list[Example | Drop] = list(examples)
    languages = _allotted(part, examples)
    kept = []
    allowed = allowed_languages(part.source.allocation or part.recipe.allocation)
    for place, (example, language) in enumerate(zip(examples, languages, strict=True)):
        if drop := _left_out(example, language, allowed, part.recipe.images):
            results[place] = drop
        else:
            kept.append(place)
    if part.source.translate:
        translator = _translator(part.recipe.model_dump_json(), part.source.name, part.work)
        wanted = [examples[place] for place in kept], [languages[place] for place in kept]
        if getattr(translator.engine, "cheap", False):
            translated = translator.translate(*wanted, on_translated=on_translated)
        else:
            with Journal(answers, _identity(part, translator.engine)) as journal:
                translated = translator.translate(*wanted, journal, on_translated)
        for place, result in zip(kept, translated, strict=True):
            results[place] = result
    return results


def _identity(part: Part, engine: Engine) -> dict[str, Any]:
    """Everything known that decides an engine's answers for a part."""
    return {
        "translation": translation_hash(part.recipe, part.source, part.work),
        "rows": [part.start, part.stop],
        "engine": engine.name,
        "model": getattr(engine, "identity", ""),
        "replies": RULES,
        "mblip": metadata.version("mblip"),
        **plugins.engines.versions(part.recipe.translation.engine),
    }


def _allotted(part: Part, examples: Sequence[Example]) -> list[str]:
    """The language that each example is translated into, or its own if nothing is translated."""
    if not part.source.translate:
        return [language_of(example.languages.values()) for example in examples]
    allocation = _allocation(part.recipe.model_dump_json(), part.source.name, part.work)
    seen, names = dict(part.offsets), codes()
    languages = []
    for example in examples:
        place = seen.get(example.task, 0)
        seen[example.task] = place + 1
        languages.append(names[allocation[example.task][place]])
    return languages


def _left_out(example: Example, language: str, allowed: frozenset[str], images: str) -> Drop | None:
    """The drop for an example in a language that the recipe leaves out, or without its image."""
    if language not in allowed:
        return Drop(example.id, example.source, "language left out", "", example.task, language)
    for key in example.images if images else ():
        if key not in _store(images):
            return Drop(example.id, example.source, "missing image", key, example.task, language)
    return None


def write_part(part: Part, on_translated: OnTranslated = nobody) -> None:
    """Translate and write a part, unless it exists.

    Raises:
        InputError: As in :func:`translate_part`, or another process is making it.
    """
    if part.mark.exists():
        return
    with exclusive_lock(part.mark, "translating"):
        if part.mark.exists():
            return
        drops: list[Drop] = []
        with ShardWriter(part.folder, Example, stem=part.stem) as shards:
            for record in translate_part(part, part.answers, on_translated):
                if isinstance(record, Drop):
                    drops.append(record)
                else:
                    shards.write(record)
        with JsonlWriter(part.mark) as exclusions:
            for drop in drops:
                exclusions.write(drop)
        part.answers.unlink(missing_ok=True)


def translate_sources(
    recipe: DataRecipe, work: Path, *, workers: int = 1, progress: Progress = silent
) -> dict[str, Manifest]:
    """Translate every source of a recipe into ``work/translated/SOURCE``; finished parts are kept.

    Args:
        recipe: The recipe.
        work: Work folder; missing English examples are read into it first.
        workers: Number of processes, each with its own engine.
        progress: Called with the number of examples done.

    Raises:
        InputError: A source or the engine cannot be used, or the folder holds translations of another recipe.
    """
    stages = sample_sources(recipe, work, progress)
    sources = [source for source in recipe.sources if source.translate]
    untranslatable(recipe, work)
    parts = claim_sources(recipe, sources, work)
    missing = [part for part in parts if not part.mark.exists()]
    total = sum(part.rows for part in parts)
    done = total - sum(part.rows for part in missing)
    progress("translating", done, total)
    if progress is silent or (workers > 1 and len(missing) > 1):
        run_jobs(write_part, missing, workers, "translating", _in_rows(missing, done, total, progress))
    else:  # in this process, which can report progress within a part
        for part in missing:
            write_part(part, _within(part, done, total, progress))
            done += part.rows
            progress("translating", done, total)
    for part in parts:
        part.answers.unlink(missing_ok=True)  # left by a run that was stopped after the mark
    return {source.name: finish(recipe, source, work, stages[source.name]) for source in sources}


def _within(part: Part, done: int, total: int, progress: Progress) -> OnTranslated:
    return lambda answered, texts: progress("translating", done + part.rows * answered // max(1, texts), total)


def _in_rows(parts: Sequence[Part], done: int, total: int, progress: Progress) -> Progress:
    """Convert progress in parts to progress in examples, as if parts of several workers finished in order."""
    ends = list(accumulate((part.rows for part in parts), initial=done))
    return lambda stage, count, _: progress(stage, ends[count], total)


def untranslatable(recipe: DataRecipe, work: Path) -> dict[str, int]:
    """Number of examples by language (mC4 code) for allocated languages that the engine lacks, before any request.

    Raises:
        InputError: The engine lacks all languages, is unknown, or cannot be used.
    """
    wanted: Counter[str] = Counter()
    for source in recipe.sources:
        if source.translate:
            section = source.allocation or recipe.allocation
            for task, count in EnglishStage(work, source.name).tasks.items():
                wanted.update(plan_counts(section, task, count))
    del wanted["en"]
    translation = recipe.translation
    missing = lacking(translation.engine, translation.options, sorted(wanted), recipe.profile) if wanted else []
    if missing and len(missing) == len(wanted):
        raise InputError(
            f"the engine {translation.engine!r} translates into none of the allocated languages "
            f"({', '.join(missing[:10])}"
            f"{', ...' if len(missing) > 10 else ''}); choose another engine, install the pair, or change allocation"
        )
    return {code: wanted[code] for code in missing}


def claim_sources(recipe: DataRecipe, sources: Sequence[SourceSection], work: Path) -> list[Part]:
    """All parts of some sources, after a check that existing ones belong to this recipe.

    Raises:
        InputError: A folder holds translations of another recipe.
    """
    for source in sources:
        _claim(recipe, source, work)
    return [part for source in sources for part in parts_of(recipe, source, work, recipe.translation.rows_per_task)]


def finish(recipe: DataRecipe, source: SourceSection, work: Path, stage: EnglishStage) -> Manifest:
    """Write the manifest of a source with all its parts.

    Raises:
        InputError: A part is missing, or every example was dropped.
    """
    folder = translated_folder(work, source.name)
    if (folder / "manifest.json").is_file():
        return read_manifest(folder)
    for part in parts_of(recipe, source, work, recipe.translation.rows_per_task):
        if not part.mark.exists():
            raise InputError(f"{folder} lacks {part.mark.name}: translating is not finished; run it again")
    if not list(folder.glob("*.parquet")):
        raise InputError(f"every example of {source.name!r} was dropped; {folder}/exclusions-*.jsonl say why")
    licences = stage.manifest.licences
    identity = translation_hash(recipe, source, work)
    packages = plugins.corpora.versions(source.reader) | plugins.engines.versions(recipe.translation.engine)
    return write_manifest(folder, Example, seed=recipe.seed, recipe_hash=identity, licences=licences, packages=packages)


def translation_hash(recipe: DataRecipe, source: SourceSection, work: Path) -> str:
    """SHA-256 of everything that decides the translated examples of a source: the recipe and the English shards."""
    content = recipe.model_dump(
        mode="json", by_alias=True, include={"seed", "bad_rows", "allocation", "translation", "profile"}
    )
    if recipe.more_languages:
        content["more_languages"] = [language.model_dump(mode="json") for language in recipe.more_languages]
    del content["translation"]["max_failed"]  # a tolerance, which may be raised to continue a stopped run
    if recipe.images:
        content["images"] = recipe.images
    english = EnglishStage(work, source.name).manifest.shards
    whole = json.dumps([content, source.model_dump(mode="json", by_alias=True), english], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()


def is_translated(recipe: DataRecipe, source: SourceSection, work: Path) -> bool:
    """Whether a work folder has the finished translation of a source by this recipe.

    Raises:
        InputError: It has one by another recipe, or of other English examples.
    """
    folder = translated_folder(work, source.name)
    if not (folder / "manifest.json").is_file():
        return False
    if read_manifest(folder).recipe_hash != translation_hash(recipe, source, work):
        raise InputError(
            f"{folder} holds translations of another recipe or of older English examples; delete it or name another "
            "work folder"
        )
    return True


def _claim(recipe: DataRecipe, source: SourceSection, work: Path) -> None:
    """Check that parts in an unfinished folder belong to this recipe, before any counts as done."""
    if is_translated(recipe, source, work):
        return
    folder, wanted = translated_folder(work, source.name), translation_hash(recipe, source, work)
    claim = folder / "recipe.sha256"
    if claim.is_file() and claim.read_text() != wanted:
        raise InputError(
            f"{folder} holds part of a translation by another recipe or of older English examples; delete it or use "
            "another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(claim, "w") as file:
        file.write(wanted)


@lru_cache(maxsize=1)
def _store(images: str) -> ImageStore:
    return open_images(images)


@lru_cache(maxsize=2)
def _reader(work: Path, source: str) -> ShardReader[Example]:
    return ShardReader(stage_folder(work, source), Example)


@lru_cache(maxsize=2)
def _allocation(recipe: str, source: str, work: Path) -> Allocation:
    parsed = DataRecipe.model_validate_json(recipe)
    section = next(section for section in parsed.sources if section.name == source)
    return allocate(section.allocation or parsed.allocation, source, EnglishStage(work, source).tasks, parsed.seed)


@lru_cache(maxsize=2)
def _translator(recipe: str, source: str, work: Path) -> Translator:
    parsed = DataRecipe.model_validate_json(recipe)
    frequent = _frequent_answers(EnglishStage(work, source), parsed.translation.short_answers)
    section = next(section for section in parsed.sources if section.name == source)
    words = getattr(reader_module(section), "words", no_words) if parsed.translation.held_out else no_words
    return Translator(parsed.translation, frequent, parsed.profile, words)


def _frequent_answers(stage: EnglishStage, section: ShortAnswerSection) -> frozenset[str]:
    """Answers that occur often enough in a source, in lower case.

    If several tasks are made from the same rows, only the first one counts.
    """
    counted = next((task for task in section.tasks if task in stage.tasks), None)
    counts: Counter[str] = Counter()
    for tasks, texts in stage.reader.columns("task", "texts") if counted else ():
        counts.update(text[ANSWER].lower() for task, text in zip(tasks, texts, strict=True) if task == counted)
    return frozenset(answer for answer, count in counts.items() if count >= section.min_count)
