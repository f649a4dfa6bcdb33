"""``mblip train``: run a recipe of any kind in a run directory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mblip import plugins
from mblip.config import Recipe, TrainRecipe, hash_recipe, load_recipe, save_recipe
from mblip.errors import InputError, MblipError, cannot_write
from mblip.models.auto_settings import resolve_auto
from mblip.settings import contents, decisive
from mblip.storage import exclusive_lock, write_json
from mblip.training.checkpoints import newest_checkpoint, sound_checkpoint
from mblip.training.curves import draw_curves
from mblip.training.identity import IDENTITY, check_contents, mix_digest, read_contents
from mblip.training.logs import Note, OnLog

DONE = "done.json"
_OTHER = "{directory} holds the run of another recipe{other}: delete it or name another directory"


def train(recipe: Recipe, directory: Path, on_log: OnLog = lambda row: None) -> dict[str, Any]:
    """Run a recipe in ``directory`` from its newest undamaged checkpoint; a finished run is not changed.

    Args:
        recipe: A recipe of any kind.
        directory: The run directory. A run that was started continues if everything that decides its result is
            unchanged, including the content of the mix and of the bases.
        on_log: Called with each row of the log, and with notes such as that a checkpoint is damaged.

    Returns:
        The last log row; empty if nothing was trained.

    Raises:
        InputError: The directory holds a run of another recipe or mix, all its checkpoints are damaged, another process
            works there, or the recipe cannot be run.
    """
    recipe = _resolved(recipe)
    saved, finished = directory / "recipe.yaml", directory / DONE
    check_recipe(recipe, directory)
    if finished.is_file():
        if other := _other_content(recipe, directory, saved):
            raise InputError(_OTHER.format(directory=directory, other=other))
        if changed := _changed_table(recipe, directory):  # else it would seem to learn the new rows
            raise InputError(
                f"{changed} has changed since the run {directory} ended: name another directory for a new run"
            )
        last: dict[str, Any] = json.loads(finished.read_text(encoding="utf-8"))["last"]
        return last
    if os.environ.get("RANK", "0") != "0":  # only the first process of a launcher writes
        return _run(recipe, directory, on_log)
    begun = directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        there = {path.name for path in directory.iterdir()}
    except OSError as error:
        raise cannot_write(directory, error) from error
    with exclusive_lock(directory, "training"):  # two runs in one directory would mix their checkpoints
        # Checked first, because a new start is prepared differently from a continued run.
        sound_checkpoint(directory, lambda text: on_log(Note(text)))
        try:
            _check_folders(recipe, directory)
            save_recipe(recipe, saved)
            last = _run(recipe, directory, on_log)
        except MblipError:
            new = {path.name for path in directory.iterdir()} - there
            if new <= {saved.name, IDENTITY}:  # the run has done nothing yet
                for name in new:
                    (directory / name).unlink()
                if not begun:
                    directory.rmdir()
            raise
        draw_curves(directory)
        write_json(finished, {"recipe_hash": hash_recipe(recipe), "last": last})
    return last


def check_recipe(recipe: Recipe, directory: Path) -> None:
    """Check that a directory holds no run, or one of this recipe; its mix and bases are not compared.

    Raises:
        InputError: It holds the run of another recipe; the message names a field that differs.
    """
    if not (directory / DONE).is_file() and not newest_checkpoint(directory):
        return
    if other := _difference(_resolved(recipe), directory / "recipe.yaml"):
        raise InputError(_OTHER.format(directory=directory, other=other))


def _resolved(recipe: Recipe) -> Recipe:
    """The recipe with the machine's settings in place of ``auto``."""
    if not isinstance(recipe, TrainRecipe):
        return recipe
    import torch

    return resolve_auto(recipe, on_gpu=torch.cuda.is_available())


def _run(recipe: Recipe, directory: Path, on_log: OnLog) -> dict[str, Any]:
    """Train with the function for the recipe's kind."""
    last: dict[str, Any] = plugins.load(recipe.trained_by)(recipe, directory, on_log)
    return last


def _difference(recipe: Recipe, saved: Path) -> str:
    """The first difference from the run's saved recipe that changes the result; empty if there is none."""
    try:
        before = load_recipe(type(recipe), saved)
    except InputError:  # another kind of recipe, or a version with other fields
        return f" ({saved} is of another kind, or cannot be read)"
    if hash_recipe(before) == hash_recipe(recipe):
        return ""
    there, now = (dict(_flat(decisive(one))) for one in (before, recipe))
    field = next(name for name in {**now, **there} if there.get(name) != now.get(name))
    return f" ({field} is {there.get(field)!r} there, {now.get(field)!r} now)"


def _check_folders(recipe: Recipe, directory: Path) -> None:
    """Compare the recipe's mixes with those that the run started with; missing ones are reported later."""
    folders = {field: folder for field, folder in contents(recipe) if Path(folder).is_dir()}
    if folders:
        check_contents(directory, {field: mix_digest(Path(folder)) for field, folder in folders.items()}, folders)


def _changed_table(recipe: Recipe, directory: Path) -> str:
    """A raw file of the corpus that a run was trained on without a mix, if it has changed since; mostly empty."""
    if not isinstance(recipe, TrainRecipe) or not recipe.data.source:
        return ""
    from mblip.corpora.provenance import changed_file, load_stamps
    from mblip.corpora.sampling import STAMPS

    return changed_file(load_stamps(directory / "mix" / STAMPS)[1])


def _other_content(recipe: Recipe, directory: Path, saved: Path) -> str:
    """The first folder whose content differs from that of a finished run, if the recipe names another folder."""
    before, held = dict(contents(load_recipe(type(recipe), saved))), None
    for field, folder in contents(recipe):
        if before.get(field) == folder:
            continue
        held = read_contents(directory) if held is None else held
        if held.get(field) != mix_digest(Path(folder)):
            return f" ({field} is {before.get(field)!r} there, {folder!r} now, which holds other texts)"
    return ""


def _flat(settings: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting with its dotted name."""
    if not isinstance(settings, dict):
        yield name, settings
        return
    for key, value in settings.items():
        yield from _flat(value, f"{name}.{key}".lstrip("."))
