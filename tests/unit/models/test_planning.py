"""Plans: the paper's counts to the last parameter, bytes, steps, and what cannot be planned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import checkpoints
from transformers import MT5ForConditionalGeneration
from typer.testing import CliRunner

from mblip.cli.app import app
from mblip.config import ModelSection, PartsSection, TrainRecipe, load_recipe
from mblip.errors import InputError
from mblip.models import add_lora, build_model, count_parameters, save_run, set_trainable
from mblip.models.calibration import calibrate
from mblip.models.planning import RESERVE, plan_training
from mblip.models.skeleton import container_config, skeleton

EYES = "Salesforce/blip2-flan-t5-xl"
VISION, QUERIES, QFORMER = 985_952_256, 24_576, 105_137_664


def counts(section: ModelSection) -> tuple[int, dict[str, int], dict[str, int]]:
    with torch.device("meta"):
        vlm = skeleton(container_config(section), torch.bfloat16)
        adapters = add_lora(vlm, 8, 16, 0.05)
    set_trainable(vlm, PartsSection())
    return adapters, count_parameters(vlm), count_parameters(vlm, trainable=True)


@pytest.mark.parametrize(
    ("recipe", "trainable", "projection", "lora", "adapters", "llm"),
    [
        ("mt0_xl_align", 124_431_872, 1_574_912, 17_694_720, 432, 3_742_619_648),
        ("bloomz_7b_align", 124_040_704, 3_149_824, 15_728_640, 120, 7_069_016_064),
    ],
)
def test_the_papers_parameters_to_the_last(
    recipe: str, trainable: int, projection: int, lora: int, adapters: int, llm: int
) -> None:
    found, every, learning = counts(load_recipe(TrainRecipe, recipe).model)
    assert found == adapters
    assert every["vision"] == VISION
    assert every["llm"] == llm  # mT0's output head is a table of its own: 3.74 B
    assert learning == {
        "vision": 0, "queries": QUERIES, "qformer": QFORMER, "projection": projection, "llm": 0, "lora": lora
    }  # fmt: skip
    assert sum(learning.values()) == trainable


@pytest.mark.parametrize(
    ("llm", "size"),
    [
        ("Qwen/Qwen3-4B", 4_022_468_096),
        ("google/gemma-3-1b-pt", 999_885_952),
        ("CohereLabs/aya-expanse-8b", 8_028_033_024),
    ],
)
def test_language_models_of_today_have_the_size_that_their_makers_print(llm: str, size: int) -> None:
    _, every, _ = counts(ModelSection(vision=EYES, llm=llm))
    assert every["llm"] == size


def test_the_verb_prints_one_object() -> None:
    result = CliRunner().invoke(app, ["plan", "bloomz_7b_align", "--json", "--texts", "5100000", "--no-calibrate"])
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert plan["trainable"] == 124_040_704
    assert type(plan["trainable"]) is int
    assert plan["adapters"] == 120
    assert plan["steps"] == 2 * (5_100_000 // 128)
    assert plan["hours"] is None
    memory = plan["memory"]
    # NF4: half a byte a weight and a scale for 64; the embeddings stay in bf16.
    table = 250_880 * 4096
    assert memory["weights"] == pytest.approx(
        (7_069_016_064 - table) * (0.5 + 1 / 64) + 2 * (table + VISION) + 4 * 124_040_704, rel=2e-3
    )
    assert memory["gradients"] == 4 * 124_040_704
    assert memory["optimizer"] == 8 * 124_040_704
    assert memory["total"] == sum(size for name, size in memory.items() if name != "total")
    assert plan["cards"] == {str(card): memory["total"] <= card << 30 for card in (8, 12, 16, 24, 40, 80)}
    assert plan["cards"]["16"]
    assert not plan["cards"]["8"]


def test_fewer_texts_than_none_are_refused() -> None:
    result = CliRunner().invoke(app, ["plan", "bloomz_7b_align", "--texts", "-4"])
    assert result.exit_code == 2
    assert "'--texts'" in result.output


def recipe(folder: Path, **changes: Any) -> TrainRecipe:
    fields: dict[str, Any] = {
        "title": "small", "stage": "align", "model": {"vision": str(folder / "eyes"), "llm": str(folder / "llm")},
        "optim": {"lr": 1e-3, "steps": 10, "micro_batch": 2}, "data": {"max_prompt_tokens": 6, "max_answer_tokens": 5},
        "precision": "fp32", **changes,
    }  # fmt: skip
    return TrainRecipe.model_validate(fields)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("plan")
    checkpoints.blip2(made / "eyes", "t5")
    checkpoints.llm(made / "llm", "mt5")
    return made


@pytest.mark.parametrize("family", ["mt5", "t5", "bloom", "llama", "qwen3", "gemma3"])
def test_a_skeleton_has_the_shape_of_the_model(folder: Path, tmp_path: Path, family: str) -> None:
    section = ModelSection(vision=str(folder / "eyes"), llm=str(checkpoints.llm(tmp_path / "llm", family)))
    real = build_model(section.vision, section.llm, dtype="fp32")
    with torch.device("meta"):
        shape = skeleton(container_config(section), torch.float32)
    assert count_parameters(shape) == count_parameters(real)
    assert {name: value.shape for name, value in shape.model.named_parameters()} == {
        name: value.shape for name, value in real.model.named_parameters()
    }
    assert {value.dtype for value in shape.parameters()} == {torch.float32}
    assert all(value.is_meta for value in shape.parameters())


def test_activations_grow_with_the_batch_and_shrink_by_recomputing(folder: Path) -> None:
    small = plan_training(recipe(folder)).memory
    large = plan_training(recipe(folder, optim={"lr": 1e-3, "steps": 10, "micro_batch": 8})).memory
    recomputed = plan_training(
        recipe(folder, optim={"lr": 1e-3, "steps": 10, "micro_batch": 8}, checkpointing=["llm"])
    ).memory
    assert large.weights == small.weights == recomputed.weights
    assert 3.5 < large.activations / small.activations < 4.5
    assert recomputed.activations < 0.7 * large.activations
    assert large.logits == 4 * small.logits
    assert small.reserve == RESERVE


@pytest.mark.parametrize(("quantization", "least", "most"), [("int8", 0.25, 0.40), ("nf4", 0.125, 0.30)])
def test_quantised_layers_take_less(folder: Path, quantization: str, least: float, most: float) -> None:
    section = {"vision": str(folder / "eyes"), "llm": str(folder / "llm")}
    parts = {"vision": "frozen", "qformer": "full", "projection": "full", "llm": "lora"}
    plain = plan_training(recipe(folder, parts=parts)).memory.weights
    less = plan_training(recipe(folder, parts=parts, model={**section, "quantization": quantization})).memory.weights
    model = MT5ForConditionalGeneration.from_pretrained(folder / "llm")
    linear = 4 * sum(m.weight.numel() for m in model.modules() if type(m) is torch.nn.Linear)
    linear -= 4 * model.lm_head.weight.numel()
    share = 1 - (plain - less) / linear
    assert least < share < most


def test_a_run_is_planned_by_its_bases_and_one_to_come_by_its_recipe(folder: Path, tmp_path: Path) -> None:
    vlm = build_model(folder / "eyes", folder / "llm")
    save_run(vlm, tmp_path / "run")
    plan = plan_training(recipe(folder, stage="finetune", model={"run": str(tmp_path / "run")}))
    assert plan.parameters["llm"] == count_parameters(vlm)["llm"]
    whole = plan_training(recipe(folder, stage="finetune", model={"run": str(folder / "eyes")}))
    assert whole.parameters["vision"] == plan.parameters["vision"]
    coming = container_config(ModelSection(run="runs/mt0_xl_align"))
    assert coming.text_config.model_type == "mt5"
    assert coming.text_config.hidden_size == 2048
    published = container_config(ModelSection(run="Gregor/mblip-bloomz-7b"))
    assert published.text_config.model_type == "bloom"


def test_steps_hang_on_the_mix(folder: Path) -> None:
    epochs = recipe(folder, optim={"lr": 1e-3, "epochs": 3, "global_batch": 8})
    assert plan_training(epochs).steps is None
    assert plan_training(epochs, texts=100).steps == 36
    with pytest.raises(InputError, match="set one of"):
        plan_training(recipe(folder, optim={"lr": 1e-3}))


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_a_calibration_gives_hours(folder: Path, quantization: str) -> None:
    chosen = recipe(
        folder, checkpointing=["llm"],
        model={"vision": str(folder / "eyes"), "llm": str(folder / "llm"), "quantization": quantization},
        optim={"lr": 1e-3, "steps": 10, "micro_batch": 2, "global_batch": 8},
    )  # fmt: skip
    plan = plan_training(chosen)
    calibrate(plan, chosen, torch.device("cpu"), repeats=1)
    assert plan.hours == pytest.approx(10 * 4 * plan.calibration["seconds"] / 3600)
    assert plan.calibration["device"] == "CPU"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"vision": "eyes", "llm": "eyes"}, "not a language model alone"),
        ({"vision": "llm", "llm": "llm"}, "not BLIP-2"),
        ({"run": "llm"}, "not BLIP-2 or LLaVA; a language model goes under llm="),
        ({"vision": "eyes"}, "names no model"),
        ({"vision": "eyes", "llm": "nowhere"}, "no checkpoint folder"),
    ],
)
def test_what_cannot_be_planned_is_said(folder: Path, model: dict[str, str], message: str) -> None:
    named = {part: str(folder / name) for part, name in model.items()}
    with pytest.raises(InputError, match=message):
        plan_training(recipe(folder, model=named))


def test_a_micro_batch_is_no_larger_than_the_batch(folder: Path) -> None:
    optim = {"lr": 1e-3, "steps": 10, "global_batch": 4}
    whole, larger = (plan_training(recipe(folder, optim={**optim, "micro_batch": size})) for size in (4, 1000))
    assert larger.batch == whole.batch
    assert larger.batch["texts"] == 4
    assert larger.memory == whole.memory


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("data.crop_scale=[1,0.5]", "the minimum 1.0 is above the maximum 0.5"),
        ("parts={vision: frozen, qformer: frozen, projection: frozen, llm: frozen}", "all parts are frozen"),
        ("stage=finetune", "set model.run to a run directory"),
        ("optim.epochs=1", "set one of optim.steps and optim.epochs"),
    ],
)
def test_a_plan_refuses_what_a_training_would(override: str, says: str) -> None:
    result = CliRunner().invoke(app, ["plan", "nano/align", override])
    assert isinstance(result.exception, InputError)
    assert says in str(result.exception)


def test_only_the_training_of_a_vision_llm_is_planned() -> None:
    result = CliRunner().invoke(app, ["plan", "nano/mlm"])
    assert isinstance(result.exception, InputError)
    assert "of kind text" in str(result.exception)
