"""Checkpoints: trainable parts, optimiser and position, each in a folder that is whole or absent."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mblip.errors import InputError
from mblip.storage import atomic_folder

FOLDER = "checkpoints"
WEIGHTS, STATE = "trainable.safetensors", "state.pt"


def checkpoints(run: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    return sorted((run / FOLDER).glob("step-????????"))


def newest_checkpoint(run: Path) -> Path | None:
    """The checkpoint that a run would go on from."""
    return next(reversed(checkpoints(run)), None)


def save_checkpoint(run: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int) -> None:
    """Write a checkpoint, and then drop the oldest beyond ``keep``.

    It takes its name only when every byte is on the disk, so that a kill or a full disk leaves those before as they are.

    Args:
        run: The run directory.
        step: Optimiser steps done.
        tensors: The trainable parameters by name.
        state: What else the run needs to go on: tensors, numbers, lists and dicts.
        keep: How many checkpoints stay.

    Raises:
        InputError: The disk is full or cannot be written.
    """
    target = run / FOLDER / f"step-{step:08d}"
    with atomic_folder(target) as folder:
        own = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        try:
            save_file(own, folder / WEIGHTS)
            torch.save({"step": step, **state}, folder / STATE)
        except (SafetensorError, RuntimeError) as error:  # how the two libraries say that the disk is full
            told = f"cannot write {target}: the disk seems full; free the space, then run the same command"
            raise InputError(told) from error
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old)


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The trainable parameters by name, and the state with its ``step``.

    Raises:
        InputError: It is damaged.
    """
    try:
        tensors = load_file(folder / WEIGHTS)
        state = torch.load(folder / STATE, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, ValueError, EOFError, struct.error, UnpicklingError, SafetensorError) as error:
        raise InputError(f"checkpoint {folder} is damaged ({error}): delete it to go on from the one before") from error
    return tensors, state
