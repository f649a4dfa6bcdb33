"""Micro-batches of both sides, as tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mblip.models import VisionLLM
from mblip.processing.text import IGNORED, pad_rows
from step.texts import Example

Batch = dict[str, Tensor]


def tensors(vlm: VisionLLM, rows: Sequence[Example], pictures_once: bool, device: torch.device) -> Batch:
    """A micro-batch; a picture's pixels follow from its number, and stand there once or once a text."""
    wanted = list(dict.fromkeys(row.picture for row in rows)) if pictures_once else [row.picture for row in rows]
    index = [wanted.index(row.picture) for row in rows] if pictures_once else list(range(len(rows)))
    size = vlm.model.config.vision_config.image_size
    pixels = [torch.randn(3, size, size, generator=torch.Generator().manual_seed(picture)) for picture in wanted]
    image = [vlm.model.config.image_token_index] * vlm.container.tokens_per_image
    if vlm.is_encoder_decoder:
        texts, labels = [image + row.prompt for row in rows], [row.answer for row in rows]
    else:
        texts = [image + row.prompt[:-1] + row.answer for row in rows]
        pairs = zip(texts, rows, strict=True)
        labels = [[IGNORED] * (len(text) - len(row.answer)) + row.answer for text, row in pairs]
    batch = {
        "pixel_values": torch.stack(pixels),
        "image_index": torch.tensor(index).unsqueeze(1),
        "input_ids": pad_rows(texts, 0),
        "attention_mask": pad_rows([[1] * len(text) for text in texts], 0),
        "labels": pad_rows(labels, IGNORED),
    }
    return {name: value.to(device) for name, value in batch.items()}
