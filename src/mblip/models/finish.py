"""The last steps of building and loading a model, the same for both."""

from __future__ import annotations

from typing import Any

import torch

from mblip.errors import InputError
from mblip.models.language_model import computes_by_tie
from mblip.models.quantize import Quantization, quantize
from mblip.models.speedups import speed_up
from mblip.models.tokens import align_special_tokens
from mblip.models.vision_llm import VisionLLM


def finish(vlm: VisionLLM, quantization: Quantization | None, device_map: Any) -> VisionLLM:
    """Set special tokens, quantise, place, turn on inference speed-ups, and check that no weight is missing.

    Raises:
        InputError: A parameter has no value, or the language model computes its logits in a way that the loss does not
            know.
    """
    model, language_model = vlm.model, vlm.language_model
    empty = [name for name, value in [*model.named_parameters(), *model.named_buffers()] if value.is_meta]
    if empty:
        raise InputError(f"{len(empty)} weights are missing after loading, the first is {empty[0]}")
    align_special_tokens(language_model, vlm.tokenizer)
    # The configuration must say how the head is, so that no later resizing or saving ties a separate head.
    tied = vlm.llm.head.weight is vlm.llm.embeddings.weight
    model.config.tie_word_embeddings = tied
    if language_model.config.tie_word_embeddings != tied and not computes_by_tie(language_model):
        language_model.config.tie_word_embeddings = tied
    _ = vlm.llm.logit_scale  # computed now, so that an unsupported model is refused before it is used
    dtype = next(language_model.parameters()).dtype
    if isinstance(device_map, str | int | torch.device) and device_map != "auto":
        # Layer by layer, so that the unquantised language model never has to fit the device.
        quantize(language_model, quantization or "none", dtype, device_map)
        model.to(device_map)
    else:
        quantize(language_model, quantization or "none", dtype)
        if device_map is not None:
            from accelerate import dispatch_model, infer_auto_device_map

            places = infer_auto_device_map(model) if device_map == "auto" else device_map
            try:
                dispatch_model(model, places)
            except ValueError as error:  # parameters without a device
                raise InputError(f"device_map names no device for some parameters: {str(error)[:300]}") from error
    speed_up(vlm)
    return vlm.eval()
