"""Jobs in tasks: processes of this machine that fail or are killed, and Slurm's queue as it answers."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from mblip import executors
from mblip.errors import InputError, RemoteError, ResourceError
from mblip.executors import Job, Place, executor_settings, run_job


@dataclass(frozen=True)
class Task:
    folder: Path
    number: int
    does: str = "ends"

    @property
    def mark(self) -> Path:
        return self.folder / f"{self.number}.done"


def do(task: Task, place: Place) -> None:
    place.tell(1)
    with (task.folder / "tried").open("a") as file:
        file.write(f"{task.number} {place.slot} {place.beside}\n")
    if task.does == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if task.does == "fails":
        raise InputError("there is no such thing")
    if task.does == "waits":
        until = time.monotonic() + 20
        while not (task.folder / "go").exists() and time.monotonic() < until:
            time.sleep(0.02)
    task.mark.touch()
    place.tell(2)


def is_done(task: Task) -> bool:
    return task.mark.exists()


def _job(folder: Path, *does: str) -> Job[Task]:
    tasks = [Task(folder, number, each) for number, each in enumerate(does)]
    return Job("test", do, tasks, is_done, folder / "logs")


def test_a_task_that_is_killed_takes_no_other_with_it(tmp_path: Path) -> None:
    told: list[int] = []
    job = _job(tmp_path, "ends", "dies", "ends")
    with pytest.raises(
        ResourceError, match=r"killed by SIGKILL.* \(1 of 3 tasks did not finish; run the same command again"
    ):
        run_job("local", job, {"workers": 2}, lambda stage, done, total: told.append(done))
    assert [task.number for task in job.missing()] == [1]
    assert max(told) == 5
    tried = sorted(line.split() for line in (tmp_path / "tried").read_text().splitlines())
    assert [number for number, _, _ in tried] == ["0", "1", "2"]
    assert {slot for _, slot, _ in tried} <= {"0", "1"}
    assert {beside for _, _, beside in tried} == {"2"}
    assert run_job("local", _job(tmp_path, "ends", "ends", "ends"), {}) is True
    assert (tmp_path / "tried").read_text().splitlines()[3:] == ["1 0 1"]


def test_what_a_task_says_is_said_once_and_no_further_one_is_begun(tmp_path: Path) -> None:
    job = _job(tmp_path, "fails", "ends", "ends")
    with pytest.raises(InputError, match=r"no such thing \(3 of 3 tasks did not finish"):
        run_job("local", job, {"workers": 1})


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``sbatch`` that takes anything, and ``squeue`` that answers with the file ``queue``."""
    pytest.importorskip("datatrove")
    programs = {
        "sbatch": f"echo x >> {tmp_path}/submitted\necho Submitted batch job 7",
        "squeue": f"cat {tmp_path}/queue; cat {tmp_path}/says >&2; exit $(cat {tmp_path}/code)",
    }
    (tmp_path / "bin").mkdir()
    for name, script in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(executors, "POLL", 0.0)
    return tmp_path


def _queue(folder: Path, queue: str, says: str = "", code: int = 0) -> None:
    for name, text in {"queue": queue, "says": says, "code": str(code)}.items():
        (folder / name).write_text(text)


SLURM = executor_settings("slurm", {"partition": "gpu", "time": "1:00:00", "mem_per_cpu_gb": "4"})


def test_slurm_is_asked_before_anything_is_submitted_again(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = _job(slurm, "ends", "ends")
    assert run_job("slurm", job, SLURM) is False
    submitted = (slurm / "submitted").read_text()
    script = (job.logs / "launch_script.slurm").read_text()
    for line in ("--partition=gpu", "--time=1:00:00", "--mem-per-cpu=4G", "--array=0-1", "--job-name=test"):
        assert f"#SBATCH {line}\n" in script
    _queue(slurm, "", "slurm_load_jobs error: Socket timed out", 1)
    with pytest.raises(RemoteError, match="Socket timed out"):
        run_job("slurm", job, SLURM)
    _queue(slurm, "7_[0-1] gpu mblip PD\n")
    waits: list[int] = []

    waiting = threading.current_thread()

    def sleep(seconds: float) -> None:
        if threading.current_thread() is waiting:  # threads that other tests have left behind sleep too
            waits.append(len(job.missing()))
            job.missing()[0].mark.touch()

    monkeypatch.setattr(time, "sleep", sleep)
    assert run_job("slurm", job, SLURM) is True
    assert waits == [2, 1]
    assert (slurm / "submitted").read_text() == submitted
    job.tasks[1].mark.unlink()
    _queue(slurm, "", "slurm_load_jobs error: Invalid job id specified", 1)
    assert run_job("slurm", job, SLURM) is False
    assert len((slurm / "submitted").read_text()) > len(submitted)


def test_what_sbatch_refuses_is_said(slurm: Path) -> None:
    (slurm / "bin/sbatch").write_text("#!/bin/sh\necho 'invalid partition' >&2\nexit 1\n")
    with pytest.raises(RemoteError, match=r"sbatch refused .*launch_script.slurm"):
        run_job("slurm", _job(slurm, "ends"), SLURM)
