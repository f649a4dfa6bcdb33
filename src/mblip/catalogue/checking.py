"""Check which raw files, pictures, checkpoints and engines of a recipe are present, missing or damaged."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mblip.catalogue.entries import DataSet, SetFile
from mblip.catalogue.receipts import look_at
from mblip.catalogue.wanted import Wanted, finds
from mblip.config import DataRecipe, TrainRecipe
from mblip.storage import has_content, image_scheme

_TAIL = 1 << 16  # bytes at the end of a JSON file that are checked
_JSON_ENDS = {".json": b"]}", ".jsonl": b"}", ".ndjson": b"}"}


@dataclass(frozen=True)
class Need:
    """One thing that a recipe needs.

    Attributes:
        what: Its path, or the Hub id of a checkpoint.
        role: Its use, such as ``raw file of coco``.
        state: Whether it is there, missing or damaged.
        problem: The problem, if there is one.
        remedy: The remedy, if possible a command.
    """

    what: str
    role: str
    state: Literal["there", "missing", "damaged"]
    problem: str = ""
    remedy: str = ""


def check_needs(recipe: DataRecipe | TrainRecipe, wanted: Wanted, catalogue: Mapping[str, DataSet]) -> Iterator[Need]:
    """Everything that a recipe needs, in the order in which it is needed.

    Args:
        recipe: A recipe for data or training.
        wanted: Result of :func:`~mblip.catalogue.wanted.find_wanted` for it.
        catalogue: All data sets.

    Raises:
        InputError: A file cannot be read.
    """
    for path, source in wanted.paths.items():
        hit = finds(path, catalogue)
        state, problem = _look(Path(path), hit[1] if hit else None)
        yield Need(path, f"raw data of {source}", state, problem, "" if state == "there" else _remedy(path, hit))
    for path, what in _stores(recipe).items():
        if path and not image_scheme(path):
            yield _store(path, what, catalogue)
    for path, name in wanted.engines.items():
        there = (Path(path) / "model.bin").is_file()
        command = f"mblip data engine {name or 'NAME'} --to {shlex.quote(path)}"
        yield Need(path, "translation engine", "there" if there else "missing", "", "" if there else command)
    yield from _checkpoints(wanted)
    if isinstance(recipe, TrainRecipe):
        for path, role in ((recipe.data.mix, "mix"), (recipe.data.replay, "mix that is replayed")):
            if path:
                there = (Path(path) / "manifest.json").is_file()
                remedy = "" if there else f"mblip data mix RECIPE --to {shlex.quote(path)}"
                yield Need(path, role, "there" if there else "missing", "", remedy)
        if recipe.model.run:
            there = (Path(recipe.model.run) / "mblip.json").is_file()
            remedy = "" if there else "train it, or name a finished run as model.run"
            yield Need(recipe.model.run, "run to start from", "there" if there else "missing", "", remedy)


def holds_data(folder: Path, catalogue: Mapping[str, DataSet]) -> bool:
    """Whether a folder has any file or folder of a data set at its place."""
    files = (file for entry in catalogue.values() for file in entry.files if not file.is_checkpoint)
    return any((folder / given).exists() for file in files for given in (file.target, *file.gives))


def _checkpoints(wanted: Wanted) -> Iterator[Need]:
    made = set(wanted.engines.values())
    for entry in wanted.sets:
        for file in entry.files:
            if not file.is_checkpoint or file.hub is None or entry.name in made:  # the engine made from it is enough
                continue
            from mblip.catalogue.hub import cached_checkpoint

            there = cached_checkpoint(file.hub) is not None
            remedy = "" if there else f"mblip data download {entry.name}"
            yield Need(file.hub.repository, "checkpoint", "there" if there else "missing", "", remedy)


def _stores(recipe: DataRecipe | TrainRecipe) -> dict[str, str]:
    """Image stores of a recipe, and their uses."""
    if isinstance(recipe, DataRecipe):
        stores = {source.images: f"pictures of {source.name}" for source in recipe.sources}
        return {**stores, recipe.images: "pictures of the mix"}
    found = {recipe.data.images: "pictures", recipe.data.replay_images: "pictures of the replayed mix"}
    if recipe.data.source:
        found.setdefault(recipe.data.source.images, "pictures")
    return found


def _store(path: str, what: str, catalogue: Mapping[str, DataSet]) -> Need:
    pattern = Path(path)
    if any(letter in path for letter in "*?["):
        there = any(pattern.parent.glob(pattern.name)) if pattern.parent.is_dir() else False
    else:
        there = pattern.exists()
    if there and pattern.is_dir() and not has_content(pattern):
        return Need(path, what, "damaged", "the folder is empty", _remedy(path, finds(path, catalogue), True))
    return Need(
        path, what, "there" if there else "missing", "", "" if there else _remedy(path, finds(path, catalogue), True)
    )


def _look(path: Path, file: SetFile | None) -> tuple[Literal["there", "missing", "damaged"], str]:
    if path.is_dir():
        if not has_content(path):
            return "damaged", "the folder is empty"
        return "there", ""
    whole = file is not None and file.folder is None
    state, problem = look_at(path, file.bytes if file and whole else None, file.sha256 if file and whole else "")
    if state == "complete":
        problem = _cut_off(path)
        return ("damaged", problem) if problem else ("there", "")
    return state, problem


def _cut_off(path: Path) -> str:
    """Damage that the end of a file shows; empty if there is none."""
    size = path.stat().st_size
    if not size:
        return "it is empty"
    ends = _JSON_ENDS.get(path.suffix.lower())
    if ends is None:
        return ""
    with path.open("rb") as file:
        file.seek(max(0, size - _TAIL))
        tail = file.read().rstrip()
    return "" if tail and tail[-1:] in (ends[i : i + 1] for i in range(len(ends))) else "it is cut off in the middle"


def _remedy(path: str, hit: tuple[DataSet, SetFile] | None, pictures: bool = False) -> str:
    if hit is None:
        if pictures:
            return "put the pictures there (mblip data download and mblip data images fetch those of a data recipe)"
        return "put it there, or name its path in the recipe"
    entry, file = hit
    given = next(give for give in file.gives if Path(path).parts[-len(Path(give).parts) :] == Path(give).parts)
    root = str(Path(path).parents[len(Path(given).parts) - 1])
    command = f"mblip data download {entry.name} --to {shlex.quote(root)}"
    return f"{command}; it must be requested: {entry.page}" if not file.url else command
