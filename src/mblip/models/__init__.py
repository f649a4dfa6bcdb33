"""ViT + Q-Former + projection + language model: build from parts, load anything, train parts, export."""

from mblip.models.mblip import VisionLLM

__all__ = ["VisionLLM"]
