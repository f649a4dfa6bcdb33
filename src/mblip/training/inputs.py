"""Check that the files in a training recipe exist, before torch is imported, which takes seconds."""

from __future__ import annotations

import glob
from pathlib import Path

from mblip.config import TrainRecipe
from mblip.errors import InputError, MblipError, leads_nowhere
from mblip.models.locate import exists, find_language_model, find_local, is_folder


def check_paths(recipe: TrainRecipe) -> None:
    """Check that the recipe's checkpoints, mixes, pictures and table exist, without opening them.

    Raises:
        InputError: One does not exist; the message names the field. Or the recipe names neither a mix nor a corpus, or
            both.
    """
    for field in ("run", "vision", "llm"):
        if name := getattr(recipe.model, field):
            try:
                (find_language_model if field == "llm" else find_local)(name)
            except MblipError as error:
                raise error.reworded(f"model.{field}: {error}") from error
    section = recipe.data
    if bool(section.mix) == bool(section.source):
        raise InputError("set one of data.mix (a folder made by mblip data mix) and data.source")
    for field, folder in {"data.mix": section.mix, "data.replay": section.replay}.items():
        if folder and exists(Path(folder)) and not is_folder(Path(folder)):
            raise InputError(f"{field}: {folder} is a file; name the folder of the mix")
        if folder and not is_folder(Path(folder)):
            other = "name another" if field == "data.mix" else "name another, or do without (data.replay=)"
            raise InputError(
                f"{field}: there is no mix {folder}: make it with mblip data mix RECIPE --to {folder}, or {other}"
            )
    replayed = section.replay_images if section.replay else ""
    missing: dict[str, str] = {}
    for field, store in {"data.images": section.images, "data.replay_images": replayed}.items():
        if store and not (glob.has_magic(store) or "{" in store or exists(Path(store))):
            from mblip.storage import image_scheme, other_stores
            from mblip.storage.folders import closed_folder

            if closed := closed_folder(store):
                raise closed.reworded(f"{field}: {closed}")
            if not image_scheme(store):
                missing[store] = (
                    f"{field}: {store!r} is not an image store: name a folder, a .tar or a pattern of "
                    f"them{other_stores()}"
                )
    path = section.source and section.source.options.get("path")
    if isinstance(path, str) and not exists(Path(path)):
        remedy = leads_nowhere(path) or ": put it there, or name another with data.source.options.path=FILE"
        missing[path] = f"there is no {path}{remedy}"
    if missing:
        raise InputError("; ".join([*missing.values(), *_download(list(missing))]))


def _download(paths: list[str]) -> list[str]:
    """The command that downloads the paths that are in the catalogue."""
    from mblip.catalogue.entries import load_catalogue
    from mblip.catalogue.wanted import finds

    catalogue = load_catalogue()
    names = dict.fromkeys(hit[0].name for path in paths if (hit := finds(path, catalogue)))
    return [f"download with: mblip data download {' '.join(names)} --to data"] if names else []
