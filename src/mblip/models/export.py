"""From any model to the stock format, which loads anywhere without this package."""

from __future__ import annotations

from pathlib import Path

from mblip.errors import InputError
from mblip.models.lora import merge_lora
from mblip.models.mblip import VisionLLM
from mblip.models.quantize import quantization_of
from mblip.storage import atomic_folder


def export(vlm: VisionLLM, folder: Path) -> None:
    """Write a stock ``Blip2ForConditionalGeneration`` with its processor and generation settings, LoRA merged.

    The folder appears whole or not at all.

    Raises:
        InputError: The folder exists, or the language model is quantised.
    """
    if folder.exists():
        raise InputError(f"{folder} exists already: name a new folder")
    if quantization_of(vlm.language_model) != "none":
        raise InputError("a quantised model cannot be exported: load the run without quantization first")
    merge_lora(vlm)
    with atomic_folder(folder) as partial:
        vlm.model.save_pretrained(partial)
        vlm.processor.save_pretrained(partial)
        vlm.language_model.generation_config.save_pretrained(partial)
