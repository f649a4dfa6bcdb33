from pathlib import Path

import pytest
import torch

from mblip.config import TrainRecipe, load_recipe
from mblip.errors import InputError
from mblip.models import load_vision_llm, parameters_by_part
from mblip.nano.scenes import Scene, render
from mblip.training.logs import Note, StepLog, ValidationLog
from mblip.training.run import train


def recipe(mix: Path, *overrides: str) -> TrainRecipe:
    small = (f"data.mix={mix}", "optim.steps=4", "optim.global_batch=24", "optim.micro_batch=12", "log_every=1")
    return load_recipe(
        TrainRecipe, "nano/align", (*small, "tracker=none", "model.fit_words=[]", "parts.llm=frozen", *overrides)
    )


def test_a_run_trains_the_bridge_alone_and_loads_again(mix: Path, tmp_path: Path) -> None:
    last = train(recipe(mix), tmp_path / "run")
    assert last["step"] == 4
    run = load_vision_llm(tmp_path / "run", dtype="fp32")
    train(recipe(mix, "optim.steps=0"), tmp_path / "start")
    start = load_vision_llm(tmp_path / "start", dtype="fp32")
    for part, parameters in parameters_by_part(run).items():
        before = dict(parameters_by_part(start)[part])
        changed = [name for name, value in parameters if not torch.equal(value, before[name])]
        assert bool(changed) == (part in ("queries", "qformer", "projection")), part
    texts = run.generate([render(Scene((("fox", 0),), 1))] * 2, ["Objects in German:", "Objects in Swahili:"])
    assert len(texts) == 2 and all(isinstance(text, str) for text in texts)


def test_an_interrupted_run_ends_with_the_same_weights(mix: Path, tmp_path: Path) -> None:
    train(recipe(mix, "checkpoint_every=2"), tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(row: StepLog | ValidationLog | Note) -> None:
        if isinstance(row, StepLog) and row.step == 3:
            raise Stop

    with pytest.raises(Stop):
        train(recipe(mix, "checkpoint_every=2"), tmp_path / "cut", stop)
    train(recipe(mix, "checkpoint_every=2"), tmp_path / "cut")
    assert (tmp_path / "whole/bridge.safetensors").read_bytes() == (tmp_path / "cut/bridge.safetensors").read_bytes()


def test_two_runs_do_not_write_to_one_directory(mix: Path, tmp_path: Path) -> None:
    refused: list[str] = []

    def second(row: object) -> None:
        with pytest.raises(InputError) as error:
            train(recipe(mix, "optim.lr=2e-4"), tmp_path / "run")
        refused.append(str(error.value))

    train(recipe(mix, "optim.steps=1"), tmp_path / "run", second)
    assert refused == [f"{tmp_path / 'run'}: another process is training there; wait for it, or name another directory"]
    assert "lr: 0.0001" in (tmp_path / "run/recipe.yaml").read_text()
    train(recipe(mix, "optim.steps=1"), tmp_path / "run")  # let go of


def test_lora_learns_and_is_saved(mix: Path, tmp_path: Path) -> None:
    train(recipe(mix, "parts.llm=lora", "optim.lora_lr=1e-2"), tmp_path / "run")
    assert (tmp_path / "run/adapter/adapter_model.safetensors").is_file()
    run = load_vision_llm(tmp_path / "run", dtype="fp32")
    lora = parameters_by_part(run)["lora"]
    assert lora and any(value.abs().sum() > 0 for name, value in lora if "lora_B" in name)


def test_a_mix_without_the_tasks_to_fit_to_names_the_field(mix: Path, tmp_path: Path) -> None:
    message = r"model.fit_words: .*mix has no task 'cell'; did you mean 'cells'. Available: .*model.fit_words=\[\]"
    with pytest.raises(InputError, match=message):
        train(recipe(mix, "model.fit_words=[cell]"), tmp_path / "run")


def test_wrong_settings_are_named(mix: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"did you mean 'optim'"):
        recipe(mix, "optimm.lr=1")
    with pytest.raises(InputError, match=r"one of optim\.steps and optim\.epochs"):
        train(recipe(mix, "optim.epochs=1"), tmp_path / "a")
    with pytest.raises(InputError, match="no checkpoint nano:nano-blip2-em"):
        train(recipe(mix, "model.vision=nano:nano-blip2-em"), tmp_path / "b")
    train(recipe(mix), tmp_path / "c")
    with pytest.raises(InputError, match=r"the run of another recipe \(seed is 1 there, 2 now\)"):
        train(recipe(mix, "seed=2"), tmp_path / "c")
    with pytest.raises(InputError, match=r"another recipe \(optim\.lr is 0\.\d+ there, 0\.5 now\)"):
        train(recipe(mix, "optim.lr=0.5", "title=other"), tmp_path / "c")
