"""Training with an MLP behind a vision tower: what a run stores, how it goes on, and several processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests import checkpoints, llava_checkpoints
from typer.testing import CliRunner

from mblip import load_model
from mblip.cli.app import app
from mblip.config import TrainRecipe
from mblip.errors import InputError
from mblip.evaluation.answerers import load_answerer
from mblip.models.planning import plan_training
from mblip.models.prepare import prepare_model
from mblip.nano.scenes import Scene, render
from mblip.training.checkpoints import load_checkpoint
from mblip.training.logs import read_log
from mblip.training.run import train

Make = Callable[..., TrainRecipe]
Launch = Callable[[int, Callable[[], None]], list[int]]
SCENE = render(Scene((("fox", 0),), 1))
LORA = ("parts.llm=lora", "lora.dropout=0", "optim.lora_lr=2e-3")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Overrides of the nano alignment: a tower and a language model with a chat template."""
    folder = tmp_path_factory.mktemp("parts")
    tower = llava_checkpoints.tower(folder / "tower", "clip")
    llm = checkpoints.llm(folder / "llm", "qwen3")
    settings = json.loads((llm / "tokenizer_config.json").read_text())
    (llm / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": llava_checkpoints.CHAT}))
    return (f"model.vision={tower}", f"model.llm={llm}", "model.bridge=mlp", "optim.lr=1e-2")


def test_a_run_holds_mlp_and_adapter_and_names_the_tower(
    aligning: Make, parts: tuple[str, ...], tmp_path: Path
) -> None:
    """Warm-up of the MLP alone, alignment that goes on from it, export: with prompts by the template all the way."""
    train(aligning(*parts, "stage=warmup", "parts.qformer=frozen"), tmp_path / "warm")
    assert sorted(load_file(tmp_path / "warm/bridge.safetensors")) == [
        f"model.multi_modal_projector.linear_{n}.{kind}" for n in (1, 2) for kind in ("bias", "weight")
    ]
    train(aligning(*parts, "optim.steps=0"), tmp_path / "start")
    files = [load_file(tmp_path / run / "bridge.safetensors") for run in ("start", "warm")]
    assert not any(torch.equal(files[0][name], value) for name, value in files[1].items())
    train(aligning(*parts[:2], f"model.run={tmp_path / 'warm'}", *LORA), tmp_path / "run")
    description = json.loads((tmp_path / "run/mblip.json").read_text())
    assert description["chat"] is True
    assert description["eyes"] == {
        "bridge": "mlp", "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
    }  # fmt: skip
    assert description["adapters"] == ["adapter"]
    assert set(description["bases"]) == {"vision", "llm"}
    model = load_model(tmp_path / "run", dtype="fp32")
    answer = model.answer(SCENE, "Name the object in Swahili:", max_new_tokens=5)
    result = CliRunner().invoke(app, ["export", str(tmp_path / "run"), "--to", str(tmp_path / "stock")])
    assert result.exit_code == 0, result.output
    stock = load_model(tmp_path / "stock", dtype="fp32")
    assert stock.vlm.chats
    assert stock.answer(SCENE, "Name the object in Swahili:", max_new_tokens=5) == answer
    assert len(stock.caption([SCENE], ["de", "sw"])[0]) == 2
    shown = CliRunner().invoke(app, ["doctor", str(tmp_path / "run")])
    assert shown.exit_code == 0 and "  bases: vision " in shown.output, shown.output


def test_the_template_is_the_recipes_choice(aligning: Make, parts: tuple[str, ...], tmp_path: Path) -> None:
    plain = prepare_model(aligning(*parts, "model.chat=false"))
    chat = prepare_model(aligning(*parts))
    rows = [model.layout.pairs(["who"], ["a dog"], [1])["input_ids"][0] for model in (plain, chat)]
    texts = [model.tokenizer.decode(row) for model, row in zip((plain, chat), rows, strict=True)]
    assert "user:" not in texts[0]
    assert "user:" in texts[1]
    bare = checkpoints.llm(tmp_path / "bare", "llama")
    with pytest.raises(InputError, match="chat=True: this model has no chat template"):
        prepare_model(aligning(*parts, f"model.llm={bare}", "model.chat=true"))
    with pytest.raises(InputError, match="checkpointing: a llava model has no qformer"):
        prepare_model(aligning(*parts, "checkpointing=[qformer]"))


def test_the_template_is_in_the_fingerprint_of_an_evaluation(
    aligning: Make, parts: tuple[str, ...], tmp_path: Path
) -> None:
    train(aligning(*parts, "optim.steps=0"), tmp_path / "run")
    told = {chat: load_answerer(str(tmp_path / "run"), chat=chat).identity for chat in (None, True, False)}
    assert told[None] == told[True]
    assert told[True]["chat template"] is True
    assert told[False]["chat template"] is False
    assert told[True]["prompt layout"] != told[False]["prompt layout"]
    with pytest.raises(InputError, match="--chat is for LLaVA models"):
        load_answerer("dummy", chat=False)


def test_what_is_planned_is_what_is_trained(aligning: Make, parts: tuple[str, ...]) -> None:
    recipe = aligning(*parts, *LORA, "data.max_prompt_tokens=20", "data.max_answer_tokens=10")
    plan, vlm = plan_training(recipe), prepare_model(recipe)
    assert plan.batch["prompt_tokens"] == 20 + vlm.container.tokens_per_image
    assert plan.adapters == len(vlm.llm.lora_layers) == 14
    assert plan.parameters["projection"] == sum(value.numel() for value in llava_checkpoints.mlp(vlm).parameters())
    assert plan.trainable == sum(value.numel() for value in vlm.parameters() if value.requires_grad)
    assert plan.memory.activations > 0


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_train_as_one(
    aligning: Make, parts: tuple[str, ...], in_processes: Launch, tmp_path: Path, sharding: str
) -> None:
    recipe = aligning(*parts, *LORA, "checkpoint_every=1", "keep_checkpoints=4", "optim.micro_batch=5")
    train(recipe, tmp_path / "one")
    both = recipe.model_copy(update={"sharding": sharding})

    def work() -> None:
        train(both, tmp_path / "two")

    assert in_processes(2, work) == [0, 0]
    runs = [read_log(tmp_path / run / "metrics.jsonl") for run in ("one", "two")]
    for name, tolerance in (("loss", 2e-5), ("grad_norm", 5e-4), ("tokens", 0)):
        values = [[row[name] for row in run] for run in runs]
        assert len(values[0]) == 4
        assert values[0] == pytest.approx(values[1], rel=tolerance), name
    moments = []
    for run in ("one", "two"):
        _, state = load_checkpoint(tmp_path / run / "checkpoints/step-00000001")
        kept = state["optimizer"]["state"]
        moments.append([kept[number]["exp_avg"] for number in sorted(kept)])
    largest = max(float(gradient.abs().max()) for gradient in moments[0])
    assert len(moments[0]) > 20
    assert largest > 0
    for one, two in zip(*moments, strict=True):
        assert one.shape == two.shape
        assert float((one - two).abs().max()) < 2e-6 * largest
    assert torch.isfinite(torch.tensor(largest))
