"""Checkpoints: trainable parts, optimiser and step, each in a folder that is complete or absent.

A folder lists the SHA-256 of its files. If a file has changed or is missing, the run continues from the checkpoint
before. No other state is needed: batches and random draws follow from the seed and the step.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mblip.errors import InputError, MblipError, ResourceError, refusal
from mblip.storage import atomic_folder, sha256_file, write_json

FOLDER = "checkpoints"
WEIGHTS, STATE, SUMS = "trainable.safetensors", "state.pt", "checksums.json"
_UNREADABLE = (LookupError, TypeError, ValueError, AttributeError)  # from content that is not a checkpoint's
DAMAGED = "damaged-"  # prefix of a damaged checkpoint's folder


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first, damaged ones included."""
    return sorted((run / FOLDER).glob("step-????????"))


def newest_checkpoint(run: Path) -> Path | None:
    """The newest checkpoint of a run, without a check for damage."""
    return next(reversed(checkpoints(run)), None)


def sound_checkpoint(run: Path, tell: Callable[[str], None] = lambda text: None) -> Path | None:
    """The newest undamaged checkpoint; damaged ones that are newer are renamed.

    Args:
        run: The run directory.
        tell: Called with a message for each renamed checkpoint.

    Returns:
        None if the run has no checkpoint.

    Raises:
        InputError: Every checkpoint is damaged; none is touched.
    """
    damaged: dict[Path, str] = {}
    for folder in reversed(checkpoints(run)):
        reason = find_damage(folder)
        if not reason:
            for bad, why in damaged.items():
                aside = bad.with_name(DAMAGED + bad.name)
                shutil.rmtree(aside, ignore_errors=True)
                bad.rename(aside)
                tell(f"checkpoint {bad} is damaged ({why}): continuing from {folder.name}; the other is now {aside}")
            return folder
        damaged[folder] = reason
    if damaged:
        folder, reason = next(iter(damaged.items()))
        before = "is the one" if len(damaged) == 2 else f"are the {len(damaged) - 1}"
        others = f", and so {before} before it" if len(damaged) > 1 else ""
        raise InputError(
            f"checkpoint {folder} is damaged ({reason}){others}: restore one from a copy, or delete {run / FOLDER} to "
            "start again"
        )
    return None


def find_damage(folder: Path) -> str:
    """The first damage in the files of a checkpoint; empty if there is none."""
    path = folder / SUMS
    try:
        text = path.read_text(encoding="utf-8")
        sums = json.loads(text)
    except FileNotFoundError:
        return f"it has no {SUMS}: it is incomplete, or of an older version"
    except OSError as error:
        return f"{SUMS} cannot be read: {refusal(error)}"
    except ValueError as error:
        return f"{SUMS} is damaged: {error}"
    if not isinstance(sums, dict) or sums.keys() != {WEIGHTS, STATE} or not text.endswith("}\n"):
        return f"{SUMS} has changed since it was written"
    for name, digest in sums.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        try:
            if sha256_file(folder / name) != digest:
                return f"{name} has changed since it was written"
        except MblipError as error:
            return str(error)
    return ""


def save_checkpoint(run: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int) -> None:
    """Write a checkpoint, then delete the oldest ones beyond ``keep``.

    The folder gets its name only when every byte is on the disk, so a kill or a full disk leaves earlier checkpoints
    intact.

    Args:
        run: The run directory.
        step: Number of optimiser steps done.
        tensors: The trainable parameters by name.
        state: All else that the run needs to continue: tensors, numbers, lists and dicts.
        keep: Number of checkpoints to keep.

    Raises:
        ResourceError: The disk is full.
        InputError: The folder cannot be written.
    """
    target = run / FOLDER / f"step-{step:08d}"
    with atomic_folder(target) as folder:
        own = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        try:
            save_file(own, folder / WEIGHTS)
            torch.save({"step": step, **state}, folder / STATE)
        except (SafetensorError, RuntimeError) as error:  # raised by the two libraries if the disk is full
            message = f"cannot write {target}: the disk seems full; free the space, then run the same command"
            raise ResourceError(message) from error
        write_json(folder / SUMS, {name: sha256_file(folder / name) for name in (WEIGHTS, STATE)})
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old)


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The trainable parameters by name, and the state with its ``step``.

    Raises:
        InputError: The checkpoint is damaged, or its step differs from its name.
    """
    reason = find_damage(folder)
    if reason:
        raise InputError(f"checkpoint {folder} is damaged ({reason}): delete it to continue from the one before")
    try:
        tensors = load_file(folder / WEIGHTS)
        state = torch.load(folder / STATE, weights_only=True, map_location="cpu")
        step = int(state["step"])
    except (*_UNREADABLE, OSError, RuntimeError, EOFError, struct.error, UnpicklingError, SafetensorError) as error:
        raise InputError(
            f"checkpoint {folder} cannot be read ({error}): delete it to continue from the one before"
        ) from error
    if folder.name != f"step-{step:08d}":
        raise InputError(f"checkpoint {folder} holds step {step}: give it the name of that step")
    return tensors, state
