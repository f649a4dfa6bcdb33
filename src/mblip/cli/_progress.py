"""Progress of a long job on standard error: a bar on a terminal, occasional lines in a log file."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

from mblip.progress import size_text

FIRST, EVERY = 10.0, 60.0  # seconds until the first line, and between lines


class ProgressBars:
    """A :data:`~mblip.progress.Progress` that shows one or more stages with count, rate and time left.

    Rate and time left are those of this process: work of an earlier, stopped run counts as done, but not for the rate.

    Args:
        unit: Unit of the count, in the plural, such as ``pictures``.
        bar: Whether a terminal shows a bar; without it, for example beside printed results, it shows nothing.
        quiet: Show nothing, as in all processes except the first.
        in_bytes: Whether the count is in bytes, shown as kB, MB or GB.
        console: The console; standard error by default.
        clock: A monotonic clock in seconds.
    """

    def __init__(
        self,
        unit: str,
        *,
        bar: bool = True,
        quiet: bool = False,
        in_bytes: bool = False,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self.console = console or Console(stderr=True, highlight=False, quiet=quiet)
        self._unit, self._clock, self._in_bytes = unit, clock, in_bytes
        self._lines = not self.console.is_terminal and not quiet
        counts = (DownloadColumn(), TransferSpeedColumn()) if in_bytes else (MofNCompleteColumn(),)
        columns = (TextColumn("{task.description}"), BarColumn(), *counts, TimeElapsedColumn())
        self._bars = Progress(
            *columns, TimeRemainingColumn(), console=self.console, transient=True,
            disable=not bar or quiet or self._lines,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}
        self._stages: dict[str, _Stage] = {}

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """Report the progress of a stage; the first call of a stage gives its start in this process.

        Args:
            stage: Name of the stage; empty if there is only one.
            done: Number of units done.
            total: Number of all units; None if it is unknown.
        """
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage or self._unit, total=total)
            self._stages[stage] = _Stage(done, self._clock(), in_bytes=self._in_bytes)
        self._bars.update(self._tasks[stage], completed=done, total=total)
        if self._lines and (line := self._stages[stage].line(done, total, self._unit, self._clock())):
            self.say(f"{stage}: {line}" if stage else line)

    def say(self, text: str) -> None:
        """Print a line, above the bars if there are any."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._bars.disable:  # rich 14.0 ends bars that it never showed by an empty line
            self._bars.stop()


@dataclass
class _Stage:
    """The start of a stage, and the time of its next line."""

    began_at: int
    began: float
    last_shown: float | None = None
    in_bytes: bool = False

    def line(self, done: int, total: int | None, unit: str, now: float) -> str:
        """The line to print now, or empty. The end of a stage with earlier lines always has a line."""
        due = now - self.began >= FIRST if self.last_shown is None else now - self.last_shown >= EVERY or done == total
        if not due or done <= self.began_at:
            return ""
        self.last_shown = now
        seconds = max(now - self.began, 1e-9)
        rate = (done - self.began_at) / seconds
        count = f"{done:,}" if total is None else f"{done:,} of {total:,}"
        left = "" if total is None else f", {timedelta(seconds=round(max(0, total - done) / rate))} left"
        if self.in_bytes:
            count = size_text(done) if total is None else f"{size_text(done)} of {size_text(total)}"
            return f"{count}, {size_text(round(rate))}/s{left}"
        return f"{count} {unit}, {rate:.3g}/s{left}" if rate < 100 else f"{count} {unit}, {rate:,.0f}/s{left}"


class _Lines(logging.Handler):
    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        self._say(prefix + record.getMessage())


@contextmanager
def log_shown(say: Callable[[str], None], level: int = logging.INFO) -> Iterator[None]:
    """Print the package's log messages from a level on, one per line, while a verb runs."""
    logger, handler = logging.getLogger("mblip"), _Lines(say)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False  # else the handlers of a host program would show it again
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before
