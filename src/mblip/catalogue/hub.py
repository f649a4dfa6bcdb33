"""Files and checkpoints of the Hugging Face Hub, through its own client."""

from __future__ import annotations

import importlib
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from mblip.catalogue.entries import HubAddress
from mblip.errors import InputError

_TEXT_FILES = ["*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken"]


def not_given() -> tuple[type[Exception], ...]:
    """Exceptions of the Hub's client, including those of its HTTP library without a connection."""
    found: list[type[Exception]] = [OSError, ValueError]
    for library in ("httpx", "httpx2"):
        with suppress(ImportError):
            found.append(importlib.import_module(library).HTTPError)
    return tuple(found)


def wanted_files(repository: str, revision: str, weights: bool = True) -> list[str]:
    """Patterns of the needed files of a checkpoint: safetensors if there are any, never both formats."""
    from huggingface_hub import constants, list_repo_files

    if not weights:
        return _TEXT_FILES
    if constants.HF_HUB_OFFLINE:
        return [*_TEXT_FILES, "*.safetensors", "*.bin"]
    top = [file for file in list_repo_files(repository, revision=revision or None) if "/" not in file]
    return [*_TEXT_FILES, *([f for f in top if f.endswith(".safetensors")] or [f for f in top if f.endswith(".bin")])]


def hub_size(address: HubAddress) -> int | None:
    """Size of a file, or of a checkpoint's needed files; None if the Hub does not give it."""
    from fnmatch import fnmatch

    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return None
    kind = "dataset" if address.is_dataset else "model"
    try:
        if address.file:
            found = HfApi().get_paths_info(
                address.repository, [address.file], revision=address.revision or None, repo_type=kind
            )
            return int(found[0].size) if found else None  # type: ignore[union-attr]
        listed = HfApi().model_info(address.repository, revision=address.revision or None, files_metadata=True)
        names = [item.rfilename for item in listed.siblings or [] if "/" not in item.rfilename]
        weights = [n for n in names if n.endswith(".safetensors")] or [n for n in names if n.endswith(".bin")]
        sizes = [
            item.size or 0
            for item in listed.siblings or []
            if item.rfilename in weights or any(fnmatch(item.rfilename, pattern) for pattern in _TEXT_FILES)
        ]
        return sum(sizes)
    except not_given():
        return None


def cached_checkpoint(address: HubAddress) -> Path | None:
    """The folder of a checkpoint in the Hub's local cache; None if it is not there with all its weights."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(address.repository, "config.json", revision=address.revision or None)
    if not isinstance(found, str):
        return None
    folder = Path(found).parent
    weights = [path for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern)]
    is_whole = bool(weights) and all(path.exists() for path in weights) and not _lacking(folder)
    return folder if is_whole else None


def _lacking(folder: Path) -> list[str]:
    """Shards in a checkpoint's index that are missing."""
    import json

    found: list[str] = []
    for index in folder.glob("*.index.json"):
        with suppress(OSError, ValueError, AttributeError):
            names = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
            kind = index.name.removesuffix(".index.json").rpartition(".")[2]
            if any(folder.glob(f"*.{kind}")):
                found += [name for name in names if not (folder / name).exists()]
    return found


def fetch_checkpoint(address: HubAddress) -> Path:
    """Download a checkpoint into the Hub's cache, where recipes find it; returns its folder.

    Raises:
        InputError: The download fails.
    """
    from huggingface_hub import snapshot_download

    try:
        patterns = wanted_files(address.repository, address.revision)
        return Path(
            snapshot_download(address.repository, revision=address.revision or None, allow_patterns=patterns, **_bar())
        )
    except not_given() as error:
        raise refused(address, error) from error


def find_checkpoint(address: HubAddress) -> Path:
    """The folder of a checkpoint in the cache, downloaded if it is incomplete there.

    Raises:
        InputError: As in :func:`fetch_checkpoint`.
    """
    return cached_checkpoint(address) or fetch_checkpoint(address)


def fetch_hub_file(address: HubAddress, target: Path, size: int | None, sha256: str) -> None:
    """Download a file of a repository to its place; the Hub's client resumes and checks it.

    Raises:
        InputError: The download fails, or the file differs from the catalogue.
    """
    from huggingface_hub import hf_hub_download

    from mblip.catalogue.receipts import look_at  # needs Arrow, which takes long to import

    staging = target.with_name(f".{target.name}.hub")  # kept after an interruption, for the client to continue
    try:
        found = hf_hub_download(
            address.repository, address.file, revision=address.revision or None,
            repo_type="dataset" if address.is_dataset else "model", local_dir=staging, **_bar(),
        )  # fmt: skip
    except not_given() as error:
        raise refused(address, error) from error
    state, why = look_at(Path(found), size, sha256)
    if state != "complete":
        shutil.rmtree(staging, ignore_errors=True)
        raise InputError(
            f"{address.page}, file {address.file}: {why}; it has changed there. Nothing was kept; correct the "
            "catalogue or name another revision"
        )
    Path(found).replace(target)
    shutil.rmtree(staging, ignore_errors=True)


def refused(address: HubAddress, error: Exception) -> InputError:
    """The error for a failed download from the Hub."""
    name = type(error).__name__
    if name == "GatedRepoError":
        return InputError(
            f"{address.page} must be requested: accept its terms on that page, then log in with 'hf auth login' and "
            "run the same command again"
        )
    if name in ("RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError", "RemoteEntryNotFoundError"):
        return InputError(f"the Hub has no {address.file or 'checkpoint'} at {address.page} ({name}); correct the name")
    lines = str(error).strip().splitlines()
    return InputError(
        f"the Hub does not give {address.file or 'the checkpoint'} of {address.page} ({name}: "
        f"{lines[0][:200] if lines else ''}); check the connection (and HF_HUB_OFFLINE), then run the same command again"
    )


def _bar() -> dict[str, Any]:
    from tqdm.auto import tqdm

    return {"tqdm_class": tqdm}  # shows only on a terminal; the command line turns the Hub's own bar off
