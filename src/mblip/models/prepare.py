"""Prepare a recipe's model for training, the same way for ``mblip train``, ``plan`` and calibration."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from mblip.config import TrainRecipe
from mblip.errors import InputError
from mblip.models.build import build_model
from mblip.models.continued import check_continued
from mblip.models.load import load_vision_llm
from mblip.models.lora import add_lora
from mblip.models.parts import recompute_layers, set_trainable
from mblip.models.skeleton import container_config, skeleton
from mblip.models.speedups import speed_up
from mblip.models.vision_llm import VisionLLM


def prepare_model(recipe: TrainRecipe, device: torch.device | None = None) -> VisionLLM:
    """The recipe's model with its weights, adapters and speed-ups, in training mode.

    Args:
        recipe: The recipe to train.
        device: The device to load to; None for the CPU.

    Raises:
        InputError: The recipe names neither a run nor both bases, or they cannot be loaded.
    """
    section = recipe.model
    options: dict[str, Any] = {
        "dtype": compute_dtype(recipe),
        "quantization": None if section.quantization == "none" else section.quantization,
        # Sharding moves the weights by itself after they are read to the CPU.
        "device_map": device if device is not None and device.type != "cpu" and recipe.sharding == "none" else None,
    }
    if section.run:
        vlm = load_vision_llm(section.run, merge=section.merge, **options)
    elif section.vision and section.llm:
        options |= {"qformer": section.qformer, "projection": section.projection, **section.eye_settings}
        vlm = build_model(section.vision, section.llm, seed=recipe.seed, **options)
    else:
        raise InputError("the recipe names no model: set model.run, or both model.vision and model.llm")
    _check_layout(vlm, recipe)
    for field in ("answer_separator", "start_token"):
        if (said := getattr(section, field)) is not None:
            setattr(vlm.model.config, field, said)
    if section.chat is not None:
        vlm.layout_for(section.chat)  # raises if there is no chat template
        vlm.model.config.chat_prompts = section.chat
    elif vlm.container.images_in_text:
        vlm.model.config.chat_prompts = vlm.chats  # stored, so that a run does not change when its bases do
    make_trainable(vlm, recipe)
    speed_up(vlm, recipe.speedups)
    return vlm


def prepare_shape(recipe: TrainRecipe) -> VisionLLM:
    """The same model without values, on the device of the context, to count or to fill with random values.

    Raises:
        InputError: The bases are not there, or do not fit each other or the recipe.
    """
    check_continued(recipe.model)
    vlm = skeleton(container_config(recipe.model), compute_dtype(recipe))
    _check_layout(vlm, recipe)
    make_trainable(vlm, recipe)
    # Packed rows must be tried on the model's values. Their absence changes nothing: the largest batch has no padding.
    speed_up(vlm, without_values(recipe.speedups))
    return vlm


def _check_layout(vlm: VisionLLM, recipe: TrainRecipe) -> None:
    for field in ("answer_separator", "start_token"):
        if getattr(recipe.model, field) is not None and vlm.is_encoder_decoder:
            raise InputError(
                f"model.{field} is for decoder-only models; this one has an encoder: leave it out, or, if the "
                f"recipe sets it, add model.{field}=null"
            )
    if recipe.model.start_token is not None and vlm.container.images_in_text:
        raise InputError("model.start_token is for models with a Q-Former; this one has an MLP: leave it out")


def make_trainable(vlm: VisionLLM, recipe: TrainRecipe) -> None:
    """Add LoRA, freeze and unfreeze by part, keep trainable weights in fp32, recompute layers as the recipe says."""
    if recipe.parts.llm == "lora" and not vlm.llm.lora_layers:
        add_lora(vlm, recipe.lora.rank, recipe.lora.alpha, recipe.lora.dropout)
    set_trainable(vlm, recipe.parts)
    for parameter in vlm.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()  # steps of 1e-5 are lost in bf16
    recompute_layers(vlm, recipe.checkpointing)
    vlm.train()
    vlm.container.vision.train(recipe.parts.vision == "full")


def without_values(speedups: Collection[str]) -> list[str]:
    """The speed-ups that need no trial on a model's values."""
    return [name for name in speedups if name not in ("packed_rows", "shared_prefix")]


def compute_dtype(recipe: TrainRecipe) -> torch.dtype:
    """Type of the vision and language model."""
    return torch.bfloat16 if recipe.precision == "bf16" else torch.float32
