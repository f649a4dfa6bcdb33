"""Make the micro-batches of each step from a recipe's mix and replayed mix, and count unreadable pictures."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mblip.config import DataRecipe, MixSection, TrainRecipe, load_recipe
from mblip.corpora.reading import place_of, reader_module
from mblip.corpora.table import TEXT_ONLY
from mblip.errors import InputError, counted, quoted
from mblip.mixture import build_mix
from mblip.models.vision_llm import VisionLLM
from mblip.processing.collate import Collator, Kept
from mblip.processing.grouping import GroupedBatches, Mix, assign_micro_batches
from mblip.processing.text import IGNORED
from mblip.processing.transforms import TrainTransform
from mblip.schema import Instruction
from mblip.storage import (
    ImageStore,
    JsonlAppender,
    UnreadableImage,
    fault_of_key,
    open_images,
    read_jsonl,
    read_manifest,
)
from mblip.training.inputs import check_paths
from mblip.training.loop import Batch

UNREADABLE = "unreadable.jsonl"  # other processes write unreadable-1.jsonl and so on
_OWN = "texts of "  # title prefix of a mix that a run made for itself
_TRIED = 1000  # pictures to try before judging the share of unreadable ones


def check_data(recipe: TrainRecipe) -> None:
    """Check the recipe's data before a model is downloaded and loaded.

    Raises:
        InputError: See :func:`~mblip.training.inputs.check_paths`; or an image store cannot be opened.
    """
    check_paths(recipe)
    for field, images in _stores(recipe.data, _has_pictures(recipe.data)).items():
        if not images.endswith(".tar"):  # indexing a tar may take minutes
            _open_store(field, images)


def prepare_mix(recipe: TrainRecipe, directory: Path, anew: bool = False) -> Path:
    """The folder of the recipe's mix; a mix of a single corpus is made in the run directory, without translation.

    Args:
        recipe: The run's recipe.
        directory: The run directory.
        anew: Make the mix again if nothing was trained on it, as its table may have been corrected since.

    Raises:
        InputError: The corpus cannot be read, or its pictures are not in the store.
    """
    section = recipe.data
    if section.source is None:
        return Path(section.mix)
    source = section.source.model_copy(update={"translate": False})
    title = f"{_OWN}{recipe.title}"
    data = DataRecipe(
        title=title,
        seed=recipe.seed,
        sources=(source,),
        templates=section.templates,
        more_languages=recipe.more_languages,
    )
    folder = directory / "mix"
    made_by = folder / "recipe.yaml"
    if anew and made_by.is_file() and load_recipe(DataRecipe, made_by).title.startswith(_OWN):
        shutil.rmtree(folder)
    try:
        build_mix(data, folder)
    except InputError as error:  # bad_rows is a setting of data recipes only
        raise InputError(str(error).removesuffix(", or set bad_rows to drop")) from error
    _check_pictures(section, folder)
    return folder


def _check_pictures(section: MixSection, folder: Path) -> None:
    """Check that the store has the pictures of the user's own table, and report all that are missing at once."""
    mix = Mix(MixSection(mix=str(folder)))
    keys = mix.image_keys()
    if not keys:
        return
    store = _open_store("data.images", section.images)
    missing = [key for key in keys if key not in store]
    if len(missing) > section.max_unreadable * len(keys):
        text = next(row for row in mix.take(np.arange(len(mix))) if missing[0] in row.images)
        named = f" ({place_of(section.source, text.id)})" if section.source else ""
        fault = fault_of_key(missing[0]) or "put them there, correct their names"
        raise InputError(
            f"data.images: {section.images} lacks {len(missing):,} of the {counted(len(keys), 'picture')} in the texts, such "
            f"as {quoted(missing[0])}{named}: {fault}, or raise data.max_unreadable"
        )


def _has_pictures(section: MixSection) -> bool:
    """Whether rows of the recipe's data may have pictures."""
    if section.source is not None:
        bare = getattr(reader_module(section.source), "NO_PICTURES", False)
        return not bare and section.source.options.get("task") not in TEXT_ONLY
    return any(task not in TEXT_ONLY for task in section.tasks or read_manifest(section.mix).by_task)


def _stores(section: MixSection, has_pictures: bool = True) -> dict[str, str]:
    """The image stores in a recipe, by field; texts without pictures need none."""
    stores = {"data.images": section.images} if section.images or has_pictures else {}
    if section.replay and section.replay_images:
        stores["data.replay_images"] = section.replay_images
    return stores


def _open_store(field: str, images: str, as_stored: bool = False) -> ImageStore:
    try:
        return open_images(images, as_stored)
    except InputError as error:
        raise InputError(f"{field}: {error}") from error


