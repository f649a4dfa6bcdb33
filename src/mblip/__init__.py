"""Turn an English vision-language model into one that answers in 96 languages, on one consumer GPU."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mblip.errors import InputError, MblipError, RemoteError, ResourceError, TrainingError

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mblip.inference import Predictor, load_model
    from mblip.models import VisionLLM, build_model

__all__ = [
    "InputError", "MblipError", "Predictor", "RemoteError", "ResourceError", "TrainingError", "VisionLLM", "__version__",
    "build_model", "load_model",
]  # fmt: skip

_HOMES = {
    "Predictor": "mblip.inference", "load_model": "mblip.inference", "VisionLLM": "mblip.models", "build_model": "mblip.models",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import; `mblip --help` must not wait for them.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mblip' has no attribute {name!r}")
