"""Commands that are killed at a place that is known: no sleep decides how far they came."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

# The command stops itself in the call that shows so much progress of a stage, and goes no further until it is killed.
_PROGRAM = """
import os, signal, sys
from mblip.cli import _progress, app
stage, left = sys.argv[1], int(sys.argv[2])
show = _progress.ProgressBars.__call__
def stops(self, name, done, total):
    global left
    show(self, name, done, total)
    left -= name.startswith(stage)
    if left == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
_progress.ProgressBars.__call__ = stops
sys.argv[1:] = sys.argv[3:]
app.main()
"""


def stopped_at(stage: str, calls: int, *arguments: str) -> subprocess.Popen[bytes]:
    """Run ``mblip`` until it has told ``calls`` times how far a stage is; it stands still there.

    Args:
        stage: How the stage's name begins.
        calls: How often it has told.
        arguments: Of the command.
    """
    command = [sys.executable, "-c", _PROGRAM, stage, str(calls), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        assert process.stderr is not None
        raise AssertionError(f"it ended before, with {os.waitstatus_to_exitcode(status)}: {process.stderr.read()!r}")
    return process


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that stands still, and see that this is what ended it."""
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
