"""Which GGUF file a path names, and whether it is one that can be turned into a checkpoint; imports nothing heavy."""

from __future__ import annotations

import re
from pathlib import Path

from mblip.errors import InputError, cannot_read

SOURCE = "gguf.json"
"""File of a converted checkpoint that says which GGUF file it is of."""
_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.IGNORECASE)
_WEIGHTS = ("*.safetensors", "*.bin")


def find_gguf(path: Path) -> Path | None:
    """The GGUF file that a path names: itself, or the only one of a folder without other weights; None for anything else.

    Raises:
        InputError: The folder holds several, or the file is one of several parts, of another version, or damaged.
    """
    file: Path | None = path
    if path.is_dir():
        found = sorted(entry for entry in path.iterdir() if entry.suffix.lower() == ".gguf" and entry.is_file())
        if not found or any(True for pattern in _WEIGHTS for _ in path.glob(pattern)):
            return None
        if len(found) > 1 and not _PART.search(found[0].name):
            names = ", ".join(entry.name for entry in found[:5])
            raise InputError(f"{path} holds {len(found)} GGUF files ({names}): name one of them")
        file = found[0]
    elif not path.is_file():
        return None
    assert file is not None
    return file if _is_whole(file, path.suffix.lower() == ".gguf" or path.is_dir()) else None


def _is_whole(file: Path, named_so: bool) -> bool:
    """Whether a file is a GGUF of a readable version, all of it in one file; False where it is something else."""
    try:
        with file.open("rb") as opened:
            head = opened.read(8)
    except OSError as error:
        raise cannot_read(file, error) from error
    if head[:4] != _MAGIC:
        if named_so:
            raise InputError(f"{file} is not a GGUF file (it does not begin with GGUF); copy it again")
        return False
    if (version := int.from_bytes(head[4:8], "little")) not in _VERSIONS:
        raise InputError(f"{file} is GGUF of version {version}; versions 2 and 3 can be read: convert the model again")
    if part := _PART.search(file.name):
        raise parted(file, int(part[1]))
    return True


def parted(file: Path, parts: int) -> InputError:
    """The error for a file that is one of several parts."""
    return InputError(
        f"{file} is one of {parts} parts of a model; join them with llama.cpp's llama-gguf-split --merge, and name the "
        "whole file"
    )
