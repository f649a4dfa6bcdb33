"""Every shipped recipe of a vision-LLM really trains, with shrunken models and a few rows of its kind of data."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tests.shrunken import build_world, shrunken

from mblip.config import TrainRecipe, load_recipe, load_train_recipe, shipped_recipes
from mblip.models import count_parameters, load_vision_llm, parameters_by_part, set_trainable
from mblip.models.planning import plan_training
from mblip.training.loop import read_log
from mblip.training.run import train

NAMES = sorted(name for name in shipped_recipes() if name.startswith(("train/", "nano/")))
RECIPES = [name for name in NAMES if isinstance(load_train_recipe(name), TrainRecipe)]


def test_every_recipe_was_found() -> None:
    assert len(RECIPES) == 17
    assert len(NAMES) - len(RECIPES) == 3  # the nano world's vision and text recipes


@pytest.fixture
def undrawn() -> None:
    """Here every run is drawn."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_world(tmp_path_factory.mktemp("world"))


@pytest.mark.slow  # 100 s: every layer of every base
@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("train/")])
def test_every_recipe_is_planned_at_its_full_size(name: str) -> None:
    recipe = load_recipe(TrainRecipe, name)
    planned = plan_training(recipe, texts=100_000)
    assert planned.cards()[16], planned.memory
    if "mt0" in name or "finetune" in name:
        assert planned.trainable == (1_574_912 if recipe.stage == "warmup" else 124_431_872)


def test_ones_own_pictures_fine_tune_an_mlp_as_well(world: Path, tmp_path: Path) -> None:
    train(shrunken("train/siglip2_qwen3_4b_align", world, "model.quantization=none"), tmp_path / "aligned")
    recipe = shrunken("train/finetune_own", world, f"model.run={tmp_path / 'aligned'}")
    train(recipe, tmp_path / "run")
    run = load_vision_llm(tmp_path / "run")
    assert run.container.model_type == "llava"
    assert [row["step"] for row in read_log(tmp_path / "run/metrics.jsonl")] == [1, 2]


@pytest.mark.parametrize("name", RECIPES)
def test_two_steps_of_every_recipe(name: str, world: Path, tmp_path: Path) -> None:
    recipe = shrunken(name, world)
    last = train(recipe, tmp_path / "run")
    rows = read_log(tmp_path / "run/metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2] and last["unreadable_images"] == 0
    assert all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows)
    assert (tmp_path / "run/curves.svg").read_text().startswith("<svg")
    if recipe.validate_every:
        *before, checked = read_log(tmp_path / "run/validation.jsonl")
        assert [row["step"] for row in before] == ([0] if recipe.stage == "finetune" else [])
        assert checked["step"] == 2 and len(checked["samples"]) == 2 and math.isfinite(checked["loss"])
    run = load_vision_llm(tmp_path / "run")
    set_trainable(run, recipe.parts)
    planned = plan_training(recipe)
    assert planned.learning == count_parameters(run, trainable=True)
    assert bool(parameters_by_part(run)["lora"]) == (recipe.parts.llm == "lora")
