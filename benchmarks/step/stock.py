"""The original recipe in stock parts: transformers' Blip2ForConditionalGeneration with PEFT's LoRA.

One image encoding a text, batches in random order padded to their longest, logits of every position.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mblip.models import VisionLLM
from mblip.processing.text import IGNORED
from step.batches import Batch
from step.texts import Example


def parts(rows: Sequence[Example], size: int) -> list[list[int]]:
    """Places of the texts of each micro-batch."""
    order = np.random.default_rng(len(rows)).permutation(len(rows)).tolist()
    return [order[start : start + size] for start in range(0, len(order), size)]


def loss(vlm: VisionLLM, batch: Batch, dtype: torch.dtype) -> tuple[Tensor, int]:
    """Summed over the supervised tokens, and how many they are."""
    tokens = int((batch["labels"] != IGNORED).sum())
    inputs = {name: value for name, value in batch.items() if name != "image_index"}
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    return vlm.model(**inputs).loss * tokens, tokens


def unfuse(vlm: VisionLLM) -> None:
    """LoRA layers and activations as PEFT and transformers compute them."""
    for module in vlm.modules():
        module.__dict__.pop("forward", None)
