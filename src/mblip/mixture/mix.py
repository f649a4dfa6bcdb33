"""Build one shuffled, de-duplicated mix of instructions from examples.

The shuffle uses the disk in two steps. First, chunks of examples are translated and made into instructions, and each
instruction goes to the box that the hash of its images names. Then each box is sorted by those hashes, which is a
random order, and becomes one shard. So the complete mix is shuffled with only one chunk or box in memory, the texts of
an image are adjacent, equal instructions meet in one box, and the bytes do not depend on the number of workers. A
stopped run continues with the missing chunks and boxes.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mblip import plugins
from mblip.config import DataRecipe, save_recipe
from mblip.corpora.jobs import run_jobs
from mblip.corpora.provenance import changed_file, load_stamps, save_stamps
from mblip.corpora.sampling import STAMPS, EnglishStage
from mblip.errors import InputError
from mblip.mixture.card import CARD, write_card
from mblip.mixture.exclusion import evaluation_images, image_identity
from mblip.mixture.plan import check_samples, plan_mix
from mblip.mixture.templates import Template, Templates, has_prompt, load_templates, normal_prompt
from mblip.mixture.templates.rendering import find_templates
from mblip.mixture.templates.translating import translate_templates
from mblip.progress import Progress, silent
from mblip.schema import Drop, Example, Instruction
from mblip.storage import (
    EXCLUSIONS,
    JsonlWriter,
    Manifest,
    ShardReader,
    atomic_path,
    atomic_write,
    language_of,
    own_folder,
    read_drops,
    read_manifest,
    read_records,
    sha256_file,
    to_table,
    write_manifest,
    write_shard,
)
from mblip.translation import Translator
from mblip.translation.stage import Part, is_translated, parts_of, translate_part, translated_folder

ROWS_PER_CHUNK = 40 * 1024
ROWS_PER_BOX = 65_536  # on average; each box becomes a shard
WORK = ".work"
RECIPE = "recipe.yaml"
_TEMPLATES = "templates.jsonl"
_LOST_TEMPLATES = "templates-lost.jsonl"


def build_mix(
    recipe: DataRecipe, folder: Path, *, work: Path | None = None, workers: int = 1, progress: Progress = silent
) -> Manifest:
    """Build the mix of a recipe: shards, exclusions, recipe, manifest and card (``README.md``).

    A folder that already has this mix is not changed. The same recipe gives the same bytes. While one process builds a
    mix, a second one is refused in its folder.

    Args:
        recipe: The sources, their allocation and translation, and the templates.
        folder: Folder of the mix.
        work: Folder of the English examples; by default inside ``folder``, and removed at the end. Translations that
            ``mblip data translate`` has finished there are used; the rest is translated now.
        workers: Number of processes.
        progress: Called with the progress.

    Raises:
        InputError: The folder has another mix, one of raw files that have changed since, or files of other origin that
            a mix would overwrite; another process builds a mix there; or a source, engine or template cannot be used.
    """
    identity = mix_hash(recipe)
    if finished := _finished(folder, identity):
        return finished
    _check_place(folder)
    with own_folder(folder, "building a mix"):
        return _finished(folder, identity) or _build(recipe, folder, identity, work, workers, progress)


def _finished(folder: Path, identity: str) -> Manifest | None:
    """The manifest of a folder's mix, which must be of this recipe; None if there is no finished mix."""
    if not (folder / "manifest.json").is_file():
        return None
    manifest = read_manifest(folder)
    if manifest.recipe_hash != identity:
        raise InputError(f"{folder} holds the mix of another recipe; delete it or name another folder")
    if changed := changed_file(load_stamps(folder / STAMPS)[1]):
        raise InputError(f"{changed} has changed since {folder} was made from it; delete that folder to make it again")
    shutil.rmtree(folder / WORK, ignore_errors=True)
    return manifest


def _check_place(folder: Path) -> None:
    """Check that a mix would neither overwrite files of other origin nor take them for its own."""
    for path in sorted(folder.glob("*.parquet")):  # other files would count as shards of the mix
        if not re.fullmatch(r"mix-\d{5,}\.parquet", path.name):
            raise InputError(f"{folder} holds {path.name}, which is not part of a mix; name another folder")
    if (folder / WORK).exists() or (folder / STAMPS).exists():  # a stopped build, or one whose manifest was deleted
        return
    for name in (CARD, RECIPE, EXCLUSIONS):
        if (folder / name).exists():
            raise InputError(f"{folder} holds a file {name}, which the mix would overwrite; name another folder")


