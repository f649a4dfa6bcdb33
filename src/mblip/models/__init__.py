"""Eyes, bridge and language model: build from parts, load anything, train parts, export."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mblip.models.build import build_model
    from mblip.models.load import load_vision_llm
    from mblip.models.lora import add_lora, merge_lora
    from mblip.models.parts import count_parameters, parameters_by_part, set_trainable
    from mblip.models.runs import save_run
    from mblip.models.vision_llm import VisionLLM

__all__ = [
    "VisionLLM",
    "add_lora",
    "build_model",
    "count_parameters",
    "load_vision_llm",
    "merge_lora",
    "parameters_by_part",
    "save_run",
    "set_trainable",
]
_PLACES = {
    "VisionLLM": "vision_llm",
    "add_lora": "lora",
    "build_model": "build",
    "count_parameters": "parts",
    "load_vision_llm": "load",
    "merge_lora": "lora",
    "parameters_by_part": "parts",
    "save_run": "runs",
    "set_trainable": "parts",
}


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds; a missing path is reported before that (mblip.models.locate).
    if name in _PLACES:
        return getattr(importlib.import_module(f"mblip.models.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'mblip.models' has no attribute {name!r}")
