from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mblip.config import TrainRecipe
from mblip.errors import InputError
from mblip.training.checkpoints import checkpoints, load_checkpoint
from mblip.training.logs import Note, StepLog, ValidationLog
from mblip.training.loop import Stopped, read_log
from mblip.training.run import train

Make = Callable[..., TrainRecipe]
Launch = Callable[[int, Callable[[], object]], list[int]]


def first_gradients(run: Path) -> list[torch.Tensor]:
    """Of each parameter, a tenth of its clipped gradient in the first step: Adam's first moment after it."""
    _, state = load_checkpoint(run / "checkpoints/step-00000001")
    return [state["optimizer"]["state"][number]["exp_avg"] for number in sorted(state["optimizer"]["state"])]


def same(one: Path, other: Path) -> None:
    """Equal up to rounding. Weights are not compared: Adam makes full steps of gradients that are rounding alone."""
    rows = [read_log(run / "metrics.jsonl") for run in (one, other)]
    for name, tolerance in (("loss", 2e-5), ("grad_norm", 5e-4), ("tokens", 0)):
        values = [[row[name] for row in run] for run in rows]
        assert len(values[0]) == 4 and values[0] == pytest.approx(values[1], rel=tolerance), name


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_train_as_one(aligning: Make, in_processes: Launch, tmp_path: Path, sharding: str) -> None:
    options = ("checkpoint_every=1", "keep_checkpoints=4", "optim.micro_batch=5")
    recipe = aligning("parts.llm=lora", "lora.dropout=0", "optim.lora_lr=2e-3", *options)
    train(recipe, tmp_path / "one")
    both = recipe.model_copy(update={"sharding": sharding})
    assert in_processes(2, lambda: train(both, tmp_path / "two")) == [0, 0]
    same(tmp_path / "one", tmp_path / "two")
    gradients = [first_gradients(tmp_path / run) for run in ("one", "two")]
    largest = max(float(gradient.abs().max()) for gradient in gradients[0])
    assert len(gradients[0]) > 50 and largest > 0
    for a, b in zip(*gradients, strict=True):
        assert a.shape == b.shape and float((a - b).abs().max()) < 2e-6 * largest


def test_a_checkpoint_of_shards_goes_on_in_one_process(aligning: Make, in_processes: Launch, tmp_path: Path) -> None:
    recipe = aligning()
    train(recipe, tmp_path / "one")

    def cut() -> None:
        signal.signal(signal.SIGTERM, lambda *_: None)
        with pytest.raises(Stopped, match="after step 2"):
            train(recipe.model_copy(update={"sharding": "full"}), tmp_path / "two", terminate_at_two)

    def terminate_at_two(row: StepLog | ValidationLog | Note) -> None:
        if isinstance(row, StepLog) and row.step == 1:  # one process alone is told, and both stop
            os.kill(os.getpid(), signal.SIGTERM)

    assert in_processes(2, cut) == [0, 0]
    assert [path.name for path in checkpoints(tmp_path / "two")] == ["step-00000002"]
    train(recipe, tmp_path / "two")
    same(tmp_path / "one", tmp_path / "two")


def test_what_cannot_be_split_is_refused(aligning: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("int8", "nf4"):
        with pytest.raises(InputError, match=f"cannot split {kind}.*quantization=none.*sharding=none"):
            train(aligning("sharding=full", f"model.quantization={kind}"), tmp_path / kind)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match="set sharding=full"):
        train(aligning(), tmp_path / "fsdp")
