"""A new vision-LLM from parts: the eyes of one checkpoint before any language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mblip.models.checkpoint import Checkpoint
from mblip.models.containers import Keep, eyes_of
from mblip.models.finish import finish
from mblip.models.locate import locate
from mblip.models.origin import Base, Origin
from mblip.models.quantize import Quantization
from mblip.models.reading import load_language_model
from mblip.models.tokens import end_as_the_tokenizer, place_image_token
from mblip.models.vision_llm import VisionLLM


def build_model(
    vision: str | Path,
    llm: str | Path,
    qformer: Keep = "keep",
    projection: Keep = "random",
    *,
    seed: int = 0,
    quantization: Quantization | None = None,
    dtype: torch.dtype | str | None = None,
    device_map: Any = None,
) -> VisionLLM:
    """Put a language model behind the vision model and Q-Former of a BLIP-2 checkpoint, whose own LLM is never read.

    Args:
        vision: BLIP-2 checkpoint: Hub id, folder or ``nano:NAME``.
        llm: Causal or encoder-decoder checkpoint of transformers, likewise.
        qformer: Keep the checkpoint's Q-Former and queries, or draw new ones.
        projection: Keep the checkpoint's projection (the widths must agree), or draw a new one.
        seed: Seed of what is drawn.
        quantization: ``int8`` or ``nf4`` for the language model alone.
        dtype: Of vision and language model; None for what the language model was saved in. Q-Former, queries and
            projection are always fp32, since they learn.
        device_map: A device, or what Accelerate's ``dispatch_model`` takes.

    Returns:
        The model in evaluation mode.

    Raises:
        InputError: A checkpoint is missing, incomplete, damaged or of the wrong kind or size.
    """
    vision_folder, llm_folder = locate(vision), locate(llm)
    kind, eyes = eyes_of(vision_folder)
    language_model, tokenizer = load_language_model(llm_folder, dtype)
    end_as_the_tokenizer(language_model, tokenizer)
    image_token = place_image_token(language_model, tokenizer)
    container = kind.build(
        eyes, Checkpoint(vision_folder), language_model, image_token, bridge=qformer, projection=projection, seed=seed
    )
    processor = kind.processor(kind.read_image_processor(vision_folder, eyes), tokenizer, container.config)
    vlm = VisionLLM(container.model, processor)
    vlm.origin = Origin({"vision": Base.of(vision, vision_folder), "llm": Base.of(llm, llm_folder)})
    return finish(vlm, quantization, device_map)
