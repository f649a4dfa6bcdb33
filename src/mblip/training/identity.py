"""What a run stands on besides its recipe: the content of its mix and of the model that it starts from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from mblip.errors import InputError
from mblip.models.locate import locate
from mblip.models.runs import DESCRIPTION
from mblip.models.vision_llm import VisionLLM
from mblip.storage import check_shards, sha256_file, write_json
from mblip.training.checkpoints import newest_checkpoint

IDENTITY = "identity.json"


def mix_digest(folder: Path) -> str:
    """A hash of what a mix holds: that of each shard, each compared with the shard's bytes now.

    Raises:
        InputError: No finished mix, or a shard that was changed after its manifest was written.
    """
    shards = check_shards(folder).shards
    return hashlib.sha256(json.dumps(shards, sort_keys=True).encode()).hexdigest()


def model_digests(vlm: VisionLLM, run: str = "") -> dict[str, str]:
    """The weights that a run starts from, by what a recipe calls them.

    Args:
        vlm: As it was built or loaded.
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
    """Compare contents with those that a run was begun on, or note them where it has learnt nothing yet.

    Args:
        directory: The run.
        found: Digest by field of the recipe.
        names: What the fields are set to, for the error.

    Raises:
        InputError: One of them is another than before the run was stopped, or the note of it cannot be read.
    """
    held, begun = read_contents(directory), newest_checkpoint(directory) is not None
    for field, digest in found.items():
        if begun and held.get(field, digest) != digest:
            name = names.get(field) or field
            raise InputError(
                f"{field}: {name} has changed since {directory} was begun on it: bring back what it was, or name another "
                "directory for a new run"
            )
    if held != {**held, **found}:
        write_json(directory / IDENTITY, {**held, **found})


def read_contents(directory: Path) -> dict[str, str]:
    """What a run was begun on: digest by field of its recipe; empty where nothing is noted.

    Raises:
        InputError: The note is damaged.
    """
    path = directory / IDENTITY
    if not path.exists():
        return {}
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return {str(field): str(digest) for field, digest in held.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path} is damaged ({error}): bring it back from a copy, or name another directory for a new run"
        ) from error
