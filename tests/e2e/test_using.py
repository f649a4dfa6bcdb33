"""From the shell: a folder in three languages, killed halfway and resumed; a server that drains; clear refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from tests import checkpoints
from tests.unit.inference.conftest import chat, png

MBLIP = [sys.executable, "-m", "mblip"]
CODES = ["sw", "de", "ja"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.blip2(tmp_path_factory.mktemp("tiny"), "mt5")


def _photos(folder: Path, count: int) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / f"{number:04}.jpg")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff cut")
    return folder


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_killed_halfway_and_resumed_every_picture_is_there_once(tmp_path: Path, model: Path, count: int) -> None:
    photos, to = _photos(tmp_path / "photos", count), tmp_path / "captions.jsonl"
    command = [*MBLIP, "caption", str(photos), "--language", "sw,Deutsch,ja", "--model", str(model), "--to", str(to)]
    command += ["--beams", "1", "--max-tokens", "4", "--batch-size", "12"]
    journal = tmp_path / "captions.jsonl.partial.jsonl"
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not journal.exists() or len(journal.read_bytes().splitlines()) < count * len(CODES) // 2:
        assert running.poll() is None
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not to.exists()
    kept = len(journal.read_bytes().splitlines())
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert done.returncode == 1  # one picture cannot be read
    assert "broken.jpg" in done.stderr
    assert "1 of " in done.stderr
    rows = [json.loads(line) for line in to.read_text().splitlines()]
    assert Counter((Path(row["image"]).name, row["language"]) for row in rows) == Counter(
        (f"{number:04}.jpg", code) for number in range(count) for code in CODES
    )
    assert count * len(CODES) // 2 <= kept < count * len(CODES)
    assert not journal.exists()


def test_serve_drains_on_sigterm(tmp_path: Path, model: Path) -> None:
    server = subprocess.Popen(
        [*MBLIP, "serve", "--model", str(model), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stdout
    address = server.stdout.readline().removeprefix("listening on ").strip()
    assert address.startswith("http://127.0.0.1:")
    long = chat("x", png(), model=model.name, max_tokens=400, num_beams=5)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, f"{address}/chat/completions", json=long, timeout=300)
        root = address.removesuffix("/v1")
        while "mblip_batch_size_count 0.0" in httpx.get(f"{root}/metrics").text:
            time.sleep(0.02)
        server.send_signal(signal.SIGTERM)
        assert asked.result().status_code == 200
    assert server.wait(60) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{root}/health")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["caption", "x.jpg", "--language", "swahilli"], "did you mean 'Swahili'"),
        (["caption", "x.jpg", "--language", ","], "names no language"),
        (["caption", "x.jpg", "--language", "sw"], "no model is named"),
        (["caption", "x.jpg", "--language", "sw", "--model", "m"], "there is no picture, folder or table"),
        (["caption", ".", "--language", "sw", "--resume"], "name it with --to"),
        (["ask", "x.jpg", "Was ist das?"], "no model is named"),
        (["serve"], "no model is named"),
        (["demo"], "no model is named"),
        (["serve", "--model", "m", "--api-keys", "gone"], "cannot read the keys"),
        (["serve", "--model", "m", "--host", "203.0.113.1"], "cannot listen"),
    ],
)
def test_refusals_are_one_sentence(tmp_path: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str],
                                   monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    from mblip.cli.app import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("mblip.inference.choosing._at_hand", lambda name: False)
    monkeypatch.setattr(sys, "argv", ["mblip", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_a_model_that_does_not_load_leaves_no_file_to_go_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mblip.cli.app import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.png").write_bytes(png())
    for to in ("captions.csv", "new/captions.csv"):
        command = ["mblip", "caption", "photo.png", "--language", "sw", "--model", "./nowhere", "--to", to]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit):
            main()
        assert "there is no checkpoint folder './nowhere'" in capsys.readouterr().err
        assert os.listdir(tmp_path) == ["photo.png"]  # noqa: PTH208
