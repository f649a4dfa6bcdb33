"""The GPU check: its path runs on a CPU at shrunken sizes, and whatever ends a part leaves every row with its reason."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BOTH = ("mblip", "against", "times")


@pytest.fixture
def gpu(root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script."""
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    return importlib.import_module("gpu")


def check(gpu: ModuleType, folder: Path) -> dict[str, dict[str, Any]]:
    """Both files hold every row with every field; the rows by their keys."""
    data = json.loads((folder / "gpu.json").read_text(encoding="utf-8"))
    assert {"command", "small", "minutes", "began", "seconds", "machine", "parts", "rows"} == set(data)
    assert list(data["parts"]) == list(gpu.PARTS)
    wanted = {"row", "part", "title", "status", "reason", *gpu.VALUES}
    assert [set(row) for row in data["rows"]] == [wanted] * len(gpu.rows())
    lines = [line for line in (folder / "gpu.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == [row["title"] for row in data["rows"]]
    assert len({line.count("|") - line.count("\\|") for line in lines}) == 1
    for row in data["rows"]:
        assert (row["status"] == "measured") == (row["reason"] is None), row
    return {row["row"]: row for row in data["rows"]}


def test_the_parts_run_on_a_cpu(gpu: ModuleType, tmp_path: Path) -> None:
    """One model, the answers and the ceiling, seconds each; the slow test below takes all of them, by the command."""
    parts = ["ceiling", "answers", "llava_bf16"]
    report = gpu.Report(tmp_path, parts, 5, True)
    worker = importlib.import_module("gpu_parts")
    gc.freeze()  # the benchmarks collect often, and each time would go through all that other tests have imported
    try:
        worker.work(report.left, True, time.time() + 300, lambda event: report.take(json.loads(json.dumps(event))))
    finally:
        gc.unfreeze()
    found = check(gpu, tmp_path)
    assert {part: state["status"] for part, state in report.parts.items() if part in parts} == dict.fromkeys(
        parts, "measured"
    )
    assert {row["status"] for row in found.values() if row["part"] not in parts} == {"skipped"}
    assert found["ceiling"]["mblip"] > 0
    for key in ("llava_bf16_train_same", "llava_bf16_train_best", "xgqa", "captions", "llava_bf16_plan"):
        assert all(found[key][name] > 0 for name in BOTH), found[key]
    assert found["llava_bf16_memory"]["peak_gib"] > 0
    for key in ("llava_bf16_train_same", "llava_bf16_train_best"):
        assert 0 < found[key]["share_of_ceiling"] < 1
        assert found[key]["flops_predict"] > 1.5
    assert found["xgqa"]["details"]["answers_that_differ"] <= found["xgqa"]["details"]["texts"] / 2
    assert all(row["goal_met"] is None for row in found.values()), "shrunken sizes meet no goal"


@pytest.mark.slow
def test_all_parts_run_by_the_command(gpu: ModuleType, root: Path, tmp_path: Path) -> None:
    """On two busy cores a minute or two, nearly all of it the six models."""
    command = [sys.executable, str(root / "benchmarks/gpu.py"), "--small", "--to", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=480)
    found = check(gpu, tmp_path)
    quantised = importlib.util.find_spec("bitsandbytes") is not None
    assert done.returncode == (0 if quantised else 1), done.stderr[-3000:]
    for row in found.values():
        needs_bitsandbytes = row["part"] in ("mt0_int8", "bloomz_nf4")
        assert row["status"] == ("measured" if quantised or not needs_bitsandbytes else "skipped"), row


# Each process takes the parts it is given: one is measured, one kills its process in the middle of a line, one fails,
# one never ends.
WORKER = """
import json, os, signal, sys, time
words = sys.argv
pipe = os.fdopen(int(words[words.index("--events") + 1]), "w", buffering=1)
say = lambda **event: print(json.dumps(event), file=pipe)
say(machine={"device": "none", "memory_gib": None, "versions": {"torch": None}})
for part in words[words.index("--parts") + 1 :]:
    say(part=part, status="begun")
    if part == "ceiling":
        say(row="ceiling", mblip=1.0)
        say(part=part, status="measured", seconds=1.0)
    elif part == "mt0_int8":
        say(row="mt0_int8_memory", mblip=11.0, goal_met=True)
        pipe.write('{"row": "mt0_int8_pl')
        pipe.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    elif part == "mt0_bf16":
        say(part=part, status="failed", reason="OutOfMemoryError: a | b", seconds=1.0)
        sys.exit()
    else:
        time.sleep(60)
"""


def test_what_ends_a_part_costs_no_other(gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gpu_parts.py").write_text(WORKER)
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    wanted = ["ceiling", "mt0_int8", "mt0_bf16", "answers", "llava_bf16"]
    code = gpu.main(["--minutes", "0.06", "--to", str(tmp_path / "to"), "--parts", *wanted])
    found = check(gpu, tmp_path / "to")
    assert code == 1
    said = {key: (row["status"], row["reason"]) for key, row in found.items()}
    assert said["ceiling"] == said["mt0_int8_memory"] == ("measured", None)
    assert said["mt0_int8_plan"] == ("failed", "its process ended with code -9")
    assert said["mt0_bf16_plan"] == ("failed", "OutOfMemoryError: a | b")
    assert said["xgqa"] == ("failed", "the time was used up")
    assert said["llava_bf16_memory"] == ("skipped", "no time was left")
    assert said["bloomz_nf4_memory"] == ("skipped", "not among --parts")
    table = (tmp_path / "to" / "gpu.md").read_text(encoding="utf-8")
    assert "| longest texts, mT0-XL int8, within 12 GiB | 11.00 |" in table
    assert "12 GiB | met |" in table


def test_a_process_that_cannot_start_is_told(gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gpu_parts.py").write_text("raise SystemExit(7)")
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    assert gpu.main(["--to", str(tmp_path / "to")]) == 1
    reasons = {row["reason"] for row in check(gpu, tmp_path / "to").values()}
    assert reasons == {"the process of the parts could not start (code 7); see its output"}


def test_without_a_gpu_the_full_sizes_are_refused(gpu: ModuleType, tmp_path: Path) -> None:
    worker = importlib.import_module("gpu_parts")
    if worker.torch.cuda.is_available():
        pytest.skip("there is a GPU")
    report = gpu.Report(tmp_path, list(gpu.PARTS), 5, False)
    worker.work(report.left, False, time.time() + 300, report.take)
    assert {row["status"] for row in check(gpu, tmp_path).values()} == {"failed"}
    assert "--small" in (tmp_path / "gpu.md").read_text(encoding="utf-8")
