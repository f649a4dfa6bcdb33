"""Log a run to ``metrics.jsonl`` and a tracker, with its speed."""

from __future__ import annotations

import importlib.util
import json
import resource
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from mblip.errors import InputError
from mblip.storage import JsonlAppender, atomic_write
from mblip.training.logs import OnLog, StepLog, read_log

METRICS = "metrics.jsonl"


class Log:
    """The log of a run, in ``metrics.jsonl`` and in a tracker.

    Rows after ``start`` are deleted, because their steps are repeated.

    Args:
        directory: The run directory.
        start: Number of steps done.
        steps: Total number of steps.
        tracker: ``tensorboard`` (skipped if it is not installed), ``wandb``, ``trackio`` or ``none``.
        on_log: Called with each row.
        writes: Whether this process writes the log.

    Raises:
        InputError: The tracker is not installed, or the folder cannot be written.
    """

    def __init__(
        self,
        directory: Path,
        start: int,
        steps: int,
        tracker: str,
        on_log: OnLog,
        *,
        writes: bool,
    ) -> None:
        self.row: dict[str, Any] = {}
        self._steps, self._writes, self._on_log = steps, writes, on_log
        self._tracker = None
        if writes:
            self.row = _truncate(directory / METRICS, start)
            self._file = JsonlAppender(directory / METRICS)
            self._tracker = _open_tracker(tracker, directory, start)
        self._began = self._last = time.perf_counter()
        self._began_at = start
        self._counts: dict[str, float] = {}

    def count(self, **amounts: float) -> None:
        """Add amounts for the rates of the next row: ``examples=128`` becomes ``examples_per_second``."""
        for name, amount in amounts.items():
            self._counts[name] = self._counts.get(name, 0.0) + amount

    def write(self, log: StepLog, device: torch.device) -> None:
        """Add a row, with the seconds since this process started, rates, time left and memory."""
        now = time.perf_counter()
        elapsed = max(now - self._last, 1e-9)
        per_step = (now - self._began) / max(1, log.step - self._began_at)
        log = replace(
            log,
            seconds=now - self._began,
            seconds_left=per_step * (self._steps - log.step),
            per_second={name: amount / elapsed for name, amount in self._counts.items()},
            peak_memory_mib=peak_memory_mib(device),
        )
        self._counts.clear()
        self._last = now
        self.row = row = log.to_row()
        if not self._writes:
            return
        self._file.append(row)
        self.track({name: value for name, value in row.items() if name != "step"}, log.step)
        self._on_log(log)

    def track(self, values: dict[str, Any], step: int) -> None:
        """Send numbers and texts to the tracker only."""
        if self._tracker is not None:
            self._tracker.log(values, step=step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._writes:
            self._file.close()
        if self._tracker is not None:
            self._tracker.finish()


def check_tracker(name: str) -> None:
    """Check that a tracker is installed; TensorBoard, the default, is skipped if it is not.

    Raises:
        InputError: The tracker is not installed.
    """
    if name not in ("wandb", "trackio"):
        return
    found = importlib.util.find_spec(name)
    # A folder of that name, such as W&B leaves behind, counts as a package, but has no file.
    if found is None or found.origin is None:
        raise InputError(f"tracker {name!r} is not installed: pip install {name}, or set tracker=tensorboard")


def _open_tracker(name: str, directory: Path, start: int) -> Any:
    if name == "none" or (name == "tensorboard" and importlib.util.find_spec("tensorboard") is None):
        return None
    check_tracker(name)
    if name == "tensorboard":
        tracker = LOGGER_TYPE_TO_CLASS[name](name, logging_dir=directory, purge_step=start + 1)
    else:  # one run of the project
        tracker = LOGGER_TYPE_TO_CLASS[name]("mblip", name=directory.resolve().name)
    tracker.start()
    return tracker


def _truncate(path: Path, start: int) -> dict[str, Any]:
    """Delete rows after the checkpoint that the run continues from; returns the last row that is kept."""
    rows = read_log(path) if path.exists() else []
    kept = [row for row in rows if row["step"] <= start]
    if len(kept) < len(rows):
        with atomic_write(path, "w") as file:
            file.write("".join(json.dumps(row) + "\n" for row in kept))
    return kept[-1] if kept else {}


def peak_memory_mib(device: torch.device) -> float:
    """Peak memory so far in MiB, of the accelerator if there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
