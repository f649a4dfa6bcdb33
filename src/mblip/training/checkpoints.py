"""Checkpoints: trainable parts, optimiser and position, each in a folder that is whole or absent.

A folder lists the SHA-256 of its files: one in which a byte has changed since, or a file is short or gone, is not gone on
from, but the one before it. Nothing else needs keeping: batches and random draws follow from the seed and the step.
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

from mblip.errors import InputError, MblipError, ResourceError
from mblip.storage import atomic_folder, sha256_file, write_json

FOLDER = "checkpoints"
WEIGHTS, STATE, SUMS = "trainable.safetensors", "state.pt", "checksums.json"
DAMAGED = "damaged-"  # what the name of a folder that is not gone on from begins with


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first, whether or not their files are still what was written."""
    return sorted((run / FOLDER).glob("step-????????"))


def newest_checkpoint(run: Path) -> Path | None:
    """The checkpoint that a run would go on from, if nothing happened to it."""
    return next(reversed(checkpoints(run)), None)


def sound_checkpoint(run: Path, tell: Callable[[str], None] = lambda text: None) -> Path | None:
    """The newest checkpoint whose files are what was written; damaged ones that are newer are set aside under another name.

    Args:
        run: The run directory.
        tell: Is told of each that is set aside.

    Returns:
        None where the run has no checkpoint at all.

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
                tell(f"checkpoint {bad} is damaged ({why}): going on from {folder.name}; the other is now {aside}")
            return folder
        damaged[folder] = reason
    if damaged:
        folder, reason = next(iter(damaged.items()))
        others = f", and so are the {len(damaged) - 1} before it" if len(damaged) > 1 else ""
        raise InputError(
            f"checkpoint {folder} is damaged ({reason}){others}: bring one back from a copy, or delete {run / FOLDER} to "
            "begin anew"
        )
    return None


def find_damage(folder: Path) -> str:
    """What is wrong with the files of a checkpoint; empty where they are what was written."""
    path = folder / SUMS
    try:
        text = path.read_text(encoding="utf-8")
        sums = json.loads(text)
    except FileNotFoundError:
        return f"it has no {SUMS}, being incomplete or of an older version"
    except (OSError, ValueError) as error:
        return f"{SUMS} cannot be read: {error}"
    if not isinstance(sums, dict) or sums.keys() != {WEIGHTS, STATE} or not text.endswith("}\n"):
        return f"{SUMS} is not what was written"
    for name, digest in sums.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        try:
            if sha256_file(folder / name) != digest:
                return f"{name} is not what was written"
        except MblipError as error:
            return str(error)
    return ""


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
        ResourceError: The disk is full.
        InputError: The folder cannot be written.
    """
    target = run / FOLDER / f"step-{step:08d}"
    with atomic_folder(target) as folder:
        own = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        try:
            save_file(own, folder / WEIGHTS)
            torch.save({"step": step, **state}, folder / STATE)
        except (SafetensorError, RuntimeError) as error:  # how the two libraries say that the disk is full
            message = f"cannot write {target}: the disk seems full; free the space, then run the same command"
            raise ResourceError(message) from error
        write_json(folder / SUMS, {name: sha256_file(folder / name) for name in (WEIGHTS, STATE)})
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old)


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The trainable parameters by name, and the state with its ``step``.

    Raises:
        InputError: It is damaged, or is of another step than its name says.
    """
    reason = find_damage(folder)
    if reason:
        raise InputError(f"checkpoint {folder} is damaged ({reason}): delete it to go on from the one before")
    try:
        tensors = load_file(folder / WEIGHTS)
        state = torch.load(folder / STATE, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, ValueError, EOFError, struct.error, UnpicklingError, SafetensorError) as error:
        raise InputError(
            f"checkpoint {folder} cannot be read ({error}): delete it to go on from the one before"
        ) from error
    if folder.name != f"step-{state['step']:08d}":
        raise InputError(f"checkpoint {folder} is of step {state['step']}: give it back the name that it had")
    return tensors, state
