"""Using a model: captions and answers in Python, from the shell, over HTTP and on a page."""

from mblip.inference.predictor import GENERATION, Predictor, load_model

__all__ = ["GENERATION", "Predictor", "load_model"]
