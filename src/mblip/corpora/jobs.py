"""Jobs done in order or by several processes, with somebody told how far they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

T = TypeVar("T")

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, how many are done and, where it is known, of how many."""


def silent(stage: str, done: int, total: int | None) -> None:
    """The :data:`Progress` that tells nobody."""


def run_jobs(step: Callable[[T], None], jobs: Sequence[T], workers: int, what: str, progress: Progress) -> None:
    """Do a step for every job; the step must leave the same files whoever does it."""
    done = 0
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            step(job)
            done += 1
            progress(what, done, len(jobs))
        return
    # Not fork: Arrow has threads of its own.
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
        for _ in pool.map(step, jobs):
            done += 1
            progress(what, done, len(jobs))
