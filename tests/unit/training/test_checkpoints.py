"""What happened to a checkpoint since it was written, and what happens while one is written."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.training.test_loop import job, weights

from mblip.errors import InputError
from mblip.storage import sha256_file, write_json
from mblip.training import checkpoints as module
from mblip.training.checkpoints import DAMAGED, STATE, SUMS, WEIGHTS, checkpoints, find_damage, load_checkpoint
from mblip.training.logs import Note
from mblip.training.loop import fit

NEWEST, BEFORE = "step-00000016", "step-00000012"


def flip(place: float) -> Callable[[Path], None]:
    """Turn one bit of the byte that stands at a share of the file."""

    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[min(int(place * len(data)), len(data) - 1)] ^= 1
        path.write_bytes(data)

    return change


def cut(size: Callable[[int], int]) -> Callable[[Path], None]:
    """Leave so much of the file."""
    return lambda path: os.truncate(path, size(path.stat().st_size))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "first byte": flip(0.0),
    "a third": flip(1 / 3),
    "two thirds": flip(2 / 3),
    "last byte": flip(1.0),
    "half": cut(lambda size: size // 2),
    "one byte short": cut(lambda size: size - 1),
    "longer": cut(lambda size: size + 1),
    "empty": cut(lambda size: 0),
    "gone": Path.unlink,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[torch.Tensor]]:
    done = job(tmp_path_factory.mktemp("whole"))
    fit(done)
    return done.directory, weights(done)


@pytest.mark.parametrize("file", [WEIGHTS, STATE, SUMS])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_told_of_and_the_one_before_it_is_gone_on_from(
    trained: tuple[Path, list[torch.Tensor]], tmp_path: Path, file: str, damage: str
) -> None:
    fit(job(tmp_path))
    newest = tmp_path / "checkpoints" / NEWEST
    DAMAGE[damage](newest / file)
    assert find_damage(newest) and not find_damage(tmp_path / "checkpoints" / BEFORE)
    with pytest.raises(InputError, match=f"{NEWEST} is damaged"):
        load_checkpoint(newest)
    steps, notes = list[int](), list[str]()
    again = job(
        tmp_path, on_log=lambda row: notes.append(row.text) if isinstance(row, Note) else steps.append(row.step)
    )
    fit(again)
    [note] = notes
    assert f"{NEWEST} is damaged (" in note and f"continuing from {BEFORE}" in note and (file in note or file == SUMS)
    assert steps == list(range(13, 21))
    assert all(torch.equal(a, b) for a, b in zip(weights(again), trained[1], strict=True))
    assert (tmp_path / "checkpoints" / (DAMAGED + NEWEST)).is_dir()  # nothing is thrown away
    assert [path.name for path in checkpoints(tmp_path)] == [BEFORE, NEWEST]
    fit(job(tmp_path, on_log=lambda row: notes.append("more") if isinstance(row, Note) else None))
    assert len(notes) == 1


def test_as_many_are_passed_over_as_are_damaged(trained: tuple[Path, list[torch.Tensor]], tmp_path: Path) -> None:
    fit(job(tmp_path, keep_checkpoints=3))
    (tmp_path / "checkpoints" / NEWEST / STATE).unlink()
    flip(0.5)(tmp_path / "checkpoints" / BEFORE / WEIGHTS)
    notes: list[str] = []
    again = job(
        tmp_path, keep_checkpoints=3, on_log=lambda row: notes.append(row.text) if isinstance(row, Note) else None
    )
    fit(again)
    assert len(notes) == 2 and all("continuing from step-00000008" in note for note in notes)
    assert all(torch.equal(a, b) for a, b in zip(weights(again), trained[1], strict=True))


def test_where_all_are_damaged_the_run_stops_and_touches_none(tmp_path: Path) -> None:
    fit(job(tmp_path))
    for name in (NEWEST, BEFORE):
        flip(0.5)(tmp_path / "checkpoints" / name / STATE)
    with pytest.raises(
        InputError,
        match=rf"{NEWEST} is damaged \(state\.pt has changed since it was written\), and so is the one before it",
    ):
        fit(job(tmp_path))
    assert [path.name for path in checkpoints(tmp_path)] == [BEFORE, NEWEST]


@pytest.mark.parametrize(
    "state", [b"abc", {}, [1], {"step": "x"}, {"step": None}, {"step": 16}, {"step": 16, "optimizer": {}}]
)
def test_a_state_that_is_none_is_told_even_if_its_hash_fits(tmp_path: Path, state: Any) -> None:
    fit(job(tmp_path))
    newest = tmp_path / "checkpoints" / NEWEST
    if isinstance(state, bytes):
        (newest / STATE).write_bytes(state)
    else:
        torch.save(state, newest / STATE)
    sums = {name: sha256_file(newest / name) for name in (WEIGHTS, STATE)}
    write_json(newest / SUMS, sums)
    with pytest.raises(
        InputError, match=f"^checkpoint .*{NEWEST} (cannot be read|holds the optimiser of another recipe)"
    ):
        fit(job(tmp_path))


def test_a_checkpoint_under_the_name_of_another_step_is_refused(tmp_path: Path) -> None:
    fit(job(tmp_path))
    (tmp_path / "checkpoints" / NEWEST).rename(tmp_path / "checkpoints/step-00000018")
    with pytest.raises(InputError, match="step-00000018 holds step 16: give it the name of that step"):
        fit(job(tmp_path))


def _killed(function: str, times: int) -> Callable[[pytest.MonkeyPatch], None]:
    """End the process without a word in the midst of a call, what it has written so far being half of it."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        owner, _, name = function.rpartition(".")
        place: Any = {"": module, "torch": torch, "shutil": shutil}[owner]
        real, calls = getattr(place, name), [0]

        def dies(*args: object, **options: object) -> object:
            calls[0] += 1
            if calls[0] < times:
                return real(*args, **options)
            if name == "rmtree":
                next(Path(str(args[0])).iterdir()).unlink()
            elif name != "sha256_file":
                real(*args, **options)
                path = Path(str(args[0] if name == "write_json" else args[1]))
                os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
            return None

        monkeypatch.setattr(place, name, dies)

    return patch


@pytest.mark.parametrize("at", [
    ("save_file", 3), ("torch.save", 3), ("sha256_file", 5), ("write_json", 3), ("shutil.rmtree", 1), ("save_file", 4),
    ("torch.save", 2), ("write_json", 4),
])  # fmt: skip
def test_killed_while_a_checkpoint_is_written_a_run_ends_with_the_same_bits(
    trained: tuple[Path, list[torch.Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: tuple[str, int]
) -> None:
    def work() -> None:
        _killed(*at)(monkeypatch)
        fit(job(tmp_path, workers=0))

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL and checkpoints(tmp_path)
    assert not any(find_damage(path) for path in checkpoints(tmp_path)[1:])
    again = job(tmp_path)
    fit(again)
    assert all(torch.equal(a, b) for a, b in zip(weights(again), trained[1], strict=True))
    left = [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name not in (BEFORE, NEWEST)]
    assert not [name for name in left if not name.startswith(f".{NEWEST[:13]}")]
