"""From the shell: a server that drains; clear refusals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from tests import checkpoints
from tests.serving import chat, png

MBLIP = [sys.executable, "-m", "mblip"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.blip2(tmp_path_factory.mktemp("tiny"), "mt5")


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
        (["caption", "x.jpg", "--language", "swahilli"], "did you mean 'sw' (Swahili)? mblip languages lists all 96\n"),
        (["caption", "x.jpg", "--language", ","], "names no language"),
        (["caption", "x.jpg", "--language", "sw"], "there is no picture, folder or table"),
        (["caption", "x.jpg", "--language", "sw", "--model", "m"], "there is no picture, folder or table"),
        (["caption", ".", "--language", "sw", "--resume"], "name it with --to"),
        (["ask", "x.jpg", "Was ist das?"], "there is no picture"),
        (["serve"], "no model is named"),
        (["demo"], "no model is named"),
        (["serve", "--model", "nano:nano-blip2-en", "--api-keys", "gone"], "cannot read the keys"),
        (["serve", "--model", "nano:nano-blip2-en", "--host", "203.0.113.1"], "cannot listen"),
    ],
)
def test_refusals_are_one_sentence(tmp_path: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str],
                                   monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    from mblip.cli.app import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("mblip.inference.resolve._at_hand", lambda name: False)
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
