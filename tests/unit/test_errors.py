from __future__ import annotations

import subprocess
import sys

import pytest

from mblip.errors import InputError, nearest


@pytest.mark.parametrize(
    ("name", "hint"),
    [("optm", "; did you mean 'optim'?"), ("modell", "; did you mean 'model'?"), ("zzz", ""), ("", "")],
)
def test_nearest(name: str, hint: str) -> None:
    assert nearest(name, ["data", "optim", "model"]) == hint


def test_input_error_is_one_sentence_and_exit_code_2() -> None:
    script = (
        "import typer, mblip.cli.app as a\n"
        "from mblip.errors import InputError\n"
        "@a.app.command()\n"
        "def boom() -> None:\n"
        "    raise InputError('photo.jpg is empty; remove it')\n"
        "a.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script, "boom"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "mblip: photo.jpg is empty; remove it\n"
    assert done.stdout == ""


def test_input_error_is_an_exception_of_its_own() -> None:
    assert not issubclass(InputError, (ValueError, OSError))
