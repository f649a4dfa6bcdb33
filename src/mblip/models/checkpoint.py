"""Read single tensors of a checkpoint by name, sharded or not, without loading the rest."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import stat
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mblip.errors import InputError, cannot_write, check_readable, counted, of_system
from mblip.models.gguf_files import SOURCE as GGUF_SOURCE
from mblip.storage import atomic_path


class Checkpoint:
    """The weights in a folder.

    Attributes:
        folder: The checkpoint's folder.

    Raises:
        InputError: There are none, or a shard is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = weight_files(folder)

    @cached_property
    def names(self) -> dict[str, Path]:
        """The file of each tensor."""
        found: dict[str, Path] = {}
        for path in self.files:
            if path.suffix == ".safetensors":
                with _opened(path) as file:
                    found.update(dict.fromkeys(file.keys(), path))
            else:
                found.update(dict.fromkeys(_load_bin(path), path))
        return found

    def read(self, prefix: str) -> dict[str, Tensor]:
        """Read the tensors whose names begin with ``prefix``, keyed by the rest of the name."""
        tensors: dict[str, Tensor] = {}
        for path in sorted({path for name, path in self.names.items() if name.startswith(prefix)}):
            wanted = [name for name, where in self.names.items() if where == path and name.startswith(prefix)]
            if path.suffix == ".safetensors":
                with _opened(path) as file:
                    tensors |= {name[len(prefix) :]: file.get_tensor(name) for name in wanted}
            else:
                loaded = _load_bin(path)
                tensors |= {name[len(prefix) :]: loaded[name] for name in wanted}
        return tensors

    def dtype(self, prefix: str) -> torch.dtype:
        """The floating type of most tensors whose names begin with ``prefix``; fp32 if there are none."""
        kinds: Counter[torch.dtype] = Counter()
        for path in self.files:
            if path.suffix == ".safetensors":
                with _opened(path) as file:
                    stored = [file.get_slice(name).get_dtype() for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
                kinds.update(_TYPES[kind] for kind in stored if kind in _TYPES)
            else:
                loaded = _load_bin(path)
                kinds.update(t.dtype for name, t in loaded.items() if name.startswith(prefix) and t.is_floating_point())
        return kinds.most_common(1)[0][0] if kinds else torch.float32


_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a checkpoint, safetensors if it has them; every shard in the index is there.

    Raises:
        InputError: There are none, or a shard is missing.
    """
    for stem in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{stem}.index.json"
        if index.is_file():
            names = sorted(set(read_json(index).get("weight_map", {}).values()))
            missing = [name for name in names if not (folder / name).is_file()]
            if missing or not names:
                raise InputError(
                    f"{folder} lacks {missing[0] if missing else 'every shard'} ({len(missing)} of "
                    f"{counted(len(names), 'shard')} are missing); copy the checkpoint again"
                )
            return [folder / name for name in names]
        if (folder / stem).is_file():
            return [folder / stem]
    raise InputError(f"{folder} holds no weights: neither model.safetensors nor pytorch_model.bin")


@contextmanager
def told_of(folder: Path) -> Iterator[None]:
    """Let an error of what is done inside name the checkpoint, where it does not.

    Raises:
        InputError: The one that was raised.
    """
    try:
        yield
    except InputError as error:
        if str(folder) in str(error):
            raise
        raise InputError(f"{folder}: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InputError: The file is missing, may not be read, or does not hold a JSON object.
    """
    check_readable(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        if (path.parent / "mblip.json").is_file():
            raise InputError(
                f"{path.parent} is a run, not a part to build a model from: continue from it with "
                f"model.run={path.parent}"
            ) from error
        raise of_system(
            error, f"{path} cannot be read ({error.strerror}); is {path.parent} a complete checkpoint?"
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); copy the checkpoint again") from error
    if not isinstance(data, dict):
        raise InputError(f"{path} must hold one JSON object")
    return data


def fingerprint(folder: Path) -> str:
    """A hash that tells checkpoints apart without reading gigabytes: names, sizes and both ends of the weight files.

    A converted GGUF file is told apart by the file itself.
    """
    if (folder / GGUF_SOURCE).is_file():
        return str(read_json(folder / GGUF_SOURCE).get("sha256"))
    digest = hashlib.sha256()
    for path in weight_files(folder):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 16))
            file.seek(max(0, size - (1 << 16)))
            digest.update(file.read())
    return digest.hexdigest()


def load_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a run's safetensors file, by name.

    Raises:
        InputError: The file is missing, damaged, or may not be read.
    """
    check_readable(file)
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file} is missing or damaged ({error}); copy the run again") from error
    return tensors


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write tensors by name to a safetensors file, which may be read by whoever may read other files of its folder.

    Raises:
        MblipError: The file cannot be written.
    """
    own = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_path(file) as temporary, writing(file):
        temporary.touch()
        mode = stat.S_IMODE(temporary.stat().st_mode)
        save_file(own, temporary, metadata={"format": "pt"})
        temporary.chmod(mode)  # safetensors lets nobody else read what it writes


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Let a failure of safetensors or tokenizers to write inside the block name the path, the reason and the remedy.

    Raises:
        MblipError: The one about that failure.
    """
    try:
        yield
    except Exception as error:
        # tokenizers has no class of its own for it.
        code = re.search(r"\(os error (\d+)\)", str(error)) if type(error) in (Exception, SafetensorError) else None
        if code:
            raise cannot_write(path, OSError(int(code[1]), os.strerror(int(code[1])))) from error
        raise


def _opened(path: Path) -> Any:
    check_readable(path)
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is damaged ({str(error).splitlines()[0]}); copy the checkpoint again") from error


def _load_bin(path: Path) -> dict[str, Tensor]:
    check_readable(path)
    try:
        # Files written by torch before 1.6 cannot be memory-mapped.
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise InputError(f"{path} is a pickle that holds more than tensors and is refused; use safetensors") from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise InputError(f"{path} is damaged ({str(error).splitlines()[0]}); copy the checkpoint again") from error
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise InputError(f"{path} does not map names to tensors, so it is not a checkpoint's weights")
    return loaded
