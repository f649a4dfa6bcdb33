"""Choose the model if the user names none: the published one, if its files are on this machine."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from mblip.errors import InputError, cannot_read, guess, leads_nowhere, nearest, shorten
from mblip.models.locate import exists, find_model, is_folder

if TYPE_CHECKING:
    from mblip.inference.predictor import Predictor

PUBLISHED = "Gregor/mblip-mt0-xl"
QUICKSTART = Path("runs/quickstart/multilingual-1")


def choose_model(name: str = "") -> str:
    """The model to load: the one named, else the published mT0-XL if its files are on this machine.

    Raises:
        InputError: The named model does not exist; or none is named, and the published one is not on this machine.
    """
    if name:
        find_model(name)
        return name
    if _at_hand(PUBLISHED):
        return PUBLISHED
    built = (QUICKSTART / "mblip.json").is_file()
    nano = f"--model {QUICKSTART}" if built else f"mblip quickstart, then --model {QUICKSTART}"
    raise InputError(
        f"no model is named, and the published one is not on this machine; choose one: --model {PUBLISHED} (downloads "
        f"several GB; for photos of anything), or {nano} (a few MB; for emoji scenes only)"
    )


def check_pictures(places: Sequence[str | Path]) -> None:
    """Check that pictures, folders and tables exist, before heavy imports.

    Raises:
        InputError: A name is empty, or names no file and no pattern that matches one.
    """
    for place in map(str, places):
        if not place.strip():
            raise InputError("the name of a picture is empty; name a file, a folder, a table or a pattern of them")
        if re.match(r"[A-Za-z][\w+.-]+://", place) or place.startswith("data:"):
            raise InputError(f"{shorten(place)!r} is an address, which is not fetched: download it and name the file")
        if not exists(Path(place).expanduser()) and not glob.has_magic(place):
            folder = Path(place).parent
            names = [str(folder / file.name) for file in folder.iterdir()] if is_folder(folder) else []
            hint = leads_nowhere(place) or guess(place, names)
            raise InputError(f"there is no picture, folder or table {shorten(place)!r}{hint}")


def served_name(model: str) -> str:
    """The default name of a model for clients: the last part of its name, without its folder."""
    last = Path(model).expanduser().resolve().name if set(model) <= set("./\\~") else model.rstrip("/\\")
    return re.split(r"[/\\]", last)[-1] or "model"


def read_keys(file: Path | None) -> list[str]:
    """Read the keys in a file, one per line; none without a file.

    Raises:
        InputError: The file cannot be read, or has no key, which would leave the server open.
    """
    if file is None:
        return []
    try:
        keys = file.read_text(encoding="utf-8").split()
    except OSError as error:
        raise cannot_read(file, error, "the keys in ") from error
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read the keys in {file}: {error}; save the file as UTF-8") from error
    if not keys:
        raise InputError(f"{file} has no key: write one per line")
    return keys


def open_model(name: str, quantization: str = "auto", compile_model: bool = False) -> Predictor:
    """Load a model on the GPU if there is one, else on the CPU.

    Args:
        name: See :func:`~mblip.inference.predictor.load_model`.
        quantization: Quantisation of the language model: ``none``, ``int8``, ``nf4`` or ``auto``, which is int8 on CPUs
            where that is faster (:mod:`mblip.models.cpu_int8`) and else none.
        compile_model: Compile the vision model and Q-Former, whose shapes never change.

    Raises:
        InputError: The model cannot be loaded, or the quantisation is unknown.
    """
    import torch

    from mblip.inference.predictor import load_model
    from mblip.machine import keep_freed_memory, limit_threads
    from mblip.models.cpu_int8 import is_faster, to_int8
    from mblip.models.quantize import Quantization

    known = ("auto", *get_args(Quantization))
    if quantization not in known:
        raise InputError(f"there is no quantization {quantization!r}{nearest(quantization, known)}")
    limit_threads()
    device = "cuda" if torch.cuda.is_available() else None
    packed = device is None and quantization in ("auto", "int8") and is_faster()
    chosen = None if packed else next((kind for kind in get_args(Quantization) if kind == quantization), None)
    model = load_model(name, quantization=chosen, device_map=device)
    if packed:
        to_int8(model.vlm.language_model)
    keep_freed_memory()
    if compile_model:
        for encoder in model.vlm.container.encoders.values():
            encoder.compile(dynamic=True)
    return model


def gpus() -> int:
    """Number of GPUs that torch sees; 1 if there is none, as the CPU counts as one."""
    import torch

    return max(1, torch.cuda.device_count())


def _at_hand(repository: str) -> bool:
    """Whether the Hub's local cache has a complete checkpoint."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        return False
    return any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))
