"""The content that decides a run besides its recipe: its mix and the model that it starts from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from mblip.errors import InputError, check_readable
from mblip.models.locate import locate
from mblip.models.runs import DESCRIPTION
from mblip.models.vision_llm import VisionLLM
from mblip.storage import check_shards, sha256_file, write_json
from mblip.training.checkpoints import newest_checkpoint

IDENTITY = "identity.json"


def mix_digest(folder: Path) -> str:
    """A hash of a mix's content, from the hashes of its shards, which are checked.

    Raises:
        InputError: The mix is not finished, or a shard has changed since its manifest was written.
    """
    shards = check_shards(folder).shards
    return hashlib.sha256(json.dumps(shards, sort_keys=True).encode()).hexdigest()


def model_digests(vlm: VisionLLM, run: str = "") -> dict[str, str]:
    """Digests of the weights that a run starts from, by field of the recipe.

    Args:
        vlm: The model as it was built or loaded.
        run: The recipe's ``model.run``.
    """
    bases = vlm.origin.bases if vlm.origin else {}
    found = {f"model.{part}": base.fingerprint for part, base in bases.items()}
    folder = locate(run) if run else None
    if folder and (folder / DESCRIPTION).is_file():
        files = sorted([*folder.glob("*.safetensors"), *folder.glob("adapter*/**/*.safetensors")])
        digests = [(path.relative_to(folder).as_posix(), sha256_file(path)) for path in files]
        found["model.run"] = hashlib.sha256(json.dumps(digests).encode()).hexdigest()
    return found


def check_contents(directory: Path, found: Mapping[str, str], names: Mapping[str, str]) -> None:
    """Compare digests with those that a run started with, or record them if it has not trained yet.

    Args:
        directory: The run directory.
        found: Digest by field of the recipe.
        names: Value of each field, for the error message.

    Raises:
        InputError: A digest has changed since the run started, or the record cannot be read.
    """
    held, begun = read_contents(directory), newest_checkpoint(directory) is not None
    for field, digest in found.items():
        if begun and held.get(field, digest) != digest:
            name = names.get(field) or field
            raise InputError(
                f"{field}: {name} has changed since the run {directory} started: restore it, or name another "
                "directory for a new run"
            )
    if held != {**held, **found}:
        write_json(directory / IDENTITY, {**held, **found})


def read_contents(directory: Path) -> dict[str, str]:
    """The digests that a run started with, by field of its recipe; empty if none are recorded.

    Raises:
        InputError: The record is damaged.
    """
    path = directory / IDENTITY
    if not path.exists():
        return {}
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return {str(field): str(digest) for field, digest in held.items()}
    except (OSError, ValueError, AttributeError) as error:
        check_readable(path)
        raise InputError(
            f"{path} is damaged ({error}): restore it from a copy, or name another directory for a new run"
        ) from error
