"""Plan a training recipe without loading weights: parameters, bytes, the cards it fits on, steps, hours.

The model is built without values (:mod:`mblip.models.hollow`), and one micro-batch runs forward and backward on it: what is
alive at the worst moment is counted, so that checkpointing, adapters and the chunked loss are in the figure.
The micro-batch is the largest that the recipe allows. It has no padding, so packed rows leave it as it is; any batch that they
do pack has fewer tokens.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mblip.config import MixSection, TrainRecipe
from mblip.errors import InputError
from mblip.models.auto_settings import resolve_auto
from mblip.models.hollow import Meter, hollow_out
from mblip.models.language_model import CausalLanguageModel, Seq2SeqLanguageModel
from mblip.models.loss import chunk_rows
from mblip.models.parts import count_parameters, parameters_by_part
from mblip.models.prepare import prepare_shape
from mblip.models.quantize import linear_layers
from mblip.models.vision_llm import VisionLLM
from mblip.storage import read_manifest

CARDS = (8, 12, 16, 24, 40, 80)
"""Memory of common cards, in GiB."""
RESERVE = 1 << 30
"""Bytes that a process takes besides its tensors: CUDA context, cuBLAS workspace, unusable memory of the allocator."""
_BLOCK, _SCALE_BLOCK = 64, 256  # NF4: weights per scale, and scales that are quantised together


@dataclass
class Memory:
    """Peak bytes of one process during a step.

    Attributes:
        weights: Weights of all parts, quantised if the recipe says so.
        gradients: Gradients of the trainable weights, in fp32.
        optimizer: AdamW's two moments, in fp32.
        activations: Activations stored for the backward pass, and temporary tensors at the peak.
        logits: Logits of the loss for a chunk of the supervised tokens.
        reserve: See :data:`RESERVE`.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    reserve: int = RESERVE

    @property
    def total(self) -> int:
        """All of them."""
        return sum(asdict(self).values())


@dataclass
class Plan:
    """The result of ``mblip plan``.

    Attributes:
        title: Title of the recipe.
        parameters: Parameters in each part.
        learning: Trainable parameters in each part.
        adapters: Number of linear layers with LoRA.
        memory: Peak bytes for a micro-batch whose texts are all as long as the recipe allows.
        batch: Numbers of texts, images, prompt tokens (image tokens included) and answer tokens of that micro-batch.
        texts: Instructions in the mix; None if it does not exist yet.
        steps: Optimiser steps; None if they depend on a mix that does not exist yet.
        hours: Training time from a calibration; None without one.
        calibration: Seconds per micro-batch, peak bytes and device.
    """

    title: str
    parameters: dict[str, int]
    learning: dict[str, int]
    adapters: int
    memory: Memory
    batch: dict[str, int]
    texts: int | None
    steps: int | None
    hours: float | None = None
    calibration: dict[str, Any] = field(default_factory=dict)

    @property
    def trainable(self) -> int:
        """Number of trainable parameters in all parts."""
        return sum(self.learning.values())

    def cards(self) -> dict[int, bool]:
        """Whether the training fits a card, by the card's GiB."""
        return {size: self.memory.total <= size << 30 for size in CARDS}

    def as_json(self) -> dict[str, Any]:
        """Plain data, sums included."""
        return {
            **asdict(self),
            "memory": {**asdict(self.memory), "total": self.memory.total},
            "trainable": self.trainable,
            "cards": {str(size): fits for size, fits in self.cards().items()},
        }


def plan_training(recipe: TrainRecipe, texts: int | None = None) -> Plan:
    """Plan what a recipe needs.

    Args:
        recipe: The recipe. Shapes of the paper's bases ship with the package; no weight is read.
        texts: Number of instructions in the mix, if it does not exist yet.

    Raises:
        InputError: A base is missing, or the bases do not fit each other or the recipe.
    """
    recipe = resolve_auto(recipe, on_gpu=True)
    with torch.device("meta"):
        vlm = prepare_shape(recipe)
    learning = count_parameters(vlm, trainable=True)
    weights = _weight_bytes(vlm, recipe)
    batch = batch_shape(vlm, recipe)
    activations = _step_bytes(vlm, recipe, batch)
    trainable = sum(learning.values())
    memory = Memory(weights, 4 * trainable, 8 * trainable, activations, _logit_bytes(vlm, recipe, batch))
    texts = _count_texts(recipe.data) if texts is None else texts
    return Plan(
        recipe.title,
        count_parameters(vlm),
        learning,
        len(vlm.llm.lora_layers),
        memory,
        batch,
        texts,
        _steps(recipe, texts),
    )


