"""``mblip train``: from a recipe of any kind to a finished run directory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mblip.config import AnyTrainRecipe, TextRecipe, VisionRecipe, hash_recipe, load_recipe, save_recipe
from mblip.errors import InputError
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
        InputError: The directory holds the run of another recipe, or the recipe cannot be run.
    """
    saved, finished = directory / "recipe.yaml", directory / DONE
    if (finished.is_file() or newest_checkpoint(directory)) and not _same(recipe, saved):
        raise InputError(f"{directory} holds the run of another recipe: delete it or name another directory")
    if finished.is_file():
        last: dict[str, Any] = json.loads(finished.read_text(encoding="utf-8"))["last"]
        return last
    leads = os.environ.get("RANK", "0") == "0"  # of the processes that a launcher started
    begun = directory.exists()
    if leads:
        save_recipe(recipe, saved)
    try:
        last = _run(recipe, directory, on_log)
    except InputError:
        if leads and not begun and [path.name for path in directory.iterdir()] == [saved.name]:  # nothing was done
            saved.unlink()
            directory.rmdir()
        raise
    if leads:
        draw_curves(directory)
        write_json(finished, {"recipe_hash": hash_recipe(recipe), "last": last})
    return last


def _run(recipe: AnyTrainRecipe, directory: Path, on_log: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    if isinstance(recipe, TextRecipe):
        from mblip.training.text import train_text

        return train_text(recipe, directory, on_log)
    if isinstance(recipe, VisionRecipe):
        from mblip.training.vision import train_vision

        return train_vision(recipe, directory, on_log)
    from mblip.training.align import train_vision_llm

    return train_vision_llm(recipe, directory, on_log)


def _same(recipe: AnyTrainRecipe, saved: Path) -> bool:
    """Whether the recipe that a run directory was begun with asks for the same result."""
    try:
        return hash_recipe(load_recipe(type(recipe), saved)) == hash_recipe(recipe)
    except InputError:  # of another kind, or of a version with other fields
        return False