def _build(
    recipe: DataRecipe, folder: Path, identity: str, work: Path | None, workers: int, progress: Progress
) -> Manifest:
    stages_folder = work or folder / WORK / _sources_hash(recipe)
    stages = check_samples(recipe, stages_folder, progress)
    boxes_folder = folder / WORK / "boxes" / _boxes_hash(identity, stages)
    boxes = max(1, -(-sum(stage.manifest.rows for stage in stages.values()) // ROWS_PER_BOX))
    if recipe.translated_templates:
        _translate_templates(recipe, stages_folder, boxes_folder)
    chunks = list(_chunks(recipe, stages_folder, boxes_folder, boxes))
    run_jobs(_deal, chunks, workers, "writing instructions", progress)
    for stale in folder.glob("mix-*.parquet"):
        if int(stale.stem.removeprefix("mix-")) >= boxes or not (boxes_folder / f"{stale.stem}.jsonl").exists():
            stale.unlink()
    paths = tuple(chunk.path for chunk in chunks)
    collected = [_Box(box, paths, folder, boxes_folder) for box in range(boxes)]
    run_jobs(_collect, collected, workers, "shuffling", progress)
    exclusions = [path for stage in stages.values() for path in sorted(stage.folder.glob("exclusions-*.jsonl"))]
    for folder_before in dict.fromkeys(chunk.folder for chunk in chunks if chunk.folder):
        exclusions += sorted(folder_before.glob("exclusions-*.jsonl"))
    exclusions += [chunk.exclusions for chunk in chunks] + [box.exclusions for box in collected]
    if recipe.translated_templates:
        exclusions.append(boxes_folder / _LOST_TEMPLATES)
    with atomic_write(folder / EXCLUSIONS) as file:
        for path in exclusions:
            file.write(path.read_bytes())
    if not len(ShardReader(folder, Instruction)):
        reasons = Counter(drop.reason for drop in read_drops(folder))
        message = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
        raise InputError(f"no example reached the mix ({message}); {folder / EXCLUSIONS} has the reason for each")
    save_recipe(recipe, folder / RECIPE)
    stamps = {path: stamp for stage in stages.values() for path, stamp in load_stamps(stage.folder / STAMPS)[1].items()}
    save_stamps(folder / STAMPS, identity, stamps)
    licences = {name: licence for stage in stages.values() for name, licence in stage.manifest.licences.items()}
    tasks = {task for stage in stages.values() for task in stage.tasks}
    own = any(has_prompt(example) for stage in stages.values() for example in stage.first_examples())
    prompts = {} if own else _prompts(recipe, boxes_folder, tasks)  # prompts inside a corpus are unknown
    manifest = write_manifest(
        folder, Instruction, seed=recipe.seed, recipe_hash=identity, licences=licences, prompts=prompts,
        evaluation_prompts_seen=_seen_in_evaluation(prompts),
        packages=plugins.corpora.versions(*(source.reader for source in recipe.sources))
        | plugins.engines.versions(recipe.translation.engine),
    )  # fmt: skip
    write_card(folder)
    shutil.rmtree(folder / WORK)
    return manifest


def mix_hash(recipe: DataRecipe) -> str:
    """SHA-256 of everything in the recipe and its template files that decides the mix."""
    files = {name: sha256_file(find_templates(name)) for name in recipe.templates}
    files |= {name: sha256_file(name) for name in recipe.exclude_images}
    without = {"title", "paper"} | ({"images"} if not recipe.images else set())
    without |= {"more_languages"} if not recipe.more_languages else set()  # so that mixes without them keep their hash
    content = recipe.model_dump(mode="json", by_alias=True, exclude=without) | {"files": files}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class _Chunk:
    """Some examples of one source, and the file of boxes for their instructions.

    The examples are from the English stage and are translated now, or with ``folder`` from the translated stage.
    """

    part: Part
    folder: Path | None
    path: Path
    boxes: int

    @property
    def exclusions(self) -> Path:
        return self.path.with_suffix(".jsonl")

    @property
    def answers(self) -> Path:
        """The file of the engine's answers for this chunk, until the chunk is finished."""
        return self.path.with_suffix(".answers.jsonl")

    def records(self) -> list[Example | Drop]:
        if self.folder is None:
            return translate_part(self.part, self.answers)
        return list(ShardReader(self.folder, Example).rows(self.part.start, self.part.stop))


@dataclass(frozen=True)
class _Box:
    number: int
    chunks: tuple[Path, ...]
    folder: Path
    boxes_folder: Path

    @property
    def path(self) -> Path:
        return self.folder / f"mix-{self.number:05d}.parquet"

    @property
    def exclusions(self) -> Path:
        return self.boxes_folder / f"mix-{self.number:05d}.jsonl"


def _chunks(recipe: DataRecipe, work: Path, boxes_folder: Path, boxes: int) -> Iterator[_Chunk]:
    number = 0
    for source in recipe.sources:
        folder = translated_folder(work, source.name) if is_translated(recipe, source, work) else None
        parts = parts_of(recipe, source, work, ROWS_PER_CHUNK)
        if folder:
            rows = read_manifest(folder).rows
            starts = range(0, rows, ROWS_PER_CHUNK)
            parts = (Part(recipe, source, work, 0, at, min(at + ROWS_PER_CHUNK, rows), ()) for at in starts)
        for part in parts:
            yield _Chunk(part, folder, boxes_folder / f"chunk-{number:05d}.arrow", boxes)
            number += 1


def _deal(chunk: _Chunk) -> None:
    """Make instructions of a chunk's examples and sort them into boxes: one Arrow file with one batch per box."""
    if chunk.path.exists():
        return
    templates, excluded = _tools(chunk.part.recipe.model_dump_json(), chunk.path.parent)
    instructions: list[Instruction] = []
    with JsonlWriter(chunk.exclusions) as exclusions:
        for record in chunk.records():
            if isinstance(record, Drop):
                exclusions.write(record)
            elif excluded and any(image_identity(key) in excluded for key in record.images):
                language = language_of(record.languages.values())
                drop = Drop(record.id, record.source, "evaluation image", record.images[0], record.task, language)
                exclusions.write(drop)
            else:
                instructions.append(templates.render(record))
    _write_boxes(chunk, instructions)
    chunk.answers.unlink(missing_ok=True)


def _write_boxes(chunk: _Chunk, instructions: list[Instruction]) -> None:
    seed = chunk.part.recipe.seed
    digests = b"".join(
        # Rows without a picture are spread by their ids; otherwise they would all be in one box.
        _hash(seed, *(row.images or (row.id,))) + _hash(seed, row.id) + _hash(0, *row.images, row.prompt, row.answer)
        for row in instructions
    )
    hashes = np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 3)
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


def _collect(box: _Box) -> None:
    """Collect a box from all chunks, sort it, remove duplicates, and write it as a shard."""
    if box.path.exists() and box.exclusions.exists():
        return
    table = pa.Table.from_batches(batch for path in box.chunks for batch in _batches(path, box.number))
    image, row, content = (table[name].to_numpy() for name in _HASHES)
    order = np.lexsort((row, image))
    again = _repeated(content[order])
    with JsonlWriter(box.exclusions) as exclusions:
        for row in table.take(pa.array(order[again])).to_pylist():
            language = language_of([row["answer_language"], row["prompt_language"]])
            exclusions.write(Drop(row["id"], row["source"], "duplicate", "", row["task"], language))
    write_shard(box.path, table.drop_columns(list(_HASHES)).take(pa.array(order[~again])), Instruction)


def _batches(path: Path, box: int) -> list[pa.RecordBatch]:
    with pa.memory_map(str(path)) as source:
        return [pa.ipc.open_file(source).get_batch(box)]


def _repeated(content: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """True for every hash that occurs earlier too."""
    _, first = np.unique(content, return_index=True)
    again = np.ones(len(content), dtype=bool)
    again[first] = False
    return again


_HASHES = ("image_hash", "row_hash", "content_hash")


def _hash(seed: int, *texts: str) -> bytes:
    text = "\0".join((str(seed), *texts))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


@lru_cache(maxsize=1)
def _tools(recipe: str, boxes_folder: Path) -> tuple[Templates, frozenset[str]]:
    parsed = DataRecipe.model_validate_json(recipe)
    templates = load_templates(parsed.templates, parsed.profile)
    if parsed.translated_templates:
        templates.add(read_records(boxes_folder / _TEMPLATES, Template))
    return templates, evaluation_images(parsed.exclude_images)


def _translate_templates(recipe: DataRecipe, work: Path, boxes_folder: Path) -> None:
    """Translate the prompts into every language of the plan, once, for all workers."""
    if (boxes_folder / _TEMPLATES).exists():
        return
    codes = {code for tasks in plan_mix(recipe, work).values() for languages in tasks.values() for code in languages}
    translator = Translator(recipe.translation, profile=recipe.profile)
    templates = load_templates(recipe.templates, recipe.profile)
    found, lost = translate_templates(
        templates, sorted(codes), translator.translate_texts, recipe.translation.filters, recipe.profile
    )
    for name, records in ((_LOST_TEMPLATES, lost), (_TEMPLATES, found)):  # the second file marks both as complete
        with JsonlWriter(boxes_folder / name) as file:
            for record in records:
                file.write(record)


def _prompts(recipe: DataRecipe, boxes_folder: Path, tasks: Container[str]) -> dict[str, list[str]]:
    """The prompts of the instructions, by task."""
    found: dict[str, list[str]] = {}
    templates = load_templates(recipe.templates, recipe.profile)
    rows = [template for _, template in templates.english()]
    rows += [template for found in templates.text_only.values() for template in found]
    if recipe.translated_templates:
        rows += read_records(boxes_folder / _TEMPLATES, Template)
    for row in rows:
        if row.task in tasks:
            found.setdefault(row.task, []).append(row.prompt)
    return {task: list(dict.fromkeys(prompts)) for task, prompts in sorted(found.items())}


def _seen_in_evaluation(prompts: dict[str, list[str]]) -> list[str]:
    held = {normal_prompt(prompt) for rows in prompts.values() for prompt in rows}
    asked = [template.prompt for _, template in load_templates(("benchmarks",)).english()]
    return [prompt for prompt in asked if normal_prompt(prompt) in held]


def _boxes_hash(identity: str, stages: dict[str, EnglishStage]) -> str:
    """A hash of the recipe and the English examples, so that boxes of an older file are not reused."""
    content = [identity, {name: stage.manifest.shards for name, stage in stages.items()}]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _sources_hash(recipe: DataRecipe) -> str:
    content = recipe.model_dump(mode="json", by_alias=True, include={"sources", "seed", "bad_rows"})
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
