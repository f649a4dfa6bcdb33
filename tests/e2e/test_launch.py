"""The same command alone and behind a launcher, as in docs/howto/finetune.md."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mblip.config import DataRecipe, load_recipe
from mblip.mixture import build_mix
from mblip.training.loop import read_log

TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node", "2"]
# Accelerate starts several processes on a CPU by MPI alone; its launcher of several GPUs starts them where none is, too.
ACCELERATE = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]


@pytest.mark.slow
def test_two_launched_processes_train_as_one(tmp_path: Path) -> None:
    build_mix(load_recipe(DataRecipe, "data/nano_scenes", ("sources.scenes.options.scenes=200",)), tmp_path / "mix")
    command = [
        "-m", "mblip", "train", "nano/align", f"data.mix={tmp_path / 'mix'}", "model.fit_words=[]", "optim.steps=3",
        "optim.global_batch=24", "optim.micro_batch=6", "log_every=1", "tracker=none",
    ]  # fmt: skip
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    logs = {}
    for name, launcher in {"alone": [], "torchrun": TORCHRUN, "accelerate": ACCELERATE}.items():
        if launcher:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            option = "--main_process_port" if launcher is ACCELERATE else "--master_port"
            launcher = [*launcher, option, str(port)]
        done = subprocess.run(
            [sys.executable, *launcher, *command, "--to", str(tmp_path / name)],
            env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count(f"{name}: done") == 1  # the first process alone tells
        logs[name] = read_log(tmp_path / name / "metrics.jsonl")
        assert (tmp_path / name / "done.json").is_file() and (tmp_path / name / "bridge.safetensors").is_file()
    for name in ("torchrun", "accelerate"):
        for field, tolerance in (("loss", 2e-5), ("grad_norm", 5e-4), ("tokens", 0)):
            values = [[row[field] for row in logs[run]] for run in ("alone", name)]
            assert len(values[0]) == 3 and values[0] == pytest.approx(values[1], rel=tolerance), (name, field)
