"""A run that is killed and one that is told to stop, from the shell: the same command ends with the same bytes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mblip.config import DataRecipe, load_recipe
from mblip.mixture import build_mix
from mblip.training.checkpoints import checkpoints
from mblip.training.loop import read_log

STEPS = 12


@pytest.mark.slow
def test_killed_and_stopped_a_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    build_mix(load_recipe(DataRecipe, "data/nano_scenes", ("sources.scenes.options.scenes=200",)), tmp_path / "mix")

    def start(name: str) -> subprocess.Popen[str]:
        command = [
            "-m", "mblip", "train", "nano/align", f"data.mix={tmp_path / 'mix'}", "model.fit_words=[]",
            f"optim.steps={STEPS}", "optim.global_batch=64", "optim.micro_batch=32", "log_every=1", "tracker=none",
            "checkpoint_every=2", "data.workers=2", "parts.llm=lora", "--to", str(tmp_path / name),
        ]  # fmt: skip
        return subprocess.Popen([sys.executable, *command], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def at_step(running: subprocess.Popen[str], run: Path, step: int) -> None:
        until = time.monotonic() + 1800
        while running.poll() is None and time.monotonic() < until:
            rows = read_log(run / "metrics.jsonl") if (run / "metrics.jsonl").exists() else []
            if rows and rows[-1]["step"] >= step:
                return
            time.sleep(0.02)
        pytest.fail(f"step {step} was not seen: {running.communicate()[1][-2000:]}")

    whole = start("whole")
    assert whole.communicate(timeout=1800) and whole.returncode == 0
    cut = tmp_path / "cut"
    killed = start("cut")
    at_step(killed, cut, 3)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL and checkpoints(cut) and not (cut / "done.json").exists()
    stopped = start("cut")
    at_step(stopped, cut, 6)
    stopped.send_signal(signal.SIGTERM)
    _, told = stopped.communicate(timeout=1800)
    assert stopped.returncode == 143 and "run the same command again to continue" in told
    last = start("cut")
    assert last.communicate(timeout=1800) and last.returncode == 0
    for file in ("bridge.safetensors", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (cut / file).read_bytes(), file
    losses = [[row["loss"] for row in read_log(tmp_path / run / "metrics.jsonl")] for run in ("whole", "cut")]
    assert losses[0] == losses[1] and len(losses[0]) == STEPS