def batch_shape(vlm: VisionLLM, recipe: TrainRecipe) -> dict[str, int]:
    """The largest micro-batch that the recipe allows: one image per text, every text of maximum length."""
    data = recipe.data
    texts = min(recipe.optim.micro_batch, recipe.optim.global_batch)
    return {
        "texts": texts,
        "images": texts,
        "prompt_tokens": data.max_prompt_tokens + vlm.container.tokens_per_image,
        "answer_tokens": data.max_answer_tokens,
    }


def synthetic_states(vlm: VisionLLM, batch: dict[str, int], device: torch.device | str) -> Tensor:
    """Hidden states [answer tokens of all texts, width] for a micro-batch of zeros.

    The computation is that of the model's forward on a batch without padding.
    """
    side = vlm.container.image_size
    features = vlm.encode_images(torch.zeros(batch["images"], 3, side, side, device=device))
    texts, answer = batch["texts"], batch["answer_tokens"]
    words = batch["prompt_tokens"] - features.shape[1] + (0 if vlm.is_encoder_decoder else answer)
    embedded = vlm.llm.embeddings(torch.zeros(texts, words, dtype=torch.long, device=device))
    embedded = torch.cat([features.to(embedded.dtype), embedded], dim=1)
    mask = torch.ones(embedded.shape[:2], dtype=torch.long, device=device)
    if isinstance(vlm.llm, Seq2SeqLanguageModel):
        start = torch.zeros(texts, answer, dtype=torch.long, device=device)
        return vlm.llm.hidden_states(start, vlm.llm.encode(embedded, mask), mask).flatten(0, 1)
    assert isinstance(vlm.llm, CausalLanguageModel)
    return vlm.llm.hidden_states(embedded, mask)[:, -answer:].flatten(0, 1)


def _weight_bytes(vlm: VisionLLM, recipe: TrainRecipe) -> int:
    quantized = {
        id(vlm.language_model.get_submodule(name).weight)
        for name in linear_layers(vlm.language_model)
        if recipe.model.quantization != "none"
    }
    total = 0
    for parameters in parameters_by_part(vlm).values():
        for _, parameter in parameters:
            size = parameter.numel()
            if id(parameter) not in quantized:
                total += size * (4 if parameter.requires_grad else parameter.element_size())
            elif recipe.model.quantization == "int8":
                total += size + 4 * parameter.shape[0]  # one scale per row
            else:
                scales = math.ceil(size / _BLOCK)
                total += math.ceil(size / 2) + scales + 4 * math.ceil(scales / _SCALE_BLOCK)
    return total


def _step_bytes(vlm: VisionLLM, recipe: TrainRecipe, batch: dict[str, int]) -> int:
    """Peak bytes of a micro-batch's forward and backward pass, besides weights, gradients and the loss."""
    hollow_out(vlm)
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"), Meter() as step:
        synthetic_states(vlm, batch, "cpu").sum().backward()  # type: ignore[no-untyped-call]
    # A quantised layer is unpacked while it multiplies.
    unpacked = 0
    if recipe.model.quantization != "none":
        layers = (vlm.language_model.get_submodule(name) for name in linear_layers(vlm.language_model))
        unpacked = 2 * max(int(layer.weight.numel()) for layer in layers)
    return int(step.peak) + unpacked


def _logit_bytes(vlm: VisionLLM, recipe: TrainRecipe, batch: dict[str, int]) -> int:
    """Bytes of one chunk: the head's logits, their fp32 copy and their gradient."""
    head = vlm.llm.head.weight
    rows = chunk_rows(head, batch["texts"] * batch["answer_tokens"])
    return int(rows * len(head) * (head.element_size() + 4 + 4))


def _count_texts(section: MixSection) -> int | None:
    if not section.mix or not (Path(section.mix) / "manifest.json").is_file():
        return None
    return read_manifest(section.mix).rows


def _steps(recipe: TrainRecipe, texts: int | None) -> int | None:
    optim = recipe.optim
    if (optim.steps is None) == (optim.epochs is None):
        raise InputError("set one of optim.steps and optim.epochs, and the other to null, such as optim.epochs=null")
    if optim.steps is not None:
        return optim.steps
    return None if texts is None else math.ceil(float(optim.epochs or 0) * (texts // optim.global_batch))
