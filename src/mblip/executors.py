"""The tasks of a long job, done by processes of this machine, by Slurm or by Ray: the one place that knows of datatrove.

A task leaves the same files whoever does it, and a mark when it is finished; so a lost node, a killed job or another
executor in the middle costs at most what was under way. All nodes must see the job's folder.
"""

from __future__ import annotations

import json
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

from mblip.errors import InputError, MblipError, RemoteError, ResourceError, nearest
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
POLL = 15.0  # seconds between two looks at Slurm's queue


@dataclass(frozen=True)
class Place:
    """Where a task is done.

    Attributes:
        slot: By which it chooses its device: which of the tasks under way on this machine it is; on clusters, which hide
            all devices but a task's own, its number.
        beside: Number of tasks that share this machine's cores; 1 on clusters, which share them out themselves.
        tell: Is told how much of the task is done.
    """

    slot: int = 0
    beside: int = 1
    tell: Callable[[int], None] = lambda done: None


@dataclass(frozen=True)
class Job(Generic[T]):
    """Tasks that may be done in any order, by anybody.

    Attributes:
        name: What Slurm's queue shows.
        step: A function of a module, which does one task. It must do nothing for a task that is done.
        tasks: Small objects that can be pickled.
        is_done: Whether a task's mark is there.
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
    """Options as an executor's parameters, numbers as numbers.

    Args:
        executor: One of :data:`EXECUTORS`.
        options: Of datatrove's executor, such as ``partition``, ``time``, ``cpus_per_task``, ``gpus_per_task``,
            ``mem_per_cpu_gb``, ``workers``; for Ray also ``address``; for ``local`` only ``workers``, the number of tasks
            at a time.

    Raises:
        InputError: An unknown executor or option, one that is missing, or one that is no number.
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
    """Options of the command line, ``NAME=VALUE`` each, by name.

    Raises:
        InputError: One has no ``=``.
    """
    found = {}
    for text in options:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--option {text!r} must read NAME=VALUE, such as partition=gpu")
        found[name] = value
    return found


def run_job(executor: str, job: Job[T], settings: Mapping[str, Any], progress: Progress = silent) -> bool:
    """Do the tasks of a job that are not done; whether all are.

    Local processes and Ray are waited for. Slurm's jobs are submitted; a second call waits for those that are still in its
    queue, and submits what no job is left for.

    Args:
        executor: One of :data:`EXECUTORS`.
        job: What is to be done.
        settings: Of :func:`executor_settings`.
        progress: Is told how far it is: in what the tasks tell for ``local``, in tasks for Slurm.

    Raises:
        InputError: No datatrove, or no ``sbatch`` on this machine.
        RemoteError: No Ray cluster answers, tasks failed on it, or Slurm refused.
        ResourceError: A local process was killed.
        MblipError: Whatever a local task raised, after the others under way have ended.
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
        if not job.is_done(task):  # whatever an earlier run noted
            (job.logs / "completions" / f"{rank:05d}").unlink(missing_ok=True)
    if executor == "slurm":
        _submit(job, settings)
        return not job.missing()
    _run_ray(job, dict(settings))
    if left := len(job.missing()):
        raise RemoteError(
            f"{left} of {len(job.tasks)} tasks did not finish; {job.logs / 'logs'} says why; the same command goes on with them"
        )
    return True


def end_with_parent() -> None:
    """End this process when its parent is gone: one that was killed tells nobody, and its workers would wait forever."""

    def watch() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run_local(job: Job[T], missing: Sequence[T], workers: int, progress: Progress) -> None:
    """A process a task, so many at a time; one that is killed takes no other with it."""
    context = get_context("spawn")  # not fork: Arrow and torch have threads of their own
    workers = min(workers, len(missing)) if workers > 0 else len(missing)
    waiting, slots = deque(missing), deque(range(workers))
    running: dict[Connection, tuple[Any, T, int]] = {}
    told: dict[int, int] = {}
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
                    told[value[0]] = value[1]
                    progress("", sum(told.values()), None)
                else:
                    errors.append(value)
            if any(isinstance(error, InputError) for error in errors):
                waiting.clear()
    finally:
        for process, _, _ in running.values():
            process.terminate()
    if errors:
        # What a task said is worth more than that one was killed, and the first more than what follows from it.
        error = min(errors, key=lambda error: isinstance(error, _EndedError))
        left = len(job.missing())
        raise error.reworded(f"{error} ({left} of {len(job.tasks)} tasks are not finished; the same command goes on)")


class _EndedError(ResourceError):
    """A process that ended without a word."""


def _ended(code: int) -> _EndedError:
    if code < 0:
        name = signal.Signals(-code).name
        return _EndedError(
            f"a task was killed by {name}, mostly for want of memory; --option workers=N does fewer at a time"
        )
    return _EndedError(f"a task ended with exit code {code}")


def _do_here(
    step: Callable[[T, Place], None], task: T, number: int, slot: int, beside: int, connection: Connection
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent, who gets it too, ends this process
    end_with_parent()
    try:
        step(task, Place(slot, beside, lambda done: connection.send(("done", (number, done)))))
    except MblipError as error:
        connection.send(("failed", error.reworded(str(error))))
        raise SystemExit(2) from error
    except BrokenPipeError:  # the parent is gone
        raise SystemExit(1) from None


def _wait_for_slurm(job: Job[T], progress: Progress) -> bool:
    """Wait while Slurm still has what was submitted before; whether all is done."""
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
        raise RemoteError(f"squeue does not say whether job {number} is under way: {why[-1] if why else 'no reason'}")
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
        """Does the task whose number is the rank."""

        type = "mblip"
        name = job.name

        def __init__(self, step: Callable[[T, Place], None], tasks: list[T]) -> None:
            super().__init__()
            self.step, self.tasks = step, tasks

        def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
            self.step(self.tasks[rank], Place(rank))

    return DoTask(job.step, list(job.tasks))
