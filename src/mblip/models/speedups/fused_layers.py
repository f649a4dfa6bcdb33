"""LoRA layers and mT5's activation in fewer passes over memory, for training: equal but for rounding."""

from __future__ import annotations

from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.activations import NewGELUActivation

from mblip.models.language_model import LanguageModel


def concerns(llm: LanguageModel) -> bool:
    """Whether a model could gain: one with LoRA layers, or with an activation that is written out."""
    return bool(_layers(llm) or _activations(llm))


def reason_against(llm: LanguageModel) -> str:
    """Nothing keeps a model from it."""
    return ""


def install(llm: LanguageModel) -> None:
    """Give the LoRA layers and mT5's activation a shorter way to compute what they compute.

    PEFT casts the input of a layer to the LoRA's fp32 and keeps that copy for the backward pass, then scales, adds and
    casts in passes of their own. The activation, written out, is eight passes, and keeps what each of them made.
    """
    for layer in _layers(llm):
        layer.forward = MethodType(_adapted, layer)
    for module in _activations(llm):
        module.forward = partial(F.gelu, approximate="tanh")


def _layers(llm: LanguageModel) -> list[Any]:
    return [layer for _, layer in llm.lora_layers]


def _activations(llm: LanguageModel) -> list[Any]:
    return [module for module in llm.model.modules() if isinstance(module, NewGELUActivation)]


def _adapted(layer: Any, x: Tensor) -> Tensor:
    """The layer beneath plus its LoRA: [..., in] -> [..., out], in the type of the layer beneath."""
    if layer.merged or layer.disable_adapters:
        switched: Tensor = type(layer).forward(layer, x)
        return switched
    result: Tensor = layer.base_layer(x)
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    seen = layer.lora_dropout["default"](x)
    if not torch.is_autocast_enabled(x.device.type):
        seen = seen.to(down.dtype)
    small = F.linear(seen, down)
    # Contiguous, its products on the way back are quick ones of few rows.
    up, scale = up.t().contiguous(), layer.scaling["default"]
    if small.dtype != result.dtype:  # the sum in the wider type, as PEFT has it
        wide: Tensor = result + (small @ up) * scale
        return wide.to(result.dtype)
    added: Tensor = torch.addmm(result.flatten(0, -2), small.flatten(0, -2), up, alpha=scale).view_as(result)
    return added
