"""``mblip caption --to`` from the shell, killed at random moments and gone on with: no row lost, none doubled."""

from __future__ import annotations

import csv
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests import checkpoints

MBLIP = [sys.executable, "-m", "mblip"]
CODES = ["sw", "de", "ja"]
PICTURES = 120


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.blip2(tmp_path_factory.mktemp("tiny"), "mt5")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / f"{number:04}.jpg")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff cut")
    return folder


def _command(photos: Path, model: Path, to: Path) -> list[str]:
    return [
        *MBLIP, "caption", str(photos), "--language", "sw,Deutsch,ja", "--model", str(model), "--to", str(to),
        "--beams", "1", "--max-tokens", "4", "--batch-size", "6", "--resume",
    ]  # fmt: skip


def _grown(to: Path) -> Path:
    return to.with_name(to.name + ".partial.jsonl") if to.suffix == ".parquet" else to


def _pairs(to: Path) -> Counter[tuple[str, str]]:
    if to.suffix == ".parquet":
        rows = pq.read_table(to).to_pylist()
    elif to.suffix == ".csv":
        with to.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
    else:
        rows = [json.loads(line) for line in to.read_text().splitlines()]
    return Counter((Path(row["image"]).name, row["language"]) for row in rows)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_again_and_again_every_row_is_there_once(
    tmp_path: Path, photos: Path, model: Path, ending: str, kills: int
) -> None:
    to = tmp_path / f"captions.{ending}"
    command, rng, grown = _command(photos, model, to), random.Random(ending), _grown(to)
    killed = most = 0
    expected = Counter((f"{number:04}.jpg", code) for number in range(PICTURES) for code in CODES)
    while killed < kills:
        for file in tmp_path.iterdir():  # once the whole was done before so many kills, from the beginning
            if (to.exists() and ending == "parquet") or (grown.exists() and _lines(grown) >= len(expected)):
                file.unlink()
        begun = _lines(grown)
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stop_at = begun + rng.randint(1, 40)
        until = time.monotonic() + 300
        while running.poll() is None and _lines(grown) < stop_at and time.monotonic() < until:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.02)
        if running.poll() is None:
            running.send_signal(signal.SIGKILL)
            killed += 1
        running.wait()
        most = max(most, _lines(grown))
    assert most > 0  # it was killed at work
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr  # one picture cannot be read
    assert "1 of 121 pictures could not be read" in done.stderr
    assert _pairs(to) == expected
    skipped = [json.loads(line) for line in (tmp_path / f"captions.{ending}.skipped.jsonl").read_text().splitlines()]
    assert [Path(row["image"]).name for row in skipped] == ["broken.jpg"] and "not a readable image" in skipped[0][
        "reason"
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"captions.{ending}",
        f"captions.{ending}.skipped.jsonl",
    ]


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_second_writer_is_refused_and_touches_nothing(tmp_path: Path, photos: Path, model: Path) -> None:
    to = tmp_path / "captions.csv"
    first = subprocess.Popen(_command(photos, model, to), stderr=subprocess.DEVNULL)
    until = time.monotonic() + 300
    while _lines(to) < 2 and first.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # at work, but at a pace that a test can follow
    try:
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        for extra in ([], ["--resume"]):
            command = [part for part in _command(photos, model, to) if part != "--resume"] + extra
            second = subprocess.run(command, capture_output=True, text=True, check=False)
            assert second.returncode == 2
            assert (
                second.stderr
                == f"mblip: {to}: another process is writing captions there; wait for it, or name another file\n"
            )
            assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    finally:
        first.send_signal(signal.SIGCONT)
        assert first.wait(300) == 1
    assert set(_pairs(to).values()) == {1} and len(_pairs(to)) == PICTURES * len(CODES)
