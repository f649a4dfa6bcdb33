"""``mblip caption --executor`` from the shell: four processes of which one is killed, and Ray that loses a node."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests import checkpoints

pytestmark = pytest.mark.slow
CODES = ["sw", "de", "ja"]
PICTURES = 200


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.blip2(tmp_path_factory.mktemp("tiny"), "mt5")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / f"{number:04}.jpg")
    (folder / "0100broken.jpg").write_bytes(b"\xff\xd8\xff cut")
    return folder


def _command(photos: Path, model: Path, to: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "mblip", "caption", str(photos), "--language", "sw,Deutsch,ja", "--model", str(model),
        "--to", str(to), "--beams", "1", "--max-tokens", "4", "--batch-size", "6", *more,
    ]  # fmt: skip


def _check(to: Path, photos: Path) -> None:
    rows = [json.loads(line) for line in to.read_text().splitlines()]
    expected = [(str(photos / f"{number:04}.jpg"), code) for number in range(PICTURES) for code in CODES]
    assert [(row["image"], row["language"]) for row in rows] == expected
    (skipped,) = to.with_name(to.name + ".skipped.jsonl").read_text().splitlines()
    assert json.loads(skipped)["image"] == str(photos / "0100broken.jpg")
    assert not to.with_name(to.name + ".tasks").exists()


def _lines(folder: Path) -> dict[str, int]:
    return {file.name: file.read_bytes().count(b"\n") for file in folder.glob("captions-*-of-00004.jsonl")}


def _children(process: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = status.read_text().rpartition(")")
        except OSError:
            continue
        if int(rest.split()[1]) == process and b"spawn_main" in (status.parent / "cmdline").read_bytes():
            found.append(int(name.split()[0]))
    return found


@pytest.mark.parametrize("victim", ["task", "command"])
def test_four_processes_of_which_one_is_killed(tmp_path: Path, photos: Path, model: Path, victim: str) -> None:
    to = tmp_path / "captions.jsonl"
    command = _command(photos, model, to, "--executor", "local", "--tasks", "4")
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    folder, until = tmp_path / "captions.jsonl.tasks", time.monotonic() + 600
    while min(_lines(folder).values(), default=0) < 6 or len(_lines(folder)) < 4:
        assert running.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    tasks = _children(running.pid)
    assert len(tasks) == 4
    os.kill(tasks[2] if victim == "task" else running.pid, signal.SIGKILL)
    _, said = running.communicate(timeout=600)
    if victim == "task":
        assert running.returncode == 2
        assert "killed by SIGKILL" in said and "(1 of 4 tasks did not finish" in said, said
        assert len(list(folder.glob("*.done"))) == 3
    else:
        while any(Path(f"/proc/{task}").exists() for task in tasks):  # the tasks end with the command
            assert time.monotonic() < until
            time.sleep(0.05)
    assert not to.exists()
    finished = {mark: mark.stat().st_mtime_ns for mark in folder.glob("*.done")}
    kept = _lines(folder)
    assert min(kept.values()) >= 6
    again = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert again.returncode == 1, again.stderr  # one picture cannot be read
    assert f"{PICTURES} pictures in sw, de, ja" in again.stderr
    assert all(not mark.exists() for mark in finished)
    _check(to, photos)


RAY = """
import os, sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from mblip.cli import app

folder = Path(sys.argv[1])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False)
lost = []

def lose_node():
    while len(list(folder.glob("*.done"))) < 1:
        time.sleep(0.02)
    cluster.remove_node(second, allow_graceful=False)
    lost.append(len(list(folder.glob("*.done"))))

thread = threading.Thread(target=lose_node)
thread.start()
sys.argv[1:] = sys.argv[2:]
try:
    app.main()
except SystemExit as stop:
    code = stop.code
thread.join()
for _ in range(60):  # the cluster takes a while to call a node dead
    if sum(node["Alive"] for node in ray.nodes()) < 2:
        break
    time.sleep(0.5)
print("RESULT", code, *lost, len(ray.nodes()), sum(node["Alive"] for node in ray.nodes()))
ray.shutdown()
cluster.shutdown()
"""


def test_ray_cluster_that_loses_a_node(tmp_path: Path, photos: Path, model: Path) -> None:
    pytest.importorskip("ray")
    to = tmp_path / "captions.jsonl"
    options = ["--executor", "ray", "--tasks", "4", "--option", "mem_per_cpu_gb=0.2"]
    command = [
        sys.executable,
        "-c",
        RAY,
        str(tmp_path / "captions.jsonl.tasks"),
        *_command(photos, model, to, *options)[3:],
    ]
    environment = os.environ | {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    result = next((line.split() for line in done.stdout.splitlines() if line.startswith("RESULT")), [])
    assert result[:2] == ["RESULT", "1"], (result, done.stderr[-3000:])
    assert int(result[2]) < 4, "the node was lost too late"
    assert result[3:] == ["2", "1"], result  # two nodes, one alive
    _check(to, photos)
