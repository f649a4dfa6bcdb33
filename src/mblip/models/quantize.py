"""LLM.int8 and NF4 for the language model alone: vision model, Q-Former, projection and output head stay as they are."""

from __future__ import annotations

import logging
from typing import Any, Literal

import torch
from torch import nn

from mblip.errors import InputError

Quantization = Literal["none", "int8", "nf4"]
# bitsandbytes' layers, by name: it is an optional dependency.
_LAYERS: dict[str, Quantization] = {"Linear8bitLt": "int8", "Linear4bit": "nf4"}


def linear_layers(language_model: Any) -> list[str]:
    """Names of the linear layers inside a language model, the output head left out."""
    head = language_model.get_output_embeddings()
    return [
        name
        for name, module in language_model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and ".lora_" not in name
    ]


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
            # Stored as if they were of the type that is computed in: T5 casts to the type of its weights, and a byte
            # would leave nothing of the activations.
            kind_of = {"quant_type": "nf4", "quant_storage": compute_dtype}
            new = bnb.nn.Linear4bit(*shape, compute_dtype=compute_dtype, **kind_of, device="meta")
            new.weight = bnb.nn.Params4bit(
                old.weight.detach(), requires_grad=False, compress_statistics=True, module=new, **kind_of
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


def unmark(language_model: Any) -> None:
    """Take away what :func:`quantize` has left for PEFT, where no quantised layer is left."""
    if quantization_of(language_model) == "none":
        language_model.is_loaded_in_8bit = language_model.is_loaded_in_4bit = False


def quantization_of(language_model: Any) -> Quantization:
    """How the language model's linear layers are stored."""
    found = (_LAYERS.get(type(module).__name__) for module in language_model.modules())
    return next((kind for kind in found if kind), "none")


def is_quantized(layer: nn.Module) -> bool:
    """Whether a layer is one of bitsandbytes'."""
    return type(layer).__name__ in _LAYERS


def dequantize(layer: Any) -> torch.Tensor:
    """The weight of a linear layer in floating point [out, in]: of a quantised one what is stored, not what was lost."""
    kind = _LAYERS.get(type(layer).__name__)
    if kind == "nf4":
        import bitsandbytes as bnb

        unpacked: torch.Tensor = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        return unpacked
    if kind == "int8":
        # Before the first forward the scales are the weight's, then the state's.
        scales = layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
        scaled: torch.Tensor = layer.weight.data.float() * scales.float().unsqueeze(1) / 127
        return scaled
    weight: torch.Tensor = layer.weight.detach()
    return weight
