"""LLM.int8 and NF4 for the language model only; vision model, Q-Former, projection and output head are unchanged."""

from __future__ import annotations

import logging
from typing import Any, Literal

import torch
from torch import nn

from mblip.errors import InputError

Quantization = Literal["none", "int8", "nf4"]
# bitsandbytes' layers by name, because it is an optional dependency.
_LAYERS: dict[str, Quantization] = {"Linear8bitLt": "int8", "Linear4bit": "nf4"}


def linear_layers(language_model: Any) -> list[str]:
    """Names of the linear layers inside a language model, except the output head."""
    head = language_model.get_output_embeddings()
    return [
        name
        for name, module in language_model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and ".lora_" not in name
    ]


def quantize(
    language_model: Any, kind: Quantization, compute_dtype: torch.dtype, device: torch.device | str | int | None = None
) -> None:
    """Replace every linear layer except the output head, in place.

    Args:
        language_model: The language model with its final weights; adapters must be merged before.
        kind: int8 (vector-wise, outlier columns in half precision) or nf4 (4 bits, double quantisation).
        compute_dtype: The type in which NF4 layers multiply.
        device: The device that layers are moved to one by one, so that the unquantised model need not fit there; None
            leaves them.

    Raises:
        InputError: bitsandbytes is not installed, or the kind is unknown.
    """
    if check_kind(kind) is None:
        return
    try:
        import bitsandbytes as bnb
    except ImportError as error:
        raise InputError(f"quantization {kind} needs bitsandbytes: pip install 'mblip[train]'") from error
    # It warns about a cast of inputs in every product, which the user cannot change.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    for name in linear_layers(language_model):
        old = language_model.get_submodule(name)
        shape = (old.in_features, old.out_features, old.bias is not None)
        if kind == "int8":
            new = bnb.nn.Linear8bitLt(*shape, has_fp16_weights=False, threshold=6.0, device="meta")
            new.weight = bnb.nn.Int8Params(old.weight.detach(), requires_grad=False, has_fp16_weights=False)
        else:
            # The storage has the compute type, because T5 casts activations to the type of its weights.
            kind_of = {"quant_type": "nf4", "quant_storage": compute_dtype}
            new = bnb.nn.Linear4bit(*shape, compute_dtype=compute_dtype, **kind_of, device="meta")
            new.weight = bnb.nn.Params4bit(
                old.weight.detach(), requires_grad=False, compress_statistics=True, module=new, **kind_of
            )
            # On some CPUs bitsandbytes repacks the weights for inference in place. A later training step would then
            # silently have no gradients, and odd widths fail.
            new.support_avx512bf16_for_cpu = False
        new.bias = old.bias
        new.requires_grad_(False)
        parent, _, child = name.rpartition(".")
        setattr(language_model.get_submodule(parent), child, new.to(old.weight.device if device is None else device))
    # PEFT chooses its layers for quantised weights by these attributes, which transformers sets too.
    language_model.is_loaded_in_8bit = kind == "int8"
    language_model.is_loaded_in_4bit = kind == "nf4"


def check_kind(kind: str | None) -> Quantization | None:
    """Check the name of a quantisation; None stands for none.

    Raises:
        InputError: The name is unknown.
    """
    if kind in (None, "none"):
        return None
    for known in _LAYERS.values():
        if kind == known:
            return known
    raise InputError(f"quantization {kind!r} is unknown; use none, {', '.join(_LAYERS.values())}")


def unquantize(language_model: Any, dtype: torch.dtype) -> None:
    """Replace quantised layers by ordinary ones with dequantised weights."""
    for name, old in list(language_model.named_modules()):
        if is_quantized(old):
            parent, _, child = name.rpartition(".")
            setattr(language_model.get_submodule(parent), child, plain_layer(old, dequantize(old).to(dtype)))
    unmark(language_model)


def plain_layer(old: Any, weight: torch.Tensor) -> nn.Linear:
    """An ordinary frozen layer with this weight and the bias of another."""
    new = nn.Linear(old.in_features, old.out_features, old.bias is not None, device="meta")
    new.weight = nn.Parameter(weight, requires_grad=False)
    if old.bias is not None:
        new.bias = nn.Parameter(old.bias.detach().to(weight.dtype), requires_grad=False)
    return new


def unmark(language_model: Any) -> None:
    """Remove the attributes that :func:`quantize` has set for PEFT, if no quantised layer is left."""
    if quantization_of(language_model) == "none":
        language_model.is_loaded_in_8bit = language_model.is_loaded_in_4bit = False


def quantization_of(language_model: Any) -> Quantization:
    """The quantisation of the language model's linear layers."""
    return next((_kind(module) for module in language_model.modules() if is_quantized(module)), "none")


def is_quantized(layer: nn.Module) -> bool:
    """Whether a layer is one of bitsandbytes' quantised layers."""
    return _kind(layer) != "none"


def dequantize(layer: Any) -> torch.Tensor:
    """The weight of a linear layer in floating point [out, in]; a quantised one is dequantised."""
    kind = _kind(layer)
    if kind == "nf4":
        import bitsandbytes as bnb

        unpacked: torch.Tensor = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        return unpacked
    if kind == "int8":
        # The scales move from the weight to the state in the first forward pass.
        scales = layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
        scaled: torch.Tensor = layer.weight.data.float() * scales.float().unsqueeze(1) / 127
        return scaled
    weight: torch.Tensor = layer.weight.detach()
    return weight


def _kind(layer: nn.Module) -> Quantization:
    kind = type(layer)
    # PEFT's wrappers have the same class names.
    return _LAYERS.get(kind.__name__, "none") if kind.__module__.startswith("bitsandbytes.") else "none"
