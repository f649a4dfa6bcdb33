"""Which model answers where none is named: the published one if its files are here, else nobody's guess."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from mblip.errors import InputError, guess, nearest, shorten
from mblip.models.locate import exists, find_model, is_folder

if TYPE_CHECKING:
    from mblip.inference.predictor import Predictor

PUBLISHED = "Gregor/mblip-mt0-xl"
QUICKSTART = Path("runs/quickstart/multilingual-1")


def choose_model(name: str = "") -> str:
    """The model to load: the one named, else the published mT0-XL if its files are at hand.

    Raises:
        InputError: None is named and it is not at hand: the choice is the person's; or the one named is not there.
    """
    if name:
        find_model(name)
        return name
    if _at_hand(PUBLISHED):
        return PUBLISHED
    built = (QUICKSTART / "mblip.json").is_file()
    nano = f"--model {QUICKSTART}" if built else f"mblip quickstart, then --model {QUICKSTART}"
    raise InputError(
        f"no model is named and the published one is not on this machine; choose: --model {PUBLISHED} downloads it "
        f"(several GB, photos of anything), or {nano} (a few MB, emoji scenes only)"
    )


def check_pictures(places: Sequence[str | Path]) -> None:
    """Say that a picture, folder or table is not there before anything heavy is imported.

    Raises:
        InputError: A name is empty, or there is nothing at a place, nor any file that it is a pattern of.
    """
    for place in map(str, places):
        if not place.strip():
            raise InputError("the name of a picture is empty; name a file, a folder, a table or a pattern of them")
        if re.match(r"[A-Za-z][\w+.-]+://", place) or place.startswith("data:"):
            raise InputError(f"{shorten(place)!r} is an address, which is not fetched: download it and name the file")
        if not exists(Path(place).expanduser()) and not glob.has_magic(place):
            folder = Path(place).parent
            names = [str(folder / file.name) for file in folder.iterdir()] if is_folder(folder) else []
            raise InputError(f"there is no picture, folder or table {shorten(place)!r}{guess(place, names)}")


def served_name(model: str) -> str:
    """What clients call a model where nobody said: the last part of its name, for they need not know its folder."""
    last = Path(model).expanduser().resolve().name if set(model) <= set("./\\~") else model.rstrip("/\\")
    return re.split(r"[/\\]", last)[-1] or "model"


def read_keys(file: Path | None) -> list[str]:
    """The keys in a file, one a line; none where there is no file.

    Raises:
        InputError: The file cannot be read or holds no key, which would leave the server open.
    """
    if file is None:
        return []
    try:
        keys = file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the keys in {file}: {error}") from error
    if not keys:
        raise InputError(f"{file} holds no key: write one a line")
    return keys


def open_model(name: str, quantization: str = "auto", compile_model: bool = False) -> Predictor:
    """Load a model where it runs fastest: on the GPU if there is one.

    Args:
        name: See :func:`~mblip.inference.predictor.load_model`.
        quantization: Of the language model: ``none``, ``int8``, ``nf4`` or ``auto``, which is int8 on CPUs where that is
            faster (:mod:`mblip.models.cpu_int8`) and else none.
        compile_model: Whether the vision model and Q-Former, whose shapes never change, are compiled.

    Raises:
        InputError: It cannot be loaded, or the quantisation is unknown.
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
    """Number of GPUs that torch sees; 1 where there is none, for the processor counts as one."""
    import torch

    return max(1, torch.cuda.device_count())


def _at_hand(repository: str) -> bool:
    """Whether the Hub's local cache holds a whole checkpoint."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        return False
    return any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))
