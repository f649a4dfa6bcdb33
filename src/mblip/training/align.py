"""Warm-up, alignment and fine-tuning of a vision-LLM: one job, described by the recipe (paper, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mblip.config import OptimSection, TrainRecipe
from mblip.errors import InputError
from mblip.models.build import build_model
from mblip.models.load import load_model
from mblip.models.lora import add_lora, merge_lora
from mblip.models.mblip import VisionLLM
from mblip.models.parts import parameters_by_part, set_trainable
from mblip.models.runs import save_run
from mblip.processing.collate import Collator
from mblip.processing.grouping import GroupedBatches, Mix
from mblip.processing.transforms import TrainTransform
from mblip.storage import UnreadableImage, open_images
from mblip.training.loop import Batch, Group, Job, fit


def train_vision_llm(recipe: TrainRecipe, directory: Path, on_log: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Train as the recipe says and write the run to ``directory``; the last log row.

    Raises:
        InputError: Bases, mix or images that cannot be used, too many unreadable images, or a loss that is not finite.
    """
    torch.manual_seed(recipe.seed)
    vlm = prepare_model(recipe)
    mix = Mix(recipe.data)
    batches = GroupedBatches(mix, recipe.seed, recipe.optim.global_batch)
    steps = count_steps(recipe.optim, batches.steps_per_epoch)
    unreadable: dict[str, str] = {}

    def skip(error: UnreadableImage) -> None:
        unreadable[error.key] = error.reason
        if len(unreadable) > recipe.data.max_unreadable * mix.pictures:
            raise InputError(
                f"{len(unreadable)} of {mix.pictures} images cannot be read, the last being {error.key!r} "
                f"({error.reason}): mend the store {recipe.data.images} or raise data.max_unreadable"
            )

    transform = TrainTransform.of(vlm.processor.image_processor, recipe.data.crop_scale, recipe.data.flip)
    collate = Collator(open_images(recipe.data.images), transform, vlm.layout, recipe.data, skip)

    def micro_batches(step: int) -> list[Batch]:
        rows = batches.rows(step)
        rng = np.random.default_rng([recipe.seed, step])
        size = recipe.optim.micro_batch
        return [collate(mix.take(rows[i : i + size]), rng) for i in range(0, len(rows), size)]

    vlm.train()
    vlm.model.vision_model.train(recipe.parts.vision == "full")
    row = fit(Job(
        model=vlm, groups=learning_groups(vlm, recipe.optim), batches=micro_batches, loss=text_loss, steps=steps,
        seed=recipe.seed, directory=directory, warmup=min(recipe.optim.warmup_steps, steps // 2),
        floor=recipe.optim.min_lr_share, weight_decay=recipe.optim.weight_decay, betas=recipe.optim.betas,
        clip=recipe.optim.clip, precision=recipe.precision, checkpoint_every=recipe.checkpoint_every,
        keep_checkpoints=recipe.keep_checkpoints, log_every=recipe.log_every, on_log=on_log,
    )) if steps else {}  # fmt: skip
    vlm.eval()
    save_run(vlm, directory)
    return {**row, "unreadable_images": len(unreadable)}


def prepare_model(recipe: TrainRecipe) -> VisionLLM:
    """The recipe's model with its LoRA, each part frozen or learning.

    Raises:
        InputError: The recipe names neither a run nor both bases, or they cannot be loaded.
    """
    section = recipe.model
    options: dict[str, Any] = {
        "dtype": torch.bfloat16 if recipe.precision == "bf16" else torch.float32,
        "quantization": None if section.quantization == "none" else section.quantization,
    }
    if section.run:
        vlm = load_model(section.run, **options)
        if section.merge:
            merge_lora(vlm)
    elif section.vision and section.llm:
        parts = (section.vision, section.llm, section.qformer, section.projection)
        vlm = build_model(*parts, seed=recipe.seed, **options)
    else:
        raise InputError("the recipe names no model: set model.run, or both model.vision and model.llm")
    if recipe.parts.llm == "lora" and not parameters_by_part(vlm)["lora"]:
        add_lora(vlm, recipe.lora.rank, recipe.lora.alpha, recipe.lora.dropout)
    set_trainable(vlm, recipe.parts)
    return vlm


def learning_groups(vlm: VisionLLM, optim: OptimSection) -> list[Group]:
    """The trainable parameters with the rate of their part."""
    rates = {"lora": optim.lora_lr, "projection": optim.projection_lr or optim.lr}
    found = parameters_by_part(vlm, trainable=True)
    return [Group(part, parameters, rates.get(part, optim.lr)) for part, parameters in found.items() if parameters]


def count_steps(optim: OptimSection, per_epoch: int) -> int:
    """Optimiser steps of a recipe.

    Raises:
        InputError: Neither or both of steps and epochs are given.
    """
    if (optim.steps is None) == (optim.epochs is None):
        raise InputError("set one of optim.steps and optim.epochs")
    return optim.steps if optim.steps is not None else math.ceil(float(optim.epochs or 0) * per_epoch)


def text_loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The vision-LLM's named losses."""
    losses: dict[str, Tensor] = model(batch)
    return losses
