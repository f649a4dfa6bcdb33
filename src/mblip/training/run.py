"""``mblip train``: from a recipe of any kind to a finished run directory."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mblip.config import (
    WITHOUT_EFFECT,
    AnyTrainRecipe,
    TextRecipe,
    TrainRecipe,
    VisionRecipe,
    hash_recipe,
    load_recipe,
    save_recipe,
)
from mblip.errors import InputError
from mblip.models.machine import settle
from mblip.storage import write_json
from mblip.training.checkpoints import newest_checkpoint
from mblip.training.curves import draw_curves

DONE = "done.json"


def train(
    recipe: AnyTrainRecipe, directory: Path, on_log: Callable[[dict[str, Any]], None] = lambda row: None
) -> dict[str, Any]:
    """Run a recipe in ``directory``, going on from its newest checkpoint; a finished run is left as it is.

    Returns:
        The last log row (empty where nothing is trained).

    Raises:
        InputError: The directory holds the run of another recipe, another process is at work there, or the recipe cannot
            be run.
    """
    if isinstance(recipe, TrainRecipe):
        import torch

        recipe = settle(recipe, on_gpu=torch.cuda.is_available())
    saved, finished = directory / "recipe.yaml", directory / DONE
    if (finished.is_file() or newest_checkpoint(directory)) and (other := _difference(recipe, saved)):
        raise InputError(f"{directory} holds the run of another recipe{other}: delete it or name another directory")
    if finished.is_file():
        last: dict[str, Any] = json.loads(finished.read_text(encoding="utf-8"))["last"]
        return last
    if os.environ.get("RANK", "0") != "0":  # the first of a launcher's processes leads
        return _run(recipe, directory, on_log)
    begun = directory.exists()
    with _alone(directory):
        try:
            save_recipe(recipe, saved)
            last = _run(recipe, directory, on_log)
        except InputError:
            if not begun and {path.name for path in directory.iterdir()} <= {saved.name}:  # nothing was done
                saved.unlink(missing_ok=True)
                directory.rmdir()
            raise
        draw_curves(directory)
        write_json(finished, {"recipe_hash": hash_recipe(recipe), "last": last})
    return last


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Make and hold a run directory: two runs that write to one would mix their checkpoints. A process that dies lets go.

    Raises:
        InputError: It cannot be made, or another process holds it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        held = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise InputError(
            f"cannot write {directory}: {error.strerror or error}; choose a folder that can be written"
        ) from error
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{directory}: another process is training there; wait for it, or name another directory"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(held)


def _run(recipe: AnyTrainRecipe, directory: Path, on_log: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    if isinstance(recipe, TextRecipe):
        from mblip.training.text import train_text

        return train_text(recipe, directory, on_log)
    if isinstance(recipe, VisionRecipe):
        from mblip.training.vision import train_vision

        return train_vision(recipe, directory, on_log)
    from mblip.training.align import train_vision_llm

    return train_vision_llm(recipe, directory, on_log)


def _difference(recipe: AnyTrainRecipe, saved: Path) -> str:
    """In what the recipe that a run directory was begun with asks for another result; empty where it asks for the same."""
    try:
        before = load_recipe(type(recipe), saved)
    except InputError:  # of another kind, or of a version with other fields
        return f" ({saved} is of another kind, or cannot be read)"
    if hash_recipe(before) == hash_recipe(recipe):
        return ""
    there, now = (dict(_flat(one.model_dump(mode="json", exclude=WITHOUT_EFFECT))) for one in (before, recipe))
    field = next(name for name in {**now, **there} if there.get(name) != now.get(name))
    return f" ({field} is {there.get(field)!r} there, {now.get(field)!r} now)"


def _flat(settings: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its dotted name."""
    if not isinstance(settings, dict):
        yield name, settings
        return
    for key, value in settings.items():
        yield from _flat(value, f"{name}.{key}".lstrip("."))
