"""Run the tasks of a long job in processes of this machine, on Slurm or on Ray; only this module uses datatrove.

The files of a task do not depend on who runs it, and a mark shows that it is finished. So a lost node, a killed job or
a change of executor loses at most the running tasks. All nodes must see the job's folder.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, TypeVar

from mblip.errors import InputError, MblipError, RemoteError, ResourceError, counted, nearest
from mblip.progress import Progress, silent
from mblip.storage import write_json

T = TypeVar("T")

EXECUTORS = ("local", "slurm", "ray")
_NEEDED: dict[str, tuple[str, ...]] = {"slurm": ("time", "partition")}
_RESOURCES = {"cpus_per_task": int, "gpus_per_task": int, "mem_per_cpu_gb": float, "workers": int, "tasks_per_job": int}
_KNOWN: dict[str, dict[str, type]] = {
    "local": {"workers": int},
    "slurm": _RESOURCES | {"mem_per_cpu_gb": int, "time": str, "partition": str, "qos": str, "env_command": str,
                           "venv_path": str, "condaenv": str, "max_array_size": int},
    "ray": _RESOURCES | {"address": str},
}  # fmt: skip
POLL = 15.0  # seconds between two checks of Slurm's queue


@dataclass(frozen=True)
class Place:
    """The place where a task runs.

    Attributes:
        slot: Number that chooses its device: among the running tasks of this machine; on clusters, which hide other
            tasks' devices, the number of the task.
        beside: Number of tasks that share this machine's cores; 1 on clusters, which assign cores themselves.
        tell: Called with the progress of the task.
    """

    slot: int = 0
    beside: int = 1
    tell: Callable[[int], None] = lambda done: None


@dataclass(frozen=True)
class Job(Generic[T]):
    """Tasks that may run in any order and place.

    Attributes:
        name: Name in Slurm's queue.
        step: A module-level function that runs one task. It must do nothing for a finished task.
        tasks: Small objects that can be pickled.
        is_done: Whether a task's mark exists.
        logs: Folder for the logs, which all nodes see.
    """

    name: str
    step: Callable[[T, Place], None]
    tasks: Sequence[T]
    is_done: Callable[[T], bool]
    logs: Path

    def missing(self) -> list[T]:
        """The tasks that are not done."""
        return [task for task in self.tasks if not self.is_done(task)]


def executor_settings(executor: str, options: Mapping[str, str]) -> dict[str, Any]:
    """Parse options into an executor's parameters.

    Args:
        executor: One of :data:`EXECUTORS`.
        options: Options of datatrove's executor, such as ``partition``, ``time``, ``cpus_per_task``, ``gpus_per_task``,
            ``mem_per_cpu_gb``, ``workers``; for Ray also ``address``; for ``local`` only ``workers``, the number of tasks
            at a time.

    Raises:
        InputError: The executor or an option is unknown, or an option is missing or not a number.
    """
    if executor not in EXECUTORS:
        raise InputError(f"there is no executor {executor!r}{nearest(executor, EXECUTORS)}")
    known = _KNOWN[executor]
    for name in options:
        if name not in known:
            raise InputError(f"the executor {executor!r} has no option {name!r}{nearest(name, known)}")
    for name in _NEEDED.get(executor, ()):
        if name not in options:
            raise InputError(f"the executor {executor!r} needs the option {name}=...")
    try:
        found = {name: known[name](value) for name, value in options.items()}
    except ValueError as error:
        raise InputError(f"an option of the executor {executor!r} is not a number: {error}") from error
    for name in ("cpus_per_task", "mem_per_cpu_gb", "workers", "tasks_per_job"):
        if name in found and not (found[name] > 0 or (name == "workers" and found[name] == -1)):
            raise InputError(f"the option {name} of the executor {executor!r} must be more than 0")
    return found


def parse_options(options: Iterable[str]) -> dict[str, str]:
    """Parse options ``NAME=VALUE`` of the command line.

    Raises:
        InputError: An option has no ``=``.
    """
    found = {}
    for text in options:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--option {text!r} must read NAME=VALUE, such as partition=gpu")
        found[name] = value
    return found


def run_job(executor: str, job: Job[T], settings: Mapping[str, Any], progress: Progress = silent) -> bool:
    """Run the unfinished tasks of a job; returns whether all are finished.

    The call waits for local processes and Ray. Slurm's jobs are only submitted; a second call waits for jobs that are
    still in its queue, and submits tasks without a job.

    Args:
        executor: One of :data:`EXECUTORS`.
        job: The job.
        settings: Result of :func:`executor_settings`.
        progress: Called with the progress, as the tasks report it for ``local``, in tasks for Slurm.

    Raises:
        InputError: datatrove is missing, or there is no ``sbatch`` on this machine.
        RemoteError: No Ray cluster answers, tasks failed on it, or Slurm refused.
        ResourceError: A local process was killed.
        MblipError: A local task raised it, after the other running tasks have ended.
    """
    missing = job.missing()
    if not missing:
        return True
    if executor == "local":
        _run_local(job, missing, settings.get("workers", -1), progress)
        return True
    if executor == "slurm" and _wait_for_slurm(job, progress):
        return True
    for rank, task in enumerate(job.tasks):
        if not job.is_done(task):  # whatever an earlier run recorded
            (job.logs / "completions" / f"{rank:05d}").unlink(missing_ok=True)
    if executor == "slurm":
        _submit(job, settings)
        return not job.missing()
    _run_ray(job, dict(settings))
    if left := len(job.missing()):
        raise RemoteError(
            f"{left} of {counted(len(job.tasks), 'task')} did not finish; {job.logs / 'logs'} has the reasons; run the same "
            "command again to continue"
        )
    return True


def end_with_parent() -> None:
    """End this process when its parent has ended: the workers of a killed parent would wait forever."""

    def watch() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run_local(job: Job[T], missing: Sequence[T], workers: int, progress: Progress) -> None:
    """Run each task in its own process, ``workers`` at a time; a killed process does not affect others."""
    context = get_context("spawn")  # not fork, because Arrow and torch have their own threads
    workers = min(workers, len(missing)) if workers > 0 else len(missing)
    waiting, slots = deque(missing), deque(range(workers))
    running: dict[Connection, tuple[Any, T, int]] = {}
    done_by: dict[int, int] = {}
    errors: list[MblipError] = []
    try:
        while running or (waiting and not errors):
            while waiting and slots and not any(isinstance(error, InputError) for error in errors):
                task, slot = waiting.popleft(), slots.popleft()
                here, there = context.Pipe(duplex=False)
                number = len(missing) - len(waiting) - 1
                process = context.Process(
                    target=_do_here, args=(job.step, task, number, slot, workers, there), daemon=True
                )
                process.start()
                there.close()
                running[here] = process, task, slot
            ready = set(wait(list(running)))
            for connection in [one for one in running if one in ready]:
                process, task, slot = running[connection]
                try:
                    what, value = connection.recv()
                except (EOFError, OSError):
                    del running[connection]
                    process.join()
                    slots.append(slot)
                    if process.exitcode and not job.is_done(task):
                        errors.append(_ended(process.exitcode))
                    continue
                if what == "done":
                    done_by[value[0]] = value[1]
                    progress("", sum(done_by.values()), None)
                else:
                    errors.append(value)
            if any(isinstance(error, InputError) for error in errors):
                waiting.clear()
    finally:
        for process, _, _ in running.values():
            process.terminate()
    if errors:
        # A task's own error is more informative than a kill, and the first error more than later ones.
        error = min(errors, key=lambda error: isinstance(error, _EndedError))
        left = len(job.missing())
        raise error.reworded(
            f"{error} ({left} of {counted(len(job.tasks), 'task')} did not finish; run the same command again to continue)"
        )


class _EndedError(ResourceError):
    """A process ended without an error message."""


def _ended(code: int) -> _EndedError:
    if code < 0:
        name = signal.Signals(-code).name
        return _EndedError(
            f"a task was killed by {name}, usually because memory ran out; --option workers=N runs fewer at a time"
        )
    return _EndedError(f"a task ended with exit code {code}")


def _do_here(
    step: Callable[[T, Place], None], task: T, number: int, slot: int, beside: int, connection: Connection
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends this process
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # as in mblip.cli.app
    end_with_parent()
    try:
        step(task, Place(slot, beside, lambda done: connection.send(("done", (number, done)))))
    except MblipError as error:
        connection.send(("failed", error.reworded(str(error))))
        raise SystemExit(2) from error
    except BrokenPipeError:  # the parent has ended
        raise SystemExit(1) from None


def _wait_for_slurm(job: Job[T], progress: Progress) -> bool:
    """Wait for jobs that were submitted before; returns whether all tasks are finished."""
    note = job.logs / "slurm_job.json"
    try:
        number = str(json.loads(note.read_text(encoding="utf-8"))["job"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    while job.missing() and _in_queue(number):
        progress("tasks", len(job.tasks) - len(job.missing()), len(job.tasks))
        time.sleep(POLL)
    return not job.missing()


def _in_queue(number: str) -> bool:
    """Whether Slurm has a job waiting or running."""
    if not shutil.which("squeue"):
        return False
    asked = subprocess.run(["squeue", "--noheader", "--jobs", number], capture_output=True, text=True, check=False)
    if asked.returncode and "invalid job id" not in asked.stderr.lower():
        why = asked.stderr.strip().splitlines()
        raise RemoteError(f"squeue does not say whether job {number} is running: {why[-1] if why else 'no reason'}")
    return asked.returncode == 0 and bool(asked.stdout.strip())


def _submit(job: Job[T], settings: Mapping[str, Any]) -> None:
    step = _pipeline_step(job)
    from datatrove.executor.slurm import SlurmPipelineExecutor

    if not shutil.which("sbatch"):
        raise InputError("there is no sbatch here; run this on a login node of the Slurm cluster")
    executor = SlurmPipelineExecutor(
        [step], len(job.tasks), logging_dir=str(job.logs), job_name=job.name, **settings
    )  # fmt: skip
    try:
        executor.run()
    except subprocess.CalledProcessError as error:
        raise RemoteError(
            f"sbatch refused {job.logs / 'launch_script.slurm'} (exit code {error.returncode})"
        ) from error
    write_json(job.logs / "slurm_job.json", {"job": str(executor.job_id)})


def _run_ray(job: Job[T], settings: dict[str, Any]) -> None:
    step = _pipeline_step(job)
    try:
        import ray
    except ImportError as error:
        raise InputError("Ray is not installed; pip install 'mblip[translate,ray]'") from error
    from datatrove.executor.ray import RayPipelineExecutor

    address = settings.pop("address", "auto")
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False)
        except ConnectionError as error:
            raise RemoteError(f"no Ray cluster answers at {address!r}; start one with ray start --head") from error
    RayPipelineExecutor([step], len(job.tasks), logging_dir=str(job.logs), **settings).run()


def _pipeline_step(job: Job[T]) -> Any:
    try:
        from datatrove.pipeline.base import PipelineStep
    except ImportError as error:
        raise InputError("clusters need datatrove; pip install 'mblip[translate,ray]'") from error

    class DoTask(PipelineStep):  # type: ignore[misc]
        """Runs the task whose number is the rank."""

        type = "mblip"
        name = job.name

        def __init__(self, step: Callable[[T, Place], None], tasks: list[T]) -> None:
            super().__init__()
            self.step, self.tasks = step, tasks

        def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
            self.step(self.tasks[rank], Place(rank))

    return DoTask(job.step, list(job.tasks))
