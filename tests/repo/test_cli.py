"""The command line as a whole: quick to answer, fully described."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import mblip
from mblip.cli.app import app

HELP = [sys.executable, "-m", "mblip", "--help"]


def verbs(command: Any = None, name: str = "") -> Iterator[tuple[str, Any]]:
    command = command or typer.main.get_command(app)
    for child, value in getattr(command, "commands", {}).items():
        yield from verbs(value, f"{name} {child}".strip())
    if not hasattr(command, "commands"):
        yield name, command


VERBS = dict(verbs())


def test_verbs_were_found() -> None:
    files = {path.stem for path in (Path(__file__).parents[2] / "src/mblip/cli").glob("*.py")} - {"__init__", "app"}
    assert "languages" in VERBS
    assert len(VERBS) >= len(files)


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_and_option_says_what_it_does(name: str) -> None:
    command = VERBS[name]
    assert command.help
    silent = [parameter.name for parameter in command.params if not getattr(parameter, "help", None)]
    assert silent == []


def test_help_answers_at_once() -> None:
    # Processor time is what a quiet machine would take; the wall clock of a busy one says nothing about the imports.
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(HELP, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert statistics.median(times) < 0.4


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from mblip.cli.app import main\n"
        "sys.argv = ['mblip', '--help']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'torch', 'transformers', 'gradio', 'peft', 'pyarrow', 'numpy', 'scipy', 'PIL', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_an_unknown_verb_is_refused() -> None:
    done = subprocess.run([sys.executable, "-m", "mblip", "langages"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "No such command" in done.stderr


def test_version() -> None:
    done = subprocess.run([sys.executable, "-m", "mblip", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == mblip.__version__


def test_a_stock_checkpoint_is_loaded_without_what_only_runs_and_questions_need() -> None:
    script = (
        "import sys\n"
        "from mblip.inference.captioning import CaptionFile\n"
        "from mblip.inference.choosing import open_model\n"
        "open_model('nano:nano-blip2-en')\n"
        "print(sorted({'peft', 'bitsandbytes', 'lingua', 'fastapi', 'gradio'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
