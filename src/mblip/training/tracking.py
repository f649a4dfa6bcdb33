"""What a run tells: ``metrics.jsonl``, a tracker, and how fast it goes."""

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
    """The rows of a run, in ``metrics.jsonl`` and in a tracker.

    Rows past ``start``, of steps that will be made again, are forgotten.

    Args:
        directory: The run.
        start: Steps done.
        steps: Steps in all.
        tracker: ``tensorboard`` (left out where it is not installed), ``wandb``, ``trackio`` or ``none``.
        on_log: Is told each row too.
        writes: Whether this process is the one that writes.

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
        """Add to what the next row gives as a rate: ``examples=128`` becomes ``examples_per_second``."""
        for name, amount in amounts.items():
            self._counts[name] = self._counts.get(name, 0.0) + amount

    def write(self, log: StepLog, device: torch.device) -> None:
        """Add a row; it gets the seconds since the start of this process's part, rates, time left and memory."""
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
        """Hand numbers and texts to the tracker alone."""
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
    """Whether a tracker that was asked for is there; TensorBoard, the default, is left out where it is not.

    Raises:
        InputError: It is not installed.
    """
    if name not in ("wandb", "trackio"):
        return
    found = importlib.util.find_spec(name)
    # A folder of that name, such as W&B leaves where it was used, counts as a package, but has no file.
    if found is None or found.origin is None:
        raise InputError(f"tracker {name!r} is not installed: pip install {name}, or set tracker=tensorboard")


def _open_tracker(name: str, directory: Path, start: int) -> Any:
    if name == "none" or (name == "tensorboard" and importlib.util.find_spec("tensorboard") is None):
        return None
    check_tracker(name)
    if name == "tensorboard":
        tracker = LOGGER_TYPE_TO_CLASS[name](name, logging_dir=directory, purge_step=start + 1)
    else:  # a run among those of one project
        tracker = LOGGER_TYPE_TO_CLASS[name]("mblip", name=directory.resolve().name)
    tracker.start()
    return tracker


def _truncate(path: Path, start: int) -> dict[str, Any]:
    """Forget rows past the checkpoint that the run goes on from; the last row kept."""
    rows = read_log(path) if path.exists() else []
    kept = [row for row in rows if row["step"] <= start]
    if len(kept) < len(rows):
        with atomic_write(path, "w") as file:
            file.write("".join(json.dumps(row) + "\n" for row in kept))
    return kept[-1] if kept else {}


def peak_memory_mib(device: torch.device) -> float:
    """Peak memory so far in MiB: the accelerator's own where there is one, else this process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