def unreadable_pictures(directory: Path) -> set[str]:
    """The pictures that a process of the run could not read."""
    return {str(row["image"]) for path in directory.glob("unreadable*.jsonl") for row in read_jsonl(path)}


@dataclass(frozen=True)
class MixSource:
    """The texts that one mix gives to each step, and the store of its pictures."""

    batches: GroupedBatches
    store: ImageStore


class TrainLoader:
    """The micro-batches of each step for one process.

    Args:
        recipe: The run's recipe.
        folder: Folder of the mix (see :func:`prepare_mix`).
        directory: Folder for the lists of unreadable pictures, one file per process.
        vlm: The model, for its layout and picture size.
        rank: Number of this process.
        ranks: Number of processes.

    Attributes:
        steps_per_epoch: Number of batches in one pass over the mix.
        held: Instructions held out for validation, and the store of their pictures.

    Raises:
        InputError: A mix or a store cannot be used, or the batch is not a multiple of the processes.
    """

    def __init__(
        self, recipe: TrainRecipe, folder: Path, directory: Path, vlm: VisionLLM, rank: int = 0, ranks: int = 1
    ) -> None:
        section, size = recipe.data, recipe.optim.global_batch
        if size % ranks:
            raise InputError(f"optim.global_batch {size} is not a multiple of {ranks} processes: change it")
        self._recipe, self._rank, self._ranks, self._layout = recipe, rank, ranks, vlm.layout
        mix = Mix(section.model_copy(update={"mix": str(folder)}))
        as_stored = section.pictures == "original"
        wanted = _stores(section, mix.pictures > 0)
        stores = {field: _open_store(field, uri, as_stored) for field, uri in wanted.items()}
        store = stores.get("data.images", NO_PICTURES)
        self.held: tuple[list[Instruction], ImageStore] = ([], store)
        if recipe.validate_every:
            mix, apart = mix.split(recipe.validation_texts, recipe.seed)
            self.held = (apart.take(np.arange(len(apart))), store)
        replayed = round(size * section.replay_share) if section.replay else 0
        if section.replay and not 0 < replayed < size:
            raise InputError(
                f"data.replay_share {section.replay_share} of optim.global_batch {size} texts leaves one side without a "
                "text: raise the batch, or change the share"
            )
        if len(mix) < size - replayed:
            held = f" beside {len(self.held[0])} held out" if recipe.validate_every else ""
            remedy = "lower optim.global_batch" + (" or validation_texts" if recipe.validate_every else "")
            raise InputError(
                f"{folder} has {counted(len(mix), 'text')} to train on{held}, fewer than the {size - replayed} of one batch: "
                f"{remedy}"
            )
        self._sources = [
            MixSource(GroupedBatches(part, recipe.seed, texts), store)
            for part, texts in _shared(mix, size - replayed, section.text_share)
        ]
        self.steps_per_epoch = self._sources[0].batches.steps_per_epoch
        if section.replay:
            old = Mix(MixSection(mix=section.replay))
            self._sources.append(
                MixSource(GroupedBatches(old, recipe.seed, replayed), stores.get("data.replay_images", store))
            )
        listed = directory / (UNREADABLE if rank == 0 else f"unreadable-{rank}.jsonl")
        self._pictures = _PictureReader(self._sources, section, listed)
        transform = TrainTransform.of(vlm.processor.image_processor, section.crop_scale, section.flip)
        self._collate = Collator(self._pictures, transform, vlm.layout, section)

    def seen_again(self, steps: int) -> list[int]:
        """The numbers of the mixes that so many steps pass over more than once."""
        return [n for n, source in enumerate(self._sources) if steps > source.batches.steps_per_epoch]

    def count_pictures(self, sources: Sequence[int]) -> int:
        """Different pictures of some mixes."""
        return sum(len(self._sources[number].batches.mix.image_keys()) for number in sources)

    def languages(self) -> set[str]:
        """The languages of the answers of all mixes."""
        return {code for source in self._sources for code in source.batches.mix.languages()}

    def keep(self, kept: Kept) -> None:
        """Read no picture from now on that this holds; its keys begin with the number of the mix."""
        self._collate.kept = kept

    def micro_batches(self, step: int) -> list[Batch]:
        """The micro-batches of this process.

        Raises:
            InputError: None of this process's pictures can be read, or too many could not.
        """
        rows = self._instructions(step)
        found = [self._collate(part, (self._recipe.seed, step)) for part in rows]
        batches = [batch for batch in found if batch is not None]
        if not batches:
            _, _, key = rows[0][0].images[0].partition("/")
            raise InputError(f"none of the pictures of step {step + 1} can be read, such as {key!r}: check data.images")
        # Processes work in lockstep: one whose pictures are missing takes part with a batch without labels.
        idle = {**batches[0], "labels": torch.full_like(batches[0]["labels"], IGNORED)}
        return batches if self._ranks == 1 else batches + [idle] * (len(found) - len(batches))

    def describe(self, step: int, index: int) -> str:
        """A description of a micro-batch for errors, with the ids of its texts."""
        ids = [row.id for row in self._instructions(step)[index]]
        more = f" and {len(ids) - 8} more" if len(ids) > 8 else ""
        return f"micro-batch {index} of step {step + 1} (texts {', '.join(ids[:8])}{more})"

    def _instructions(self, step: int) -> list[list[Instruction]]:
        rows: list[Instruction] = []
        for number, source in enumerate(self._sources):
            for row in source.batches.mix.take(source.batches.rows(step)):
                rows.append(replace(row, images=tuple(f"{number}/{key}" for key in row.images)))
        lengths: list[tuple[int, ...]] = [(0,)] * len(rows)
        if len(rows) > self._recipe.optim.micro_batch:
            lengths = self._layout.lengths([row.prompt for row in rows], [row.answer for row in rows])
        parts = assign_micro_batches([row.images for row in rows], lengths, self._recipe.optim.micro_batch, self._ranks)
        return [[rows[position] for position in positions] for positions in parts[self._rank]]


