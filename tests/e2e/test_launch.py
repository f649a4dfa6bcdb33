"""The same command alone and behind a launcher, as in docs/howto/finetune.md."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mblip.config import DataRecipe, load_recipe
from mblip.mixture import build_mix
from mblip.training.checkpoints import checkpoints
from mblip.training.loop import read_log

TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node", "2"]
# Accelerate starts several processes on a CPU by MPI alone; its launcher of several GPUs starts them where none is, too.
ACCELERATE = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def training(folder: Path, *settings: str) -> list[str]:
    """What Python, or a launcher of it, is told to train on a small mix made in this folder."""
    build_mix(load_recipe(DataRecipe, "data/nano_scenes", ("sources.scenes.options.scenes=200",)), folder / "mix")
    return [
        "-m", "mblip", "train", "nano/align", f"data.mix={folder / 'mix'}", "model.fit_words=[]",
        "optim.global_batch=24", "optim.micro_batch=6", "log_every=1", "tracker=none", *settings,
    ]  # fmt: skip


@pytest.mark.slow
def test_a_launcher_that_is_terminated_leaves_a_checkpoint_that_one_process_goes_on_from(tmp_path: Path) -> None:
    # At the recipe's rates 20 steps make per cents of a rounding, be it of another micro-batch in one process.
    rates = ("optim.lr=1e-5", "optim.projection_lr=1e-5", "optim.lora_lr=1e-5")
    command = training(tmp_path, "optim.steps=20", *rates)
    options: dict[str, Any] = {"env": ENVIRONMENT, "cwd": tmp_path, "text": True}
    whole = [sys.executable, *command, "--to", str(tmp_path / "whole")]
    subprocess.run(whole, check=True, capture_output=True, timeout=600, **options)
    cut = tmp_path / "cut"
    launched = [sys.executable, *TORCHRUN, "--master_port", free_port(), *command, "--to", str(cut)]
    running = subprocess.Popen(launched, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    until = time.monotonic() + 600
    while running.poll() is None and time.monotonic() < until:
        if (cut / "metrics.jsonl").exists() and len(read_log(cut / "metrics.jsonl")) >= 3:
            break
        time.sleep(0.02)
    running.send_signal(signal.SIGTERM)
    _, told = running.communicate(timeout=600)
    [saved] = checkpoints(cut)
    assert f"stopped after step {int(saved.name[5:])}, which is saved" in told and not (cut / "done.json").exists()
    alone = [sys.executable, *command, "--to", str(cut)]
    subprocess.run(alone, check=True, capture_output=True, timeout=600, **options)
    rows = {run: read_log(tmp_path / run / "metrics.jsonl") for run in ("whole", "cut")}
    assert {row["processes"] for row in rows["cut"]} == {1, 2}
    losses = [[row["loss"] for row in found] for found in rows.values()]
    assert len(losses[0]) == 20 and losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
def test_two_launched_processes_train_as_one(tmp_path: Path) -> None:
    command = training(tmp_path, "optim.steps=3")
    logs = {}
    for name, launcher in {"alone": [], "torchrun": TORCHRUN, "accelerate": ACCELERATE}.items():
        if launcher:
            option = "--main_process_port" if launcher is ACCELERATE else "--master_port"
            launcher = [*launcher, option, free_port()]
        done = subprocess.run(
            [sys.executable, *launcher, *command, "--to", str(tmp_path / name)],
            env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count(f"{name}: done") == 1  # the first process alone tells
        logs[name] = read_log(tmp_path / name / "metrics.jsonl")
        assert (tmp_path / name / "done.json").is_file() and (tmp_path / name / "bridge.safetensors").is_file()
    for name in ("torchrun", "accelerate"):
        for field, tolerance in (("loss", 2e-5), ("grad_norm", 5e-4), ("tokens", 0)):
            values = [[row[field] for row in logs[run]] for run in ("alone", name)]
            assert len(values[0]) == 3 and values[0] == pytest.approx(values[1], rel=tolerance), (name, field)
