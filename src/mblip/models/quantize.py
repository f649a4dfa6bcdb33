"""LLM.int8 and NF4 for the language model alone: vision model, Q-Former, projection and output head stay as they are."""

from __future__ import annotations

import logging
from typing import Any, Literal

import torch
from torch import nn

from mblip.errors import InputError
from mblip.models.lora import linear_layers

Quantization = Literal["none", "int8", "nf4"]


def quantize(
    language_model: Any, kind: Quantization, compute_dtype: torch.dtype, device: torch.device | str | int | None = None
) -> None:
    """Replace every linear layer but the output head, in place.

    Args:
        language_model: With its final weights: adapters are merged before.
        kind: int8 (vector-wise, outlier columns in half precision) or nf4 (4 bits, double quantisation).
        compute_dtype: What NF4 layers multiply in.
        device: Where the layers go, one after the other, so that the whole never has to fit there; None: they stay.

    Raises:
        InputError: bitsandbytes is not installed, or the kind is unknown.
    """
    if kind == "none":
        return
    if kind not in ("int8", "nf4"):
        raise InputError(f"quantization {kind!r} is unknown; it is none, int8 or nf4")
    try:
        import bitsandbytes as bnb
    except ImportError as error:
        raise InputError(f"quantization {kind} needs bitsandbytes: pip install 'mblip[train]'") from error
    # It announces, for every product, that inputs are cast; there is nothing that the reader could do.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    for name in linear_layers(language_model):
        old = language_model.get_submodule(name)
        shape = (old.in_features, old.out_features, old.bias is not None)
        if kind == "int8":
            new = bnb.nn.Linear8bitLt(*shape, has_fp16_weights=False, threshold=6.0, device="meta")
            new.weight = bnb.nn.Int8Params(old.weight.detach(), requires_grad=False, has_fp16_weights=False)
        else:
            new = bnb.nn.Linear4bit(*shape, compute_dtype=compute_dtype, quant_type="nf4", device="meta")
            new.weight = bnb.nn.Params4bit(
                old.weight.detach(), requires_grad=False, quant_type="nf4", compress_statistics=True, module=new
            )
            # On some CPUs bitsandbytes packs the weights anew for inference, in place; a later training step would then
            # go without gradients and without a word, and odd widths fail.
            new.support_avx512bf16_for_cpu = False
        new.bias = old.bias
        new.requires_grad_(False)
        parent, _, child = name.rpartition(".")
        setattr(language_model.get_submodule(parent), child, new.to(old.weight.device if device is None else device))
    # PEFT chooses its layers for quantised weights by these marks, as transformers sets them.
    language_model.is_loaded_in_8bit = kind == "int8"
    language_model.is_loaded_in_4bit = kind == "nf4"
    language_model.is_quantized = True


def quantization_of(language_model: Any) -> Quantization:
    """How the language model's weights are stored."""
    if getattr(language_model, "is_loaded_in_8bit", False):
        return "int8"
    return "nf4" if getattr(language_model, "is_loaded_in_4bit", False) else "none"


def dequantize(module: nn.Module) -> torch.Tensor:
    """The weight of a quantised layer in floating point [out, in]: exact for what is stored, not for what was lost."""
    import bitsandbytes as bnb

    if isinstance(module, bnb.nn.Linear4bit):
        weight: torch.Tensor = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
        return weight
    layer: Any = module
    state = layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
    scaled: torch.Tensor = layer.weight.data.float() * state.float().unsqueeze(1) / 127
    return scaled