def _shared(mix: Mix, size: int, text_share: float | None) -> list[tuple[Mix, int]]:
    """The parts of a mix that every batch draws from, with their numbers of texts; texts with pictures first.

    Raises:
        InputError: The mix lacks texts with or without pictures, or the share leaves one side without a text.
    """
    if text_share is None:
        return [(mix, size)]
    texts = round(size * text_share)
    if not mix.text_only or not mix.pictures:
        lacks = "no row without a picture" if mix.pictures else "no row with a picture"
        raise InputError(f"data.text_share is set, but the mix has {lacks}: leave it out")
    if not 0 < texts < size:
        raise InputError(
            f"data.text_share {text_share} of {size} texts leaves one side without a text: raise the batch, or change "
            "the share"
        )
    parts = [(mix.part(text_only=False), size - texts), (mix.part(text_only=True), texts)]
    for part, count in parts:
        if len(part) < count:
            kind = "without" if part.text_only else "with"
            raise InputError(
                f"the mix has {counted(len(part), 'text')} {kind} a picture, fewer than the {count} of one batch: lower "
                "optim.global_batch, or change data.text_share"
            )
    return parts


class _NoPictures:
    """The store of data without pictures."""

    def get(self, key: str, at_least: int = 0) -> Image.Image:
        """Always raises, as there are no pictures."""
        raise UnreadableImage(key, "the data has no pictures")

    def __contains__(self, key: str) -> bool:
        return False


NO_PICTURES = _NoPictures()


class _PictureReader:
    """Several stores of pictures as one; a key begins with the number of its store.

    Unreadable pictures are counted and listed in a file. A larger share of them than the recipe allows stops the run.
    """

    def __init__(self, sources: Sequence[MixSource], section: MixSection, listed: Path) -> None:
        self._sources, self._section, self._path = sources, section, listed
        self._pictures = sum(source.batches.mix.pictures for source in sources)
        self._lock = threading.Lock()
        self._tried = 0
        self._failed: set[str] = set()
        self.unreadable: set[str] = set()
        if listed.exists():
            self.unreadable.update(str(row["image"]) for row in read_jsonl(listed))

    def get(self, key: str, at_least: int = 0) -> Image.Image:
        """See :class:`~mblip.storage.ImageStore`."""
        number, _, own = key.partition("/")
        try:
            image = self._sources[int(number)].store.get(own, at_least)
        except UnreadableImage as error:
            self._count(error)
            raise
        with self._lock:
            self._tried += 1
        return image

    def __contains__(self, key: str) -> bool:
        number, _, own = key.partition("/")
        return own in self._sources[int(number)].store

    def _count(self, error: UnreadableImage) -> None:
        with self._lock:
            self._failed.add(error.key)  # once, however often it is tried: the others may be kept and not read again
            if error.key not in self.unreadable:
                self.unreadable.add(error.key)
                with JsonlAppender(self._path) as file:
                    file.append({"image": error.key, "reason": error.reason})
            failed, tried = len(self._failed), self._tried + len(self._failed)
            if failed > self._section.max_unreadable * max(tried, min(self._pictures, _TRIED)):
                raise InputError(
                    f"{failed:,} of {counted(tried, 'image')} cannot be read, the last being {error.key!r} "
                    f"({error.reason}): repair the store or raise data.max_unreadable"
                )
