"""Build a new vision-LLM from the vision encoder of one checkpoint and any language model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from mblip.devices import check_placement
from mblip.models.checkpoint import Checkpoint
from mblip.models.containers import Keep, eyes_of
from mblip.models.finish import finish
from mblip.models.locate import locate, locate_language_model
from mblip.models.origin import Base, Origin
from mblip.models.quantize import Quantization, check_kind
from mblip.models.reading import load_language_model, read_config
from mblip.models.tokens import (
    IMAGE_TOKEN,
    check_end_tokens,
    end_as_the_tokenizer,
    end_tokens,
    place_image_token,
    stop_as_generation_does,
)
from mblip.models.vision_llm import VisionLLM
from mblip.processing.framing import template_with_images


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
    bridge: Literal["qformer", "mlp"] | None = None,
    vision_feature_layer: int | Sequence[int] | None = None,
    vision_feature_select_strategy: Literal["default", "full"] | None = None,
) -> VisionLLM:
    """Combine a checkpoint's vision encoder with a language model; the checkpoint's own language model is never read.

    Args:
        vision: Hub id, folder or ``nano:NAME`` of a BLIP-2, of a vision encoder (SigLIP, SigLIP2, CLIP, DINOv2 or another
            encoder with patch states that transformers' LLaVA can hold), or of a checkpoint of the LLaVA family.
        llm: Causal checkpoint of transformers, likewise, or a GGUF file; behind a Q-Former also an encoder-decoder.
        qformer: Keep the checkpoint's Q-Former and queries, or draw new ones.
        projection: Keep the checkpoint's projection or MLP (the widths must match), or draw a new one.
        seed: Seed of the weights that are drawn.
        quantization: ``int8`` or ``nf4``, for the language model only.
        dtype: Type of the vision and language model; None keeps the type that the language model was saved in. The
            bridge is always fp32, because it is trained.
        device_map: A device, or a map as Accelerate's ``dispatch_model`` takes it.
        bridge: ``qformer`` (of a BLIP-2) or ``mlp`` (two layers, in transformers' LLaVA); None chooses the one that
            suits the vision encoder.
        vision_feature_layer: With an MLP, the layer or layers of the tower whose states are read. None takes the
            checkpoint's setting; for a bare tower, the second-to-last layer if it has a class token, else the last.
        vision_feature_select_strategy: With an MLP, ``default`` drops the tower's first state and ``full`` keeps all.
            None takes the checkpoint's setting; for a bare tower, ``default`` if it has a class token.

    Returns:
        The model in evaluation mode.

    Raises:
        InputError: A checkpoint is missing, incomplete, damaged or of the wrong kind or size; or the device or the
            quantization is unknown.
    """
    check_placement(device_map)
    check_kind(quantization)
    vision_folder, llm_folder = locate(vision), locate_language_model(llm)
    layer = vision_feature_layer
    layer = layer if layer is None or isinstance(layer, int) else list(layer)
    kind, eyes = eyes_of(vision_folder, bridge, layer, vision_feature_select_strategy)
    kind.check_language_model(read_config(llm_folder))  # before gigabytes are read
    image_processor = kind.read_image_processor(vision_folder, eyes)
    language_model, tokenizer = load_language_model(llm_folder, dtype)
    end_as_the_tokenizer(language_model, tokenizer)
    if kind.images_in_text:
        stop_as_generation_does(language_model)
        if tokenizer.chat_template:
            tokenizer.chat_template = template_with_images(tokenizer.chat_template, IMAGE_TOKEN)
    check_end_tokens(end_tokens(language_model), language_model.get_input_embeddings().num_embeddings, llm_folder)
    image_token = place_image_token(language_model, tokenizer)
    container = kind.build(
        eyes, Checkpoint(vision_folder), language_model, image_token, bridge=qformer, projection=projection, seed=seed
    )
    processor = kind.processor(image_processor, tokenizer, container.config)
    vlm = VisionLLM(container.model, processor)
    vlm.origin = Origin({"vision": Base.of(vision, vision_folder), "llm": Base.of(llm, llm_folder)})
    return finish(vlm, quantization, device_map)
