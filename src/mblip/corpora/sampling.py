"""The first stage on disk: the English examples of every source, as shards that later steps read in any part."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from mblip.config import DataRecipe, SourceSection
from mblip.corpora.jobs import Progress, silent
from mblip.corpora.reading import read_source, reader_module
from mblip.errors import InputError
from mblip.schema import Drop, Example
from mblip.storage import (
    EXCLUSIONS,
    JsonlWriter,
    Manifest,
    ShardReader,
    ShardWriter,
    read_manifest,
    write_manifest,
)


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

    @cached_property
    def tasks(self) -> dict[str, int]:
        """Examples by task."""
        return self.manifest.by_task

    def offsets(self, rows_per_chunk: int) -> list[dict[str, int]]:
        """For each chunk of so many rows (whole row groups), how many examples of each task come before it."""
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
    """Where the English examples of a source lie in a work folder."""
    return work / "english" / source


def sample_sources(recipe: DataRecipe, work: Path, progress: Progress = silent) -> dict[str, EnglishStage]:
    """Read every source of a recipe into ``work/english/SOURCE``; what is already there is not read again.

    Raises:
        InputError: A source cannot be read, has ids that occur twice, yields nothing, or the folder holds the examples
            of another recipe.
    """
    stages = {}
    for source in recipe.sources:
        if source.name in stages:
            raise InputError(f"two sources of the recipe are called {source.name!r}; names must differ")
        _sample(recipe, source, work, progress)
        stages[source.name] = EnglishStage(work, source.name)
    return stages


def sampled_urls(recipe: DataRecipe, work: Path) -> Iterator[tuple[str, str]]:
    """Image key and address of the sampled examples, of every source whose reader knows addresses.

    Raises:
        InputError: The sources are not sampled yet, or none of them lists addresses.
    """
    listing = [source for source in recipe.sources if hasattr(reader_module(source), "urls")]
    if not listing:
        raise InputError("no source of this recipe lists the addresses of its images; fetch them as its reader says")
    for source in listing:
        reader = EnglishStage(work, source.name).reader
        wanted = {hash(key) for (images,) in reader.columns("images") for keys in images for key in keys}
        for key, url in reader_module(source).urls(**source.options):
            if hash(key) in wanted:
                yield key, url


def _sample(recipe: DataRecipe, source: SourceSection, work: Path, progress: Progress) -> None:
    folder = stage_folder(work, source.name)
    wanted = _hash(recipe, source)
    if (folder / "manifest.json").is_file():
        if read_manifest(folder).recipe_hash != wanted:
            raise InputError(f"{folder} holds the examples of another recipe; delete it or name another work folder")
        return
    licences, repeated = _write(recipe, source, folder, frozenset(), progress)
    if repeated and recipe.bad_rows == "error":
        raise InputError(f"source {source.name!r} has the id {repeated[0][1]!r} twice; mend it or set bad_rows to drop")
    if repeated:
        licences, _ = _write(recipe, source, folder, frozenset(row for row, _ in repeated), progress)
    write_manifest(
        folder,
        Example,
        seed=recipe.seed,
        recipe_hash=wanted,
        licences={source.name: "; ".join(sorted(licences))},
    )


def _write(
    recipe: DataRecipe, source: SourceSection, folder: Path, skip: frozenset[int], progress: Progress
) -> tuple[set[str], list[tuple[int, str]]]:
    """Write shards and exclusions; licences seen, and (row, id) of examples whose id came before."""
    records = read_source(recipe, source)
    for stale in [*folder.glob("part-*.parquet"), *folder.glob("exclusions*.jsonl")]:
        stale.unlink()
    licences: set[str] = set()
    hashes = array("Q")
    with JsonlWriter(folder / EXCLUSIONS) as drops, ShardWriter(folder, Example, stem="part") as shards:
        for record in records:
            if isinstance(record, Drop):
                drops.write(record)
                continue
            row = len(hashes)
            hashes.append(int.from_bytes(hashlib.blake2b(record.id.encode("utf-8", "replace"), digest_size=8).digest()))
            if row in skip:
                drops.write(Drop(record.id, source.name, "duplicate id", task=record.task))
                continue
            licences.add(record.licence)
            shards.write(record)
            if row % 10_000 == 0:
                progress(f"reading {source.name}", row, None)
    if not shards.rows:
        raise InputError(f"source {source.name!r} yields no example; check its options")
    progress(f"reading {source.name}", len(hashes), len(hashes))
    return licences, [] if skip else _repeated(hashes, folder)


def _repeated(hashes: array[int], folder: Path) -> list[tuple[int, str]]:
    values = np.frombuffer(hashes, np.uint64)
    order = np.argsort(values, kind="stable")
    again = order[1:][values[order[1:]] == values[order[:-1]]]
    if not len(again):
        return []
    reader = ShardReader(folder, Example)
    return [(row, reader[row].id) for row in sorted(again.tolist())]


def _hash(recipe: DataRecipe, source: SourceSection) -> str:
    relevant = [
        source.model_dump(mode="json", include={"name", "reader", "options", "images", "decode_images"}),
        recipe.seed,
        recipe.bad_rows,
    ]
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()
