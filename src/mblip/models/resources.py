"""Estimate GPUs, download and disk space of a training, from the catalogue and a calibration."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mblip.catalogue.download import Item, make_plan
from mblip.catalogue.entries import load_catalogue
from mblip.catalogue.wanted import find_wanted
from mblip.config import TrainRecipe
from mblip.errors import InputError
from mblip.models.planning import Plan

_LEARNED, _CHECKPOINT = 4, 12  # bytes per trainable parameter: fp32; with AdamW's two moments


@dataclass(frozen=True)
class Resources:
    """The part of ``mblip plan --gpus N`` that is not in the plan.

    Attributes:
        gpus: Number of GPUs, one process each.
        texts_per_gpu: Texts of a step's global batch on each GPU.
        hours: The hours of one GPU divided by the number of GPUs, without the time for communication; None without a
            calibration.
        memory: Bytes on each card; with ``sharding: full``, weights, gradients and moments are spread over the cards.
        download: Bytes still to be downloaded, as far as sizes are known.
        data: Bytes on disk of all downloads, with unpacked files if their size is known.
        unknown: Names of files and data sets of unknown size.
        run: Bytes on disk of the run directory with its checkpoints.
    """

    gpus: int
    texts_per_gpu: int
    hours: float | None
    memory: int
    download: int
    data: int
    unknown: tuple[str, ...]
    run: int

    @property
    def disk(self) -> int:
        """Total bytes on disk, as far as they are known."""
        return self.data + self.run

    def as_json(self) -> dict[str, Any]:
        """Plain data, sums included."""
        return {**asdict(self), "unknown": list(self.unknown), "disk": self.disk}


def plan_resources(recipe: TrainRecipe, plan: Plan, gpus: int, data: Path = Path("data")) -> Resources:
    """Estimate the resources of a recipe on several GPUs, without using the network.

    Args:
        recipe: The recipe.
        plan: Its plan for one GPU.
        gpus: Number of GPUs.
        data: Folder of the downloads; files in it are not fetched again.

    Raises:
        InputError: The global batch is not a multiple of the number of GPUs.
    """
    batch = recipe.optim.global_batch
    if batch % gpus:
        fits = [number for number in range(1, batch + 1) if batch % number == 0 and number <= 2 * gpus]
        raise InputError(
            f"optim.global_batch {batch} is not a multiple of {gpus} GPUs: use {', '.join(map(str, fits[-4:]))}, or "
            "change it"
        )
    memory = plan.memory
    whole = memory.weights + memory.gradients + memory.optimizer
    share = -(-whole // gpus) if recipe.sharding == "full" else whole
    wanted = find_wanted([recipe], load_catalogue())
    items = make_plan(wanted.sets, data).items
    unknown = [_name(item) for item in items if item.size is None and item.standing != "complete"]
    absent = [one.paths[0] for one in wanted.by_hand if not one.is_there(data)]
    unknown += [path for path in absent if path not in unknown]
    if recipe.data.mix and not Path(recipe.data.mix).exists():
        unknown.append(f"{recipe.data.mix} (the mix)")
    if recipe.data.images and not recipe.data.source and not _is_there(recipe.data.images):
        unknown.append(f"{recipe.data.images} (the pictures)")
    return Resources(
        gpus,
        batch // gpus,
        None if plan.hours is None else plan.hours / gpus,
        share + memory.activations + memory.logits + memory.reserve,
        sum(item.left or 0 for item in items),
        sum(_on_disk(item) for item in items),
        tuple(unknown),
        plan.trainable * (_LEARNED + _CHECKPOINT * recipe.keep_checkpoints),
    )


def _on_disk(item: Item) -> int:
    return (item.size or 0) + (item.file.unpacked_bytes or 0)


def _name(item: Item) -> str:
    return item.file.url if item.file.is_checkpoint else item.file.target


def _is_there(images: str) -> bool:
    return ":" in images or Path(images).exists()
