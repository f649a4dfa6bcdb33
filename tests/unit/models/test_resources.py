"""What several GPUs, the network and the disk must give: sums of what the plan and the catalogue say, or "unknown"."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mblip.catalogue.entries import load_catalogue
from mblip.cli.app import app
from mblip.config import TrainRecipe, load_recipe
from mblip.errors import InputError
from mblip.models.planning import Memory, Plan
from mblip.models.resources import plan_resources

GIB = 1 << 30


def _plan(hours: float | None = None) -> Plan:
    memory = Memory(8 * GIB, GIB, 2 * GIB, 3 * GIB, GIB, GIB)
    batch = {"texts": 8, "images": 8, "prompt_tokens": 160, "answer_tokens": 128}
    return Plan("a plan", {"llm": 10}, {"llm": 1_000_000}, 3, memory, batch, None, None, hours)


def _recipe(*overrides: str) -> TrainRecipe:
    return load_recipe(TrainRecipe, "mt0_xl_align", overrides)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_copied_model_takes_as_much_on_each_card_and_a_sharded_one_its_share() -> None:
    found = plan_resources(_recipe("optim.global_batch=128"), _plan(hours=10.0), 4)
    assert (found.texts_per_gpu, found.hours, found.memory) == (32, 2.5, 16 * GIB)
    found = plan_resources(_recipe("sharding=full", "model.quantization=none"), _plan(), 4)
    assert found.hours is None
    assert found.memory == 11 * GIB // 4 + 5 * GIB
    assert found.run == 1_000_000 * (4 + 2 * 12)


def test_sizes_are_those_of_the_catalogue_and_what_it_does_not_know_is_named(tmp_path: Path) -> None:
    recipe = _recipe()
    found = plan_resources(recipe, _plan(), 1)
    vision = next(e for e in load_catalogue().values() if [f.url for f in e.files] == [f"hf://{recipe.model.vision}"])
    stated = vision.bytes or 0
    assert stated > 0
    assert found.download in (0, stated)  # 0 where the checkpoint is in a cache already
    assert found.disk == found.data + found.run
    assert any("the mix" in name for name in found.unknown)
    mix = tmp_path / "mix"
    mix.mkdir()
    found = plan_resources(_recipe(f"data.mix={mix}", f"data.images={mix}"), _plan(), 1)
    assert not any("the mix" in name or "the pictures" in name for name in found.unknown)


def test_a_batch_that_does_not_divide_is_told() -> None:
    with pytest.raises(InputError, match="global_batch 128 is not a multiple of 3 GPUs: use 1, 2, 4, or change it"):
        plan_resources(_recipe("optim.global_batch=128"), _plan(), 3)


def test_the_command_tells_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from mblip.models import planning

    monkeypatch.setattr(planning, "plan_training", lambda recipe, texts: _plan())
    command = ["plan", "mt0_xl_align", "--gpus", "2", "--no-calibrate"]
    told = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)["resources"]
    assert (told["gpus"], told["hours"], told["memory"]) == (2, None, 16 * GIB)
    shown = CliRunner().invoke(app, command).stdout
    assert "on 2 GPUs, 64 texts of a step on each\nhours       unknown; " in shown
    assert "memory      16.0 GiB on each card\ndownload    " in shown
    assert "unknown     size of" in shown
