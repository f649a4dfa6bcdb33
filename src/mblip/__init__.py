"""mblip: one vision-language model, 96 languages, one consumer GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mblip.inference import Predictor, load_model
    from mblip.models import VisionLLM, build_model

__all__ = ["Predictor", "VisionLLM", "__version__", "build_model", "load_model"]


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import; `mblip --help` must not wait for them.
    if name in ("Predictor", "load_model"):
        from mblip import inference

        return getattr(inference, name)
    if name in ("VisionLLM", "build_model"):
        from mblip import models

        return getattr(models, name)
    raise AttributeError(f"module 'mblip' has no attribute {name!r}")
