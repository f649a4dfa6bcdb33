import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mblip.errors import InputError
from mblip.models.build import build_model
from mblip.models.containers.blip2_eyes import new_image_processor
from mblip.nano.recipe_kinds import VisionRecipe
from mblip.nano.scenes import Scene, render
from mblip.nano.vision import BETWEEN, EMPTY, FIRST_CONCEPT, cell_loss, draw, pixels
from mblip.training.run import train

TINY = {
    "width": 32,
    "layers": 1,
    "feed_forward": 64,
    "qformer_width": 48,
    "qformer_heads": 4,
    "qformer_layers": 1,
    "batch": 8,
}


def test_it_learns_and_its_checkpoint_is_a_bridge_for_a_language_model(tmp_path: Path) -> None:
    recipe = VisionRecipe(title="t", steps=100, warmup_steps=2, lr=3e-3, log_every=10, **TINY)
    last = train(recipe, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert last["loss"] < 0.95 * rows[0]["loss"]
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    assert tensors["query_tokens"].shape == (1, 8, 48)
    assert {name.split(".")[0] for name in tensors} == {"vision_model", "qformer", "query_tokens"}
    vlm = build_model(tmp_path / "model", "nano:nano-mlm", dtype=torch.float32)
    assert torch.equal(vlm.model.query_tokens.detach(), tensors["query_tokens"].float())
    features = vlm.encode_images(vlm.pixels([render(Scene((("fox", 0),), 7))]))
    assert features.shape == (1, 8, 128)


def test_each_cell_has_a_query_and_those_between_say_so() -> None:
    class Perfect(torch.nn.Module):
        """Scores that are right, told from the labels."""

        def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            count = int(labels.max()) + 1
            cells = torch.nn.functional.one_hot(labels, count) * 100.0
            between = torch.nn.functional.one_hot(torch.full_like(labels, BETWEEN), count) * 100.0
            return cells, torch.stack([cells, between], dim=2).flatten(1, 2)

    batch = draw(VisionRecipe(title="t", **TINY), 0, new_image_processor(64))
    labels = batch["labels"]
    assert labels.shape == (8, 4) and set(labels.flatten().tolist()) & {EMPTY} and int(labels.max()) >= FIRST_CONCEPT
    values = cell_loss(Perfect(), batch)
    assert float(values["loss_sum"]) == pytest.approx(0.0, abs=1e-4)
    assert float(values["object_accuracy"]) == float(values["query_accuracy"]) == 1.0


def test_pixels_are_what_the_processor_makes() -> None:
    scene = Scene((("fox", 0),), 7)
    processor = new_image_processor(64)
    stock = processor(render(scene), return_tensors="pt")["pixel_values"]
    assert torch.allclose(pixels([scene], processor), stock, atol=1e-6)


def test_queries_that_do_not_fit_the_cells(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'queries': 6 is not a multiple"):
        train(VisionRecipe(title="t", steps=1, **{**TINY, "queries": 6}), tmp_path)
