"""Pretraining of the nano ViT and Q-Former: classify the object in each cell of a scene.

The labels are dense (one per cell), so a ViT of half a million weights learns to see in minutes. The Q-Former learns
together with it to report each cell by its own query; queries in between correspond to the commas of a list. This
replaces BLIP-2's first stage, which teaches the queries to select relevant content before a language model is added.
Unlike there, the ViT learns too: trained alone, it forgets the positions of patches, and the queries then take
thousands of steps to find their cells. The output of a query is compared with fixed orthogonal codes, so that a linear
projection can later map every object to any word.

The result is saved in the layout of a BLIP-2 checkpoint without its language model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mblip.errors import InputError
from mblip.models.containers.blip2_eyes import QueryingEyes, new_image_processor
from mblip.nano.recipe_kinds import VisionRecipe
from mblip.nano.scenes import CELLS, SIZE, Scene, render, sample_scene
from mblip.nano.words import load_lexicon
from mblip.training.logs import OnLog
from mblip.training.loop import Batch, LoopConfig, ParameterGroup, fit

EMPTY = 0  # the class of a cell without an object
BETWEEN = 1  # the class of a query that reports no cell
FIRST_CONCEPT = 2
SHARPNESS = 16.0  # logit of a query that points exactly at its code


class CellClassifier(QueryingEyes):
    """A ViT with a linear head over the mean of a cell's patches, and a Q-Former whose queries point at codes.

    With a trainable head, the class means of the queries span about thirty directions. These are enough to separate 300
    classes, but not for a linear projection to map each of them to its word.
    """

    codes: Tensor

    def __init__(self, vision: dict[str, Any], qformer: dict[str, Any], queries: int, classes: int) -> None:
        super().__init__(vision, qformer, queries)
        self.patch_head = nn.Linear(vision["hidden_size"], classes)
        codes = torch.empty(max(classes, qformer["hidden_size"]), qformer["hidden_size"])
        self.register_buffer("codes", nn.init.orthogonal_(codes)[:classes], persistent=False)
        self.side = vision["image_size"] // vision["patch_size"]

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Classify: [pictures, 3, H, W] -> scores [pictures, cells, classes] and [pictures, queries, classes]."""
        states = self.see(pixel_values)
        pictures, _, width = states.shape
        half = self.side // 2
        cells = states[:, 1:].view(pictures, 2, half, 2, half, width).mean(dim=(2, 4)).view(pictures, CELLS, width)
        seen = self.ask(states)
        return self.patch_head(cells), SHARPNESS * nn.functional.normalize(seen, dim=-1) @ self.codes.T


def pixels(scenes: list[Scene], processor: Any) -> Tensor:
    """Rendered scenes as [pictures, 3, H, W], normalised by the processor."""
    raw = np.stack([np.asarray(render(scene), dtype=np.float32) for scene in scenes]) / 255
    mean, std = (np.array(v, dtype=np.float32) for v in (processor.image_mean, processor.image_std))
    return torch.from_numpy((raw - mean) / std).permute(0, 3, 1, 2).contiguous()


def draw(recipe: VisionRecipe, step: int, processor: Any) -> Batch:
    """The pictures of a step and the class of each cell [pictures, cells]."""
    concepts = load_lexicon().concepts
    rng = np.random.default_rng([recipe.seed, step])
    scenes = [sample_scene(rng, int(rng.integers(1, CELLS + 1)), concepts, repeat=0.2) for _ in range(recipe.batch)]
    labels = np.full((recipe.batch, CELLS), EMPTY)
    index = {concept: i + FIRST_CONCEPT for i, concept in enumerate(concepts)}
    for row, scene in enumerate(scenes):
        for concept, cell in scene.objects:
            labels[row, cell] = index[concept]
    return {"pixel_values": pixels(scenes, processor), "labels": torch.from_numpy(labels)}


def cell_loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Cross-entropy summed over cells and queries; accuracies are over cells with an object."""
    patch_scores, query_scores = model(batch["pixel_values"])
    cells = batch["labels"]
    queries = cells.new_full(query_scores.shape[:2], BETWEEN)
    queries[:, :: queries.shape[1] // CELLS] = cells

    def loss(scores: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="sum")

    def accuracy(scores: Tensor, labels: Tensor) -> Tensor:
        return (scores.argmax(-1) == labels)[labels >= FIRST_CONCEPT].float().mean()

    return {
        "loss_sum": loss(patch_scores, cells) + loss(query_scores, queries),
        "tokens": torch.tensor(cells.numel()),
        "object_accuracy": accuracy(patch_scores, cells),
        "query_accuracy": accuracy(query_scores, queries),
    }


def train_vision(recipe: VisionRecipe, directory: Path, on_log: OnLog) -> dict[str, Any]:
    """Train the ViT and the Q-Former and save them in ``directory/model``; returns the last log row."""
    torch.manual_seed(recipe.seed)
    if recipe.queries % CELLS:
        raise InputError(f"field 'queries': {recipe.queries} is not a multiple of a scene's {CELLS} cells")
    vision = dict(
        hidden_size=recipe.width, intermediate_size=recipe.feed_forward, num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads, image_size=SIZE, patch_size=recipe.patch,
        # transformers' default of 1e-10 would start the patch and MLP weights at almost zero.
        initializer_range=0.02,
    )  # fmt: skip
    qformer = dict(
        hidden_size=recipe.qformer_width, num_hidden_layers=recipe.qformer_layers,
        num_attention_heads=recipe.qformer_heads, intermediate_size=recipe.feed_forward, cross_attention_frequency=1,
        encoder_hidden_size=recipe.width, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        # BERT's 0.02 is for a width of 768; with a smaller width, attention would start flat.
        initializer_range=recipe.qformer_width**-0.5,
    )  # fmt: skip
    model = CellClassifier(vision, qformer, recipe.queries, len(load_lexicon().concepts) + FIRST_CONCEPT)
    processor = new_image_processor(SIZE)
    row = fit(LoopConfig(
        model=model, groups=[ParameterGroup("model", list(model.named_parameters()), recipe.lr)],
        batches=lambda step: [draw(recipe, step, processor)], loss=cell_loss, steps=recipe.steps, seed=recipe.seed,
        directory=directory, warmup=recipe.warmup_steps, weight_decay=0.01, checkpoint_every=recipe.checkpoint_every,
        log_every=recipe.log_every, on_log=on_log,
    ))  # fmt: skip
    model.save(directory / "model", processor)
    return row
