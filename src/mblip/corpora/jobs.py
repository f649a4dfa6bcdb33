"""Run jobs in order or in several processes, and report progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from mblip.errors import ResourceError
from mblip.executors import end_with_parent
from mblip.progress import Progress

T = TypeVar("T")


def run_jobs(step: Callable[[T], None], jobs: Sequence[T], workers: int, what: str, progress: Progress) -> None:
    """Run a step for every job; its files must not depend on the process that runs it.

    Raises:
        ResourceError: A worker was killed, usually because memory ran out.
    """
    done = 0
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            step(job)
            done += 1
            progress(what, done, len(jobs))
        return
    # Not fork, because Arrow has its own threads.
    context = get_context("spawn")
    try:
        with ProcessPoolExecutor(min(workers, len(jobs)), context, initializer=end_with_parent) as pool:
            for _ in pool.map(step, jobs):
                done += 1
                progress(what, done, len(jobs))
    except BrokenProcessPool as error:
        raise ResourceError(
            f"a worker was killed while {what}, usually because memory ran out; run the same command again with fewer "
            "workers"
        ) from error
