"""Use a model: captions and answers in Python, from the shell, over HTTP and on a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mblip.inference.predictor import GENERATION, Predictor, load_model

__all__ = ["GENERATION", "Predictor", "load_model"]


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds; wrong input is reported before that (mblip.inference.resolve).
    if name in __all__:
        from mblip.inference import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module 'mblip.inference' has no attribute {name!r}")
