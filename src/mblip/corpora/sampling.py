"""The first stage on disk: the English examples of every source, as shards for the later steps."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from itertools import chain
from pathlib import Path

from mblip import plugins
from mblip.catalogue.wanted import check_raw_files
from mblip.config import DataRecipe, SourceSection
from mblip.corpora.provenance import changed_file, load_stamps, raw_files, save_stamps, stamp_files
from mblip.corpora.reading import files_to_read, nothing_read, read_source, reader_module
from mblip.errors import InputError, MblipError
from mblip.progress import Progress, silent
from mblip.schema import Drop, Example
from mblip.storage import (
    JsonlWriter,
    Manifest,
    ShardReader,
    ShardWriter,
    count_rows,
    no_empty_folders,
    own_folder,
    read_drops,
    read_jsonl,
    read_manifest,
    write_manifest,
)

ROWS_PER_PART = 20 * 1024  # a stopped run repeats at most one part; a multiple of the row group, as are chunks
STAMPS = ".raw.json"
_SCRATCH = ".scratch"


class EnglishStage:
    """The English examples of one source in a work folder.

    Raises:
        InputError: The stage is not finished.
    """

    def __init__(self, work: Path, source: str) -> None:
        self.folder = stage_folder(work, source)
        self.manifest: Manifest = read_manifest(self.folder)

    @cached_property
    def reader(self) -> ShardReader[Example]:
        """The examples."""
        return ShardReader(self.folder, Example)

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Examples by task and language, over all parts of the source."""
        found: dict[str, Counter[str]] = {}
        for tasks in self.manifest.counts.values():
            for task, languages in tasks.items():
                found.setdefault(task, Counter()).update(languages)
        return {task: dict(sorted(languages.items())) for task, languages in sorted(found.items())}

    @cached_property
    def tasks(self) -> dict[str, int]:
        """Examples by task."""
        return self.manifest.by_task

    def first_examples(self) -> list[Example]:
        """The first example of each task."""
        missing, row, found = set(self.tasks), 0, []
        for (tasks,) in self.reader.columns("task"):
            found += [row + tasks.index(task) for task in sorted(missing & set(tasks))]
            missing -= set(tasks)
            row += len(tasks)
            if not missing:
                break
        return self.reader.take(found)

    def offsets(self, rows_per_chunk: int) -> list[dict[str, int]]:
        """For each chunk of rows (a multiple of the row group), the number of examples of each task before it."""
        offsets: list[dict[str, int]] = []
        seen: Counter[str] = Counter()
        rows = 0
        for (tasks,) in self.reader.columns("task"):
            if rows % rows_per_chunk == 0:
                offsets.append(dict(seen))
            seen.update(tasks)
            rows += len(tasks)
        return offsets


def stage_folder(work: Path, source: str) -> Path:
    """The folder of a source's English examples in a work folder."""
    return work / "english" / source


def sample_sources(recipe: DataRecipe, work: Path, progress: Progress = silent) -> dict[str, EnglishStage]:
    """Read every source of a recipe into ``work/english/SOURCE``; finished sources are not read again.

    A stopped run continues with its unfinished part.

    Raises:
        InputError: A source cannot be read, has repeated ids, yields nothing, or the folder has the examples of another
            recipe or of raw files that have changed since.
    """
    check_names(recipe)
    check_raw(recipe, work)
    with no_empty_folders(stage_folder(work, "")):
        return {source.name: sample_source(recipe, source, work, progress) for source in recipe.sources}


def check_raw(recipe: DataRecipe, work: Path) -> None:
    """Check that the raw files of all unread sources exist.

    Raises:
        InputError: Some are missing; the message names all of them, and the command that downloads them.
    """
    unread = [
        source
        for source in recipe.sources
        if source.reader != "matching" and not (stage_folder(work, source.name) / "manifest.json").is_file()
    ]
    paths = [path for source in unread for path in files_to_read(source)]
    check_raw_files(paths, f"the sources {', '.join(source.name for source in unread)}")


def check_names(recipe: DataRecipe) -> None:
    """Check that the sources of a recipe have different names.

    Raises:
        InputError: Two have the same name.
    """
    names = [source.name for source in recipe.sources]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two sources of the recipe have the name {name!r}; rename one")


def sampled_urls(recipe: DataRecipe, work: Path) -> Iterator[tuple[str, str]]:
    """Image keys and addresses of the sampled examples, for all sources whose readers list addresses.

    Raises:
        InputError: The sources are not sampled yet, or none of them lists addresses.
    """
    listing = [source for source in recipe.sources if hasattr(reader_module(source), "urls")]
    if not listing:
        raise InputError(
            "no source of this recipe lists the addresses of its images; download them as its reader's documentation "
            "says"
        )
    for source in listing:
        reader = EnglishStage(work, source.name).reader
        wanted = {hash(key) for (images,) in reader.columns("images") for keys in images for key in keys}
        for key, url in reader_module(source).urls(**source.options):
            if hash(key) in wanted:
                yield key, url


