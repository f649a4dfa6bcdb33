"""Pretraining of the nano ViT: which object stands in each cell of a scene.

The labels are dense (one for each cell), which is what teaches a ViT of half a million weights to see in minutes. The
result is saved in the layout of a BLIP-2 checkpoint without its language model, the Q-Former still untrained.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    Blip2Config,
    Blip2QFormerConfig,
    Blip2QFormerModel,
    Blip2VisionConfig,
    Blip2VisionModel,
    BlipImageProcessorPil,
    MT5Config,
)

from mblip.config import VisionRecipe
from mblip.nano.scenes import CELLS, SIZE, Scene, render, sample_scene
from mblip.nano.words import load_lexicon
from mblip.storage import write_json
from mblip.training.loop import Batch, Group, Job, fit

EMPTY = 0  # the class of a cell without an object


class CellClassifier(nn.Module):
    """A ViT with a linear head over the mean of each cell's patches."""

    def __init__(self, config: Blip2VisionConfig, classes: int) -> None:
        super().__init__()
        self.vision_model = Blip2VisionModel(config)
        self.head = nn.Linear(config.hidden_size, classes)
        self.side = config.image_size // config.patch_size

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[pictures, 3, H, W] -> class scores [pictures, cells, classes]."""
        patches = self.vision_model(pixel_values).last_hidden_state[:, 1:]
        pictures, _, width = patches.shape
        half = self.side // 2
        cells = patches.view(pictures, 2, half, 2, half, width).mean(dim=(2, 4)).view(pictures, CELLS, width)
        scores: Tensor = self.head(cells)
        return scores


def image_processor() -> BlipImageProcessorPil:
    """BLIP-2's own preprocessing at the nano picture size."""
    return BlipImageProcessorPil(size={"height": SIZE, "width": SIZE})


def pixels(scenes: list[Scene], processor: BlipImageProcessorPil) -> Tensor:
    """[pictures, 3, H, W] of rendered scenes, normalised as the processor says."""
    raw = np.stack([np.asarray(render(scene), dtype=np.float32) for scene in scenes]) / 255
    mean, std = (np.array(v, dtype=np.float32) for v in (processor.image_mean, processor.image_std))
    return torch.from_numpy((raw - mean) / std).permute(0, 3, 1, 2).contiguous()


def draw(recipe: VisionRecipe, step: int, processor: BlipImageProcessorPil) -> Batch:
    """The pictures of a step and the class of each cell [pictures, cells]."""
    concepts = load_lexicon().concepts
    rng = np.random.default_rng([recipe.seed, step])
    scenes = [sample_scene(rng, int(rng.integers(1, CELLS + 1)), concepts, repeat=0.2) for _ in range(recipe.batch)]
    labels = np.full((recipe.batch, CELLS), EMPTY)
    index = {concept: i + 1 for i, concept in enumerate(concepts)}
    for row, scene in enumerate(scenes):
        for concept, cell in scene.objects:
            labels[row, cell] = index[concept]
    return {"pixel_values": pixels(scenes, processor), "labels": torch.from_numpy(labels)}


def cell_loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Cross-entropy summed over cells; ``object_accuracy`` is over cells that hold something."""
    scores = model(batch["pixel_values"])
    labels = batch["labels"]
    loss = nn.functional.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="sum")
    filled = labels != EMPTY
    accuracy = (scores.argmax(-1)[filled] == labels[filled]).float().mean()
    return {"loss_sum": loss, "tokens": torch.tensor(labels.numel()), "object_accuracy": accuracy}


def train_vision(recipe: VisionRecipe, directory: Path, on_log: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Train and save the ViT and an untrained Q-Former in ``directory/model``; the last log row."""
    torch.manual_seed(recipe.seed)
    vision = Blip2VisionConfig(
        hidden_size=recipe.width, intermediate_size=recipe.feed_forward, num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads, image_size=SIZE, patch_size=recipe.patch,
        # transformers' default of 1e-10 starts the patch and MLP weights at nothing.
        initializer_range=0.02,
    )  # fmt: skip
    qformer = Blip2QFormerConfig(
        vocab_size=64, hidden_size=recipe.width, num_hidden_layers=recipe.qformer_layers,
        num_attention_heads=recipe.heads, intermediate_size=recipe.feed_forward, cross_attention_frequency=1,
        encoder_hidden_size=recipe.width, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        initializer_range=recipe.width**-0.5,  # BERT's 0.02 is made for a width of 768: at 128 attention starts flat
    )  # fmt: skip
    model = CellClassifier(vision, len(load_lexicon().concepts) + 1)
    processor = image_processor()
    row = fit(Job(
        model=model, groups=[Group("model", list(model.named_parameters()), recipe.lr)],
        batches=lambda step: [draw(recipe, step, processor)], loss=cell_loss, steps=recipe.steps, seed=recipe.seed,
        directory=directory, warmup=recipe.warmup_steps, weight_decay=0.01, checkpoint_every=recipe.checkpoint_every,
        log_every=recipe.log_every, on_log=on_log,
    ))  # fmt: skip
    config = Blip2Config(
        vision_config=vision.to_dict(), qformer_config=qformer.to_dict(),
        text_config=MT5Config(vocab_size=64, d_model=recipe.width).to_dict(), num_query_tokens=recipe.queries,
    )  # fmt: skip
    torch.manual_seed(recipe.seed)
    bridge = Blip2QFormerModel(qformer)
    tensors = {f"vision_model.{name}": tensor for name, tensor in model.vision_model.state_dict().items()}
    tensors |= {f"qformer.{name}": tensor for name, tensor in bridge.state_dict().items()}
    # Zeros, the default, would keep all queries the same for ever.
    tensors["query_tokens"] = torch.randn(1, recipe.queries, recipe.width)
    output = directory / "model"
    output.mkdir(parents=True, exist_ok=True)
    save_file({n: t.to(torch.float16).contiguous() for n, t in tensors.items()}, output / "model.safetensors")
    write_json(output / "config.json", config.to_dict())
    processor.save_pretrained(output)
    return row
