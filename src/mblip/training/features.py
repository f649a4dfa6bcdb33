"""Keep the states of a frozen image encoder, so that training encodes each picture only once.

If the encoder is frozen and pictures are not augmented, a picture has the same states in every epoch. They are kept in
memory, in the data type they were computed in, and the picture is neither read nor encoded again. On a CPU the losses
are bit-identical with and without, because the states of a picture do not depend on the rest of its batch.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection

import torch
from torch import Tensor

from mblip.config import TrainRecipe
from mblip.errors import InputError
from mblip.machine import free_memory
from mblip.models.vision_llm import VisionLLM
from mblip.training.loader import TrainLoader
from mblip.training.loop import Batch


class KeptFeatures:
    """Holds the states of pictures by key; nothing is evicted.

    Args:
        vlm: The model; its image encoder is frozen.
        limit: Maximum size in bytes; further pictures are encoded every time.
        sources: The loader's numbers of the mixes whose pictures are repeated.
    """

    def __init__(self, vlm: VisionLLM, limit: int, sources: Collection[int]) -> None:
        self._container = vlm.container
        self._sources = frozenset(map(str, sources))
        self._numbers: dict[str, int] = {}
        self._lock = threading.Lock()  # batches are made by several threads
        self._states: dict[int, Tensor] = {}
        self._free = limit

    def number(self, key: str) -> int:
        """The number of a picture in a batch; -1 for a picture that is not repeated."""
        if key.partition("/")[0] not in self._sources:
            return -1
        with self._lock:
            return self._numbers.setdefault(key, len(self._numbers))

    def holds(self, key: str) -> bool:
        """Whether the states of a picture are held, so that it need not be read."""
        return self._numbers.get(key, -1) in self._states

    def fill(self, batch: Batch) -> Batch:
        """Replace the pictures of a batch by ``vision_states``; encode and hold those that are not held yet."""
        if "picture_numbers" not in batch:
            return batch
        numbers, pixels = batch["picture_numbers"].tolist(), batch["pixel_values"]
        held = {place: self._states[number] for place, number in enumerate(numbers) if number in self._states}
        new = [place for place in range(len(numbers)) if place not in held]
        if new:
            with torch.no_grad():
                made = self._container.vision_states(pixels[batch["pixel_rows"][new]])
            for place, states in zip(new, made, strict=True):
                self._hold(numbers[place], states)
                held[place] = states
        states = torch.stack([held[place].to(pixels.device) for place in range(len(numbers))])
        rest = {name: value for name, value in batch.items() if name not in _OF_PICTURES}
        return {**rest, "vision_states": states}

    def _hold(self, number: int, states: Tensor) -> None:
        size = states.numel() * states.element_size()
        if number >= 0 and size <= self._free:
            self._free -= size
            self._states[number] = states.to("cpu", copy=True)  # a view would keep the tensor of the whole batch


_OF_PICTURES = ("pixel_values", "picture_numbers", "pixel_rows")


def reason_against(recipe: TrainRecipe) -> str:
    """Why a recipe cannot use the states of its pictures again; empty if it can."""
    if recipe.parts.vision != "frozen":
        return "parts.vision is trained, so that its features of a picture change"
    if recipe.data.crop_scale != (1.0, 1.0):
        return "data.crop_scale crops each picture differently every time ([1, 1] keeps it whole)"
    if recipe.data.flip:
        return "data.flip mirrors pictures at random (false leaves them unchanged)"
    if recipe.sharding == "full":
        return "with sharding=full all processes encode together"
    return ""


def check_features(recipe: TrainRecipe) -> None:
    """Check that the recipe can keep features if it asks for them.

    Raises:
        InputError: ``data.keep_features=on``, but the recipe makes it impossible.
    """
    if recipe.data.keep_features == "on" and (reason := reason_against(recipe)):
        raise InputError(f"data.keep_features=on: {reason}; change that, or set auto")


def keep_features(
    recipe: TrainRecipe, loader: TrainLoader, vlm: VisionLLM, steps: int
) -> tuple[KeptFeatures | None, str]:
    """Let a loader and a training loop keep the states of pictures, if the recipe allows it and pictures are repeated.

    Args:
        recipe: See ``data.keep_features`` and ``data.features_gib``.
        loader: The loader; it no longer reads pictures whose states are kept.
        vlm: The model.
        steps: Total number of optimiser steps.

    Returns:
        The kept features or None, and a sentence on whether they are on, empty if no picture is repeated.
    """
    again = loader.seen_again(steps)
    if recipe.data.keep_features == "off" or not again:
        return None, ""
    if reason := reason_against(recipe):
        return None, f"kept features: off, because {reason}"
    size, limit, pictures = _picture_bytes(vlm, recipe), _limit(recipe), loader.count_pictures(again)
    needed = f"{pictures:,} pictures take {size * pictures / _GIB:.2f} GiB, {limit / _GIB:.2f} GiB may be used"
    if recipe.data.keep_features == "auto" and size * pictures > limit:
        return None, f"kept features: off, because {needed} (data.features_gib; data.keep_features=on keeps what fits)"
    kept = KeptFeatures(vlm, limit, again)
    loader.keep(kept)
    return kept, f"kept features: on, {needed}; a picture that is kept is encoded once"


_GIB = 1 << 30


def _picture_bytes(vlm: VisionLLM, recipe: TrainRecipe) -> int:
    """Bytes of one picture's states, as training computes them."""
    side, device = vlm.container.image_size, vlm.device
    casting = torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")
    with torch.no_grad(), casting:
        states = vlm.container.vision_states(torch.zeros(1, 3, side, side, device=device))
    return states.numel() * states.element_size()


def _limit(recipe: TrainRecipe) -> int:
    """Bytes that this process may hold: what the recipe says, or half of what is free, shared with the others here."""
    said = recipe.data.features_gib
    whole = (free_memory() or 0) // 2 if said is None else int(said * _GIB)
    return whole // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
