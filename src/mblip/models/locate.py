"""Where a checkpoint lies: the one place that resolves what a person names."""

from __future__ import annotations

import importlib
import re
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

from mblip.errors import InputError, nearest

NANO = "nano:"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")
_TEXT_FILES = ["*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken"]


def locate(name: str | Path, weights: bool = True) -> Path:
    """The folder of a checkpoint.

    Args:
        name: ``nano:NAME`` (shipped with the package), a folder, or a Hub id, ``org/name`` or ``org/name@revision``,
            which is downloaded unless the local cache has it.
        weights: Without them, a Hub checkpoint's configuration and tokeniser alone are fetched.

    Raises:
        InputError: There is nothing of that name, or the Hub cannot be reached and the cache does not hold it.
    """
    text = str(name)
    if text.startswith(NANO):
        return _shipped(text.removeprefix(NANO))
    path = Path(text).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise InputError(f"{path} is a file; name the folder that holds the checkpoint")
    if isinstance(name, Path) or text.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(text):
        raise InputError(f"there is no checkpoint folder {text!r}")
    return _from_hub(text, weights)


def revision_of(folder: Path) -> str | None:
    """The commit of a folder in the Hub's cache; None for any other folder."""
    return folder.name if folder.parent.name == "snapshots" else None


def _shipped(name: str) -> Path:
    bases = Path(str(resources.files("mblip"))) / "nano" / "bases"
    known = sorted(path.name for path in bases.iterdir() if path.is_dir()) if bases.is_dir() else []
    if name not in known:
        raise InputError(f"no checkpoint nano:{name} is shipped with the package{nearest(name, known)}")
    return bases / name


def _from_hub(name: str, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    wanted: dict[str, Any] = {"repo_id": repository, "revision": revision or None}
    try:
        patterns = [*_TEXT_FILES, *(_weight_files(repository, revision) if weights else [])]
        return Path(snapshot_download(**wanted, allow_patterns=patterns))
    except _not_given() as error:
        try:
            return Path(snapshot_download(**wanted, local_files_only=True))
        except (LocalEntryNotFoundError, OSError):
            raise InputError(
                f"{name!r} is neither a folder nor a checkpoint in the local Hugging Face cache, and the Hub does not "
                f"give it ({type(error).__name__}): check the spelling and the connection, or name a folder"
            ) from error


def _not_given() -> tuple[type[Exception], ...]:
    """What the Hub's client raises; without a connection, what comes from the library that its version stands on."""
    found: list[type[Exception]] = [OSError, ValueError]
    for library in ("httpx", "httpx2"):
        with suppress(ImportError):
            found.append(importlib.import_module(library).HTTPError)
    return tuple(found)


def _weight_files(repository: str, revision: str) -> list[str]:
    """Patterns of the weights to fetch: safetensors where there are any, never both formats."""
    from huggingface_hub import constants, list_repo_files

    if constants.HF_HUB_OFFLINE:
        return ["*.safetensors", "*.bin"]
    top = [file for file in list_repo_files(repository, revision=revision or None) if "/" not in file]
    return [file for file in top if file.endswith(".safetensors")] or [file for file in top if file.endswith(".bin")]
