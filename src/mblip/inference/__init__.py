"""Using a model: captions and answers."""

from mblip.inference.predictor import answer, caption

__all__ = ["answer", "caption"]
