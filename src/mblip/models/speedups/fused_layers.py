"""LoRA layers and mT5's activation in fewer passes over memory, for training; results are equal up to rounding."""

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
    """Whether a model could gain: it has LoRA layers, or mT5's activation of several operations."""
    return bool(_layers(llm) or _activations(llm))


def reason_against(llm: LanguageModel) -> str:
    """Always empty: every model can use it."""
    return ""


def install(llm: LanguageModel) -> None:
    """Replace the forward pass of LoRA layers and of mT5's activation by one with fewer passes over memory.

    PEFT casts a layer's input to the LoRA's fp32 and keeps that copy for the backward pass, then scales, adds and casts
    in separate passes. mT5's activation takes eight passes and keeps the result of each.
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
    """The base layer plus its LoRA: [..., in] -> [..., out], in the type of the base layer."""
    if layer.merged or layer.disable_adapters:
        switched: Tensor = type(layer).forward(layer, x)
        return switched
    result: Tensor = layer.base_layer(x)
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    seen = layer.lora_dropout["default"](x)
    if not torch.is_autocast_enabled(x.device.type):
        seen = seen.to(down.dtype)
    small = F.linear(seen, down)
    # Contiguous, so that its products in the backward pass are fast ones with few rows.
    up, scale = up.t().contiguous(), layer.scaling["default"]
    if small.dtype != result.dtype:  # sum in the wider type, as PEFT does
        wide: Tensor = result + (small @ up) * scale
        return wide.to(result.dtype)
    added: Tensor = torch.addmm(result.flatten(0, -2), small.flatten(0, -2), up, alpha=scale).view_as(result)
    return added
