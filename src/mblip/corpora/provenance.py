"""Record the raw files behind a stage, to notice when one has changed.

Size and modification time are compared first. Only if they differ is the content hashed again, so a copied or touched
file still counts as the same. A missing file does not count as changed: finished stages do not need it.
"""

from __future__ import annotations

import hashlib
import json
import typing
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mblip.config import SourceSection
from mblip.errors import InputError
from mblip.storage import sha256_file, write_json

Stamps = dict[str, dict[str, Any]]
"""By path: size and modification time, and the hash of the content."""


def raw_files(source: SourceSection, read: Any, without: Collection[str] = ()) -> list[Path]:
    """The files and folders in the options of a source, found by the types of its reader's parameters.

    Args:
        source: A source of a recipe.
        read: Its reader's function.
        without: Options to leave out.
    """
    hints = {name: hint for name, hint in typing.get_type_hints(read).items() if name not in without}
    named = [source.options[name] for name, hint in hints.items() if name in source.options and _is_path(hint)]
    listed = [path for value in named for path in (value if isinstance(value, list | tuple) else [value])]
    return [_stamped(Path(path)) for path in listed if path]


def stamp_files(paths: list[Path]) -> Stamps:
    """The stamps of the paths that exist."""
    return {str(path): {"state": _state(path), "sha256": _digest(path)} for path in paths if path.exists()}


def changed_file(stamps: Stamps) -> str:
    """The first path whose content has changed since it was stamped; empty if there is none."""
    for name, stamp in stamps.items():
        path = Path(name)
        if path.exists() and _state(path) != stamp["state"] and _digest(path) != stamp["sha256"]:
            return name
    return ""


def save_stamps(path: Path, recipe_hash: str, stamps: Stamps) -> None:
    """Save stamps with the hash of their recipe."""
    write_json(path, {"recipe": recipe_hash, "files": stamps})


def load_stamps(path: Path) -> tuple[str, Stamps]:
    """Load the hash and stamps from :func:`save_stamps`; both are empty if there is no file.

    Raises:
        InputError: The file is damaged.
    """
    if not path.is_file():
        return "", {}
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        return saved["recipe"], saved["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged; delete its folder and run the step again") from error


def _is_path(hint: Any) -> bool:
    return hint is Path or Path in typing.get_args(hint)


def _stamped(path: Path) -> Path:
    """The file to stamp: for a folder of shards, its manifest with all hashes."""
    manifest = path / "manifest.json"
    return manifest if manifest.is_file() else path


def _state(path: Path) -> list[int]:
    status = path.stat()
    if not path.is_dir():
        return [status.st_size, status.st_mtime_ns]
    folders = [child for child in path.iterdir() if child.is_dir()]
    return [len(folders), max(folder.stat().st_mtime_ns for folder in [path, *folders])]


def _digest(path: Path) -> str:
    """A hash of a file's content, or of the names in a folder and its subfolders."""
    if not path.is_dir():
        return sha256_file(path)
    digest = hashlib.sha256()
    for folder in sorted([path, *(child for child in path.iterdir() if child.is_dir())]):
        names = "\0".join(sorted(file.name for file in folder.iterdir()))
        digest.update(f"{folder.name}\0{names}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
