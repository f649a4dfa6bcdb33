"""Commands that are killed at a place that is known: no sleep and no clock decides how far they came."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

# Imports once what commands need, and runs each command in a fork. A command that is to be killed stops itself at its place.
_PROGRAM = """
import importlib, json, os, signal, sys, threading
from mblip.cli import _progress, app
from mblip.storage.files import Appender

def stop_at(progress, append, calls, share):
    left, lock = calls, threading.Lock()
    def is_the_last(concerned):
        nonlocal left
        with lock:
            left -= concerned
            return concerned and left == 0
    def stop():  # this thread first, so that it goes no further
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
    show, add = _progress.ProgressBars.__call__, Appender.append
    def showing(self, name, done, total):
        show(self, name, done, total)
        if is_the_last(bool(progress) and name.startswith(progress)):
            stop()
    def adding(self, data):
        if not is_the_last(bool(append) and self.path.name.endswith(append)):
            return add(self, data)
        begun = int(share * len(data))
        os.write(self._file, data[:begun])
        stop()
        add(self, data[begun:])
        self.size += begun
    _progress.ProgressBars.__call__, Appender.append = showing, adding

def run(order):
    for target, file in enumerate((os.devnull, order["out"], order["err"])):
        os.dup2(os.open(file, os.O_RDWR | os.O_APPEND), target)
    if order["at"]:
        stop_at(**order["at"])
    sys.argv[1:] = order["run"]
    try:
        app.main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

for line in sys.stdin:
    order = json.loads(line)
    if "load" in order:
        importlib.import_module(order["load"])
        print("{}", flush=True)
        continue
    if "run" in order:
        process = os.fork()
        if not process:
            run(order)
    else:
        process = order["process"]
        os.kill(process, order["signal"])
    _, status = os.waitpid(process, os.WUNTRACED)
    code = None if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)
    print(json.dumps({"process": process, "code": code}), flush=True)
"""


class Done(NamedTuple):
    """How a command ended, and what it wrote to its standard output and standard error."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class At:
    """The place where a command stops.

    Attributes:
        progress: How a stage's name begins: the command stops after it has shown ``calls`` times how far that stage is.
        append: How a file's name ends: the command stops in its append of number ``calls`` to such files.
        calls: See there.
        share: Of the piece that is appended, what is in the file when it stops: 0 is before, 1 is after.
    """

    progress: str = ""
    append: str = ""
    calls: int = 1
    share: float = 1.0


class Commands:
    """Runs ``mblip`` commands, each in a fork of one process that has imported the command line and :meth:`load` more."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._out, self._err = (tempfile.NamedTemporaryFile() for _ in range(2))  # noqa: SIM115

    def load(self, module: str) -> None:
        """Import a module that commands need, so that they do not spend seconds on it each."""
        self._tell(load=module)

    def run(self, *arguments: str) -> Done:
        """Run a command to its end."""
        code = self._tell(run=arguments, at=None)["code"]
        assert type(code) is int
        return Done(code, _read(self._out), _read(self._err))

    def stop(self, at: At, *arguments: str) -> int:
        """Run a command until it stands still at a place; its process id."""
        found = self._tell(run=arguments, at=asdict(at))
        assert found["code"] is None, f"it ended before, with {found['code']}: {_read(self._err)}"
        return int(found["process"])

    def kill(self, process: int) -> None:
        """Kill a command that stands still, and see that this is what ended it."""
        assert self._tell(process=process, signal=signal.SIGKILL)["code"] == -signal.SIGKILL

    def go_on(self, process: int) -> int:
        """Let a command that stands still run to its end; its exit code."""
        return int(self._tell(process=process, signal=signal.SIGCONT)["code"])

    def killed(self, at: At, *arguments: str) -> None:
        """Run a command until it stands still at a place, and kill it there."""
        self.kill(self.stop(at, *arguments))

    def _tell(self, **order: Any) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        if "run" in order:
            self._out.truncate(0)
            self._err.truncate(0)
        self._process.stdin.write(json.dumps({**order, "out": self._out.name, "err": self._err.name}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self._out.close()
        self._err.close()


def _read(file: tempfile._TemporaryFileWrapper[bytes]) -> str:
    return Path(file.name).read_text(encoding="utf-8")
