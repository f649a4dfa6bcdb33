"""One function that loads every kind of vision-LLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mblip.devices import check_placement
from mblip.models.checkpoint import told_of
from mblip.models.finish import finish
from mblip.models.locate import know_languages, locate, no_model
from mblip.models.quantize import Quantization, check_kind
from mblip.models.runs import DESCRIPTION, load_run
from mblip.models.stock import load_stock
from mblip.models.vision_llm import VisionLLM


def load_vision_llm(
    name: str | Path,
    *,
    quantization: Quantization | None = None,
    dtype: torch.dtype | str | None = None,
    device_map: Any = None,
    merge: bool = False,
) -> VisionLLM:
    """Load a vision-LLM: a run directory, a stock checkpoint, or a checkpoint in the layout that mBLIP published in 2023.

    Args:
        name: Hub id, folder or ``nano:NAME``.
        quantization: ``int8`` or ``nf4``, for the language model only.
        dtype: Type of the vision and language model; Q-Former, queries and projection are then fp32, because they may
            learn. None keeps the type that each part was saved in, as the stock class does. The trained parts of a run
            are always fp32.
        device_map: A device, or a map as Accelerate's ``dispatch_model`` takes it.
        merge: Merge a run's last adapter too, instead of leaving it attached.

    Returns:
        The model in evaluation mode.

    Raises:
        InputError: The checkpoint is missing, no vision-LLM, incomplete, damaged, or needs code that comes with it; or
            the device or the quantization is unknown.
    """
    check_placement(device_map)
    check_kind(quantization)
    folder = locate(name)
    know_languages(folder)
    if (folder / DESCRIPTION).is_file():
        return load_run(folder, quantization, dtype, device_map, merge)
    if not (folder / "config.json").is_file():
        raise no_model(folder)
    with told_of(folder):
        return finish(load_stock(folder, name, dtype, learns=dtype is not None), quantization, device_map)
