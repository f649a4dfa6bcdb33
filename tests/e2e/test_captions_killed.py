"""``mblip caption --to``, killed before, within and after rows and gone on with: no row lost, none doubled."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests import checkpoints
from tests.killed import At, Commands

CODES = ["sw", "de", "ja"]
PICTURES = 60


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.blip2(tmp_path_factory.mktemp("tiny"), "mt5")


@pytest.fixture(scope="module")
def warm(commands: Commands) -> Commands:
    for module in ("mblip.inference.captioning", "mblip.inference.notices", "mblip.models.load"):
        commands.load(module)
    return commands


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
        "caption", str(photos), "--language", "sw,Deutsch,ja", "--model", str(model), "--to", str(to),
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
@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_again_and_again_every_row_is_there_once(
    tmp_path: Path, warm: Commands, photos: Path, model: Path, ending: str, kills: int
) -> None:
    to = tmp_path / f"captions.{ending}"
    command, draw, grown = _command(photos, model, to), random.Random(ending), _grown(to)
    expected = Counter((f"{number:04}.jpg", code) for number in range(PICTURES) for code in CODES)
    # A piece is the rows of one picture; it is there whole, or will be made again. The second kill is within one.
    whole = 0
    for number in range(kills):
        pieces, share = draw.randint(2, 3), (1.0, 0.6, 0.0)[number % 3]
        warm.killed(At(append=grown.name, calls=pieces, share=share), *command)
        whole += pieces - (share < 1)
        assert whole * len(CODES) <= _lines(grown) - (ending == "csv") <= (whole + 1) * len(CODES)
    assert 0 < whole < PICTURES
    done = warm.run(*command)
    assert done.code == 1, done.err  # one picture cannot be read
    assert f"1 of {PICTURES + 1} pictures could not be read" in done.err
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


def test_a_second_writer_is_refused_and_touches_nothing(
    tmp_path: Path, warm: Commands, photos: Path, model: Path
) -> None:
    to = tmp_path / "captions.csv"
    command = _command(photos, model, to)
    first = warm.stop(At(append=to.name, calls=2), *command)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for second in (command[:-1], command):  # without and with --resume
        said = f"mblip: {to}: another process is writing captions there; wait for it, or name another file\n"
        assert warm.run(*second) == (2, "", said)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert warm.go_on(first) == 1
    assert set(_pairs(to).values()) == {1} and len(_pairs(to)) == PICTURES * len(CODES)
