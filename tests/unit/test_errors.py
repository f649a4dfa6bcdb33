from __future__ import annotations

import subprocess
import sys

import pytest

from mblip.errors import InputError, nearest


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("optm", "; did you mean 'optim'?"),
        ("modell", "; did you mean 'model'?"),
        ("lang", "; did you mean 'language'?"),  # cut short
        ("date", "; did you mean 'data'?"),
        ("dim", ""),
        ("da", ""),
        ("zzz", ""),
        ("", ""),
    ],
)
def test_nearest(name: str, hint: str) -> None:
    assert nearest(name, ["data", "optim", "model", "language"]) == hint


def run_verb(body: str) -> subprocess.CompletedProcess[str]:
    script = (
        "import mblip.cli.app as a\n"
        "from mblip.errors import InputError\n"
        "@a.app.command()\n"
        f"def boom() -> None:\n    {body}\n"
        "a.main()\n"
    )
    return subprocess.run([sys.executable, "-c", script, "boom"], capture_output=True, text=True, check=False)


def test_input_error_is_one_sentence_and_exit_code_2() -> None:
    done = run_verb("raise InputError('photo.jpg is empty; remove it')")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "mblip: photo.jpg is empty; remove it\n")


def test_interrupt_says_that_the_command_continues() -> None:
    done = run_verb("raise KeyboardInterrupt")
    assert done.returncode == 130
    assert done.stderr == "mblip: interrupted; the same command continues where it stopped\n"


def test_a_reader_that_stops_early_is_no_error() -> None:
    command = f"{sys.executable} -m mblip languages --json | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[\n", "")


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    done = run_verb("raise ZeroDivisionError")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_input_error_is_an_exception_of_its_own() -> None:
    assert not issubclass(InputError, (ValueError, OSError))