def sample_source(recipe: DataRecipe, source: SourceSection, work: Path, progress: Progress = silent) -> EnglishStage:
    """Read one source, like :func:`sample_sources`; a second process is refused in the same work folder."""
    if (stage_folder(work, source.name) / "manifest.json").is_file():
        return _sample(recipe, source, work, progress)  # only reads, as any number of processes may
    with own_folder(stage_folder(work, ""), "reading the corpora"):
        return _sample(recipe, source, work, progress)


def _sample(recipe: DataRecipe, source: SourceSection, work: Path, progress: Progress) -> EnglishStage:
    folder = stage_folder(work, source.name)
    wanted = _hash(recipe, source)
    read_by, stamps = load_stamps(folder / STAMPS)
    changed = changed_file(stamps)
    if (folder / "manifest.json").is_file():
        if read_manifest(folder).recipe_hash != wanted:
            raise InputError(f"{folder} holds the examples of another recipe; delete it or name another work folder")
        if changed:
            raise InputError(
                f"{changed} has changed since {folder} was read from it; delete that folder to read it again"
            )
        return EnglishStage(work, source.name)
    if not read_by and folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} holds files that mblip data sample has not written; name another work folder")
    if read_by != wanted or changed:  # nothing is finished; perhaps a bad row was corrected
        shutil.rmtree(folder, ignore_errors=True)
    if read_by != wanted or changed or not stamps:
        save_stamps(folder / STAMPS, wanted, stamp_files(raw_files(source, reader_module(source).read)))
    try:
        _write(recipe, source, folder, progress)
    except MblipError:
        if not _finished(folder)[0] and not (folder / _SCRATCH).exists():  # nothing to continue
            shutil.rmtree(folder, ignore_errors=True)
        raise
    licences: dict[str, set[str]] = {}  # by the source in the rows, which may be a part of this source
    for names, column in ShardReader(folder, Example).columns("source", "licence"):
        for name, licence in dict.fromkeys(zip(names, column, strict=True)):
            licences.setdefault(name, set()).add(licence)
    write_manifest(
        folder,
        Example,
        seed=recipe.seed,
        recipe_hash=wanted,
        licences={name: "; ".join(sorted(found)) for name, found in licences.items()},
        packages=plugins.corpora.versions(source.reader),
    )
    shutil.rmtree(folder / _SCRATCH, ignore_errors=True)
    return EnglishStage(work, source.name)


def _write(recipe: DataRecipe, source: SourceSection, folder: Path, progress: Progress) -> None:
    """Write the missing parts: a shard of ``ROWS_PER_PART`` examples, then its exclusion file, which marks the end."""
    number, rows, done = _finished(folder)
    records = read_source(recipe, source, done=done, scratch=folder / _SCRATCH)
    for record in records:
        (folder / _shard(number)).unlink(missing_ok=True)  # from an unfinished part
        with (
            JsonlWriter(folder / f"exclusions-{number:05d}.jsonl") as drops,
            ShardWriter(folder, Example, stem=f"part-{number:05d}") as shards,
        ):
            kept = 0
            for part_record in chain([record], records):
                if isinstance(part_record, Drop):
                    drops.write(part_record)
                    continue
                shards.write(part_record)
                kept += 1
                if kept % 1024 == 0:
                    progress(f"reading {source.name}", rows + kept, None)
                if kept == ROWS_PER_PART:
                    break
        rows += kept
        number += 1
    if not rows:
        first = next(read_drops(folder), None)
        for part in folder.glob("exclusions-*.jsonl"):
            part.unlink()
        raise nothing_read(source, first)
    progress(f"reading {source.name}", rows, rows)


def _finished(folder: Path) -> tuple[int, int, int]:
    """Numbers of finished parts, of their examples, and of the records behind them."""
    number = rows = done = 0
    while (mark := folder / f"exclusions-{number:05d}.jsonl").is_file():
        shard = folder / _shard(number)
        kept = count_rows(shard) if shard.is_file() else 0
        rows += kept
        done += kept + sum(1 for _ in read_jsonl(mark))
        number += 1
    return number, rows, done


def _shard(number: int) -> str:
    return f"part-{number:05d}-00000.parquet"


def _hash(recipe: DataRecipe, source: SourceSection) -> str:
    relevant = [
        source.model_dump(mode="json", by_alias=True, include={"name", "reader", "options", "images", "decode_images"}),
        recipe.seed,
        recipe.bad_rows,
    ]
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()
