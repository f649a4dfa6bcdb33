"""What tests ask of folders."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mblip.storage import sha256_file


def hash_directory(root: Path) -> str:
    """SHA-256 over the names and bytes of all files below a folder; hidden files do not count."""
    names = sorted(file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file())
    assert names, f"{root} holds no file"
    digest = hashlib.sha256()
    for name in names:
        if not any(part.startswith(".") for part in name.split("/")):
            digest.update(f"{name}\0{sha256_file(root / name)}\n".encode())
    return digest.hexdigest()
