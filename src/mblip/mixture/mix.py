"""Examples -> one shuffled, de-duplicated mix of instructions.

The shuffle goes over disk in two steps. Chunks of examples are translated and made into instructions, and each
instruction is dealt into the box that the hash of its images names. Then each box is put in the order of those hashes,
which is random to the eye, and becomes one shard. So the whole mix is shuffled while memory holds one chunk or one box,
the texts of an image stand together, equal instructions meet in one box, and the bytes are the same for any number of
workers. A run that was stopped goes on with the chunks and boxes that are missing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mblip.config import DataRecipe, SourceSection, save_recipe
from mblip.corpora.sampling import EnglishStage, Progress, sample_sources, silent, stage_folder
from mblip.errors import InputError
from mblip.mixture.templates import Templates, load_templates
from mblip.mixture.templates.rendering import find_templates
from mblip.schema import Drop, Example, Instruction
from mblip.storage import (
    EXCLUSIONS,
    JsonlWriter,
    Manifest,
    ShardReader,
    atomic_path,
    atomic_write,
    language_of,
    read_manifest,
    sha256_file,
    to_table,
    write_manifest,
    write_shard,
)
from mblip.translation import CODES, Allocation, Translator, allocate, check_languages, open_engine

ROWS_PER_CHUNK = 40 * 1024
ROWS_PER_BOX = 65_536  # on average; each becomes a shard
WORK = ".work"


def build_mix(
    recipe: DataRecipe, folder: Path, *, work: Path | None = None, workers: int = 1, progress: Progress = silent
) -> Manifest:
    """Build the mix of a recipe: shards, ``exclusions.jsonl``, ``recipe.yaml`` and ``manifest.json``.

    A folder that already holds this mix is left as it is. The same recipe gives the same bytes.

    Args:
        recipe: The sources, how they are allotted and translated, and the templates.
        folder: Where the mix goes.
        work: Where the English examples are kept; by default inside ``folder``, and removed at the end.
        workers: Processes.
        progress: Is told how far it is.

    Raises:
        InputError: The folder holds another mix, or a source, engine or template cannot be used.
    """
    identity = mix_hash(recipe)
    if (folder / "manifest.json").is_file():
        manifest = read_manifest(folder)
        if manifest.recipe_hash != identity:
            raise InputError(f"{folder} holds the mix of another recipe; delete it or name another folder")
        shutil.rmtree(folder / WORK, ignore_errors=True)
        return manifest
    load_templates(recipe.templates)
    open_engine(recipe.translation.engine, recipe.translation.options)
    for section in [recipe.allocation, *(source.allocation for source in recipe.sources if source.allocation)]:
        check_languages(section)
    boxes_folder = folder / WORK / "boxes" / identity[:16]
    stages_folder = work or folder / WORK / _sources_hash(recipe)
    stages = sample_sources(recipe, stages_folder, progress)
    boxes = max(1, -(-sum(stage.manifest.rows for stage in stages.values()) // ROWS_PER_BOX))
    chunks = list(_chunks(recipe, stages, stages_folder, boxes_folder, boxes))
    _run(_deal, chunks, workers, "translating and writing instructions", progress)
    for stale in folder.glob("mix-*.parquet"):
        if int(stale.stem.removeprefix("mix-")) >= boxes or not (boxes_folder / f"{stale.stem}.jsonl").exists():
            stale.unlink()
    collected = [_Box(box, chunks, folder, boxes_folder) for box in range(boxes)]
    _run(_collect, collected, workers, "shuffling", progress)
    exclusions = [stage.folder / EXCLUSIONS for stage in stages.values()]
    exclusions += [chunk.exclusions for chunk in chunks] + [box.exclusions for box in collected]
    with atomic_write(folder / EXCLUSIONS) as file:
        for path in exclusions:
            file.write(path.read_bytes())
    save_recipe(recipe, folder / "recipe.yaml")
    licences = {name: stage.manifest.licences[name] for name, stage in stages.items()}
    manifest = write_manifest(folder, Instruction, seed=recipe.seed, recipe_hash=identity, licences=licences)
    shutil.rmtree(folder / WORK)
    return manifest


def mix_hash(recipe: DataRecipe) -> str:
    """SHA-256 over everything in the recipe and its template files that shapes the mix."""
    templates = {name: sha256_file(find_templates(name)) for name in recipe.templates}
    content = recipe.model_dump(mode="json", exclude={"title", "paper"}) | {"templates": templates}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class _Chunk:
    """Some rows of one source, and the file of boxes that they are dealt into."""

    number: int
    recipe: DataRecipe
    source: SourceSection
    work: Path
    start: int
    stop: int
    offsets: tuple[tuple[str, int], ...]
    path: Path
    boxes: int

    @property
    def exclusions(self) -> Path:
        return self.path.with_suffix(".jsonl")


@dataclass(frozen=True)
class _Box:
    number: int
    chunks: list[_Chunk]
    folder: Path
    boxes_folder: Path

    @property
    def path(self) -> Path:
        return self.folder / f"mix-{self.number:05d}.parquet"

    @property
    def exclusions(self) -> Path:
        return self.boxes_folder / f"mix-{self.number:05d}.jsonl"


def _chunks(
    recipe: DataRecipe, stages: dict[str, EnglishStage], work: Path, folder: Path, boxes: int
) -> Iterator[_Chunk]:
    number = 0
    for source in recipe.sources:
        stage = stages[source.name]
        for index, offsets in enumerate(stage.offsets(ROWS_PER_CHUNK)):
            start = index * ROWS_PER_CHUNK
            stop = min(start + ROWS_PER_CHUNK, stage.manifest.rows)
            path = folder / f"chunk-{number:05d}.arrow"
            yield _Chunk(number, recipe, source, work, start, stop, tuple(offsets.items()), path, boxes)
            number += 1


def _run(step: Callable[[Any], int], jobs: list[Any], workers: int, what: str, progress: Progress) -> None:
    total, done = len(jobs), 0
    if workers == 1:
        for job in jobs:
            step(job)
            done += 1
            progress(what, done, total)
        return
    # Not fork: Arrow has threads of its own.
    with ProcessPoolExecutor(min(workers, total), mp_context=get_context("spawn")) as pool:
        for _ in pool.map(step, jobs):
            done += 1
            progress(what, done, total)


def _deal(chunk: _Chunk) -> int:
    """Translate a chunk, make instructions of it and deal them into boxes: one Arrow file, one batch a box."""
    if chunk.path.exists():
        return chunk.number
    translator, templates = _tools(chunk.recipe)
    examples = list(_reader(chunk.work, chunk.source.name).rows(chunk.start, chunk.stop))
    records: Sequence[Example | Drop] = examples
    if chunk.source.translate:
        records = translator.translate(examples, _languages(chunk, examples))
    instructions: list[Instruction] = []
    with JsonlWriter(chunk.exclusions) as exclusions:
        for record in records:
            if isinstance(record, Drop):
                exclusions.write(record)
            else:
                instructions.append(templates.render(record))
    _write_boxes(chunk, instructions)
    return chunk.number


def _languages(chunk: _Chunk, examples: list[Example]) -> list[str]:
    """The language that each example of a chunk goes to."""
    allocation = _allocation(chunk.recipe, chunk.source, chunk.work)
    seen = dict(chunk.offsets)
    languages = []
    for example in examples:
        place = seen.get(example.task, 0)
        seen[example.task] = place + 1
        languages.append(CODES[allocation[example.task][place]])
    return languages


def _write_boxes(chunk: _Chunk, instructions: list[Instruction]) -> None:
    seed = chunk.recipe.seed
    hashes = np.array(
        [
            (
                _hash(seed, *row.images),
                _hash(seed, row.id),
                _hash(0, *row.images, row.prompt, row.answer),
            )
            for row in instructions
        ],
        dtype=np.uint64,
    ).reshape(-1, 3)
    table = to_table(instructions, Instruction)
    for column, name in enumerate(_HASHES):
        table = table.append_column(name, pa.array(hashes[:, column]))
    box = hashes[:, 0] % np.uint64(chunk.boxes)
    order = np.argsort(box, kind="stable")
    table = table.take(pa.array(order)).combine_chunks()
    ends = np.searchsorted(box[order], np.arange(chunk.boxes), side="right")
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with (
        atomic_path(chunk.path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, table.schema, options=options) as file,
    ):
        for start, stop in zip([0, *ends[:-1]], ends, strict=True):
            rows = table.slice(start, stop - start).to_batches()
            file.write_batch(rows[0] if rows else pa.RecordBatch.from_pylist([], schema=table.schema))


def _collect(box: _Box) -> int:
    """Gather a box from all chunks, order it, take out what is there twice, and write it as a shard."""
    if box.path.exists() and box.exclusions.exists():
        return box.number
    table = pa.Table.from_batches(batch for chunk in box.chunks for batch in _batches(chunk.path, box.number))
    image, row, content = (table[name].to_numpy() for name in _HASHES)
    order = np.lexsort((row, image))
    again = _repeated(content[order])
    with JsonlWriter(box.exclusions) as exclusions:
        for row in table.take(pa.array(order[again])).to_pylist():
            language = language_of([row["answer_language"], row["prompt_language"]])
            exclusions.write(Drop(row["id"], row["source"], "duplicate", "", row["task"], language))
    write_shard(box.path, table.drop_columns(list(_HASHES)).take(pa.array(order[~again])), Instruction)
    return box.number


def _batches(path: Path, box: int) -> list[pa.RecordBatch]:
    with pa.memory_map(str(path)) as source:
        return [pa.ipc.open_file(source).get_batch(box)]


def _repeated(content: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """True where the same hash stands further up."""
    _, first = np.unique(content, return_index=True)
    again = np.ones(len(content), dtype=bool)
    again[first] = False
    return again


_HASHES = ("image_hash", "row_hash", "content_hash")


def _hash(seed: int, *texts: str) -> int:
    text = f"{seed}\0" + "\0".join(texts)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


@lru_cache(maxsize=1)
def _cached_tools(recipe: str) -> tuple[Translator, Templates]:
    parsed = DataRecipe.model_validate_json(recipe)
    return Translator(parsed.translation), load_templates(parsed.templates)


def _tools(recipe: DataRecipe) -> tuple[Translator, Templates]:
    return _cached_tools(recipe.model_dump_json())


@lru_cache(maxsize=1)
def _cached_allocation(recipe: str, source: str, work: Path) -> Allocation:
    parsed = DataRecipe.model_validate_json(recipe)
    section = next(section for section in parsed.sources if section.name == source)
    tasks = EnglishStage(work, source).tasks
    return allocate(section.allocation or parsed.allocation, source, tasks, parsed.seed)


def _allocation(recipe: DataRecipe, source: SourceSection, work: Path) -> Allocation:
    return _cached_allocation(recipe.model_dump_json(), source.name, work)


@lru_cache(maxsize=1)
def _reader(work: Path, source: str) -> ShardReader[Example]:
    return ShardReader(stage_folder(work, source), Example)


def _sources_hash(recipe: DataRecipe) -> str:
    content = recipe.model_dump(mode="json", include={"sources", "seed", "bad_rows"})
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
