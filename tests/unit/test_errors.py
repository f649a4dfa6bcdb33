from __future__ import annotations

import subprocess
import sys

import pytest

from mblip.errors import InputError, guess, nearest, shorten, sort_nearest


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
def test_guess(name: str, hint: str) -> None:
    assert guess(name, ["data", "optim", "model", "language"]) == hint


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


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("pape", ["quick", "paper"], "; did you mean 'paper'? There are paper, quick"),
        ("PAPER", ["quick", "paper"], "; did you mean 'paper'? There are paper, quick"),
        ("zzz", ["quick", "paper"], "; there are quick, paper"),
        (
            "pope_rand",
            ["xgqa", "pope", "pope_random"],
            "; did you mean 'pope_random'? There are pope_random, pope, xgqa",
        ),
        ("x", [], "; there are none"),
    ],
)
def test_an_unknown_name_lists_what_there_is_nearest_first(name: str, known: list[str], hint: str) -> None:
    assert nearest(name, known) == hint


def test_no_message_prints_a_whole_table() -> None:
    told = nearest("y" * 10_000, [f"name{number}" for number in range(1000)])
    assert "and 900 more" in told
    assert len(told) < 1500
    assert len(shorten("y" * 10_000)) == 200


def test_the_nearest_of_several_spellings_counts() -> None:
    names = {"de": ("de", "German"), "sw": ("sw", "Swahili")}
    assert sort_nearest("swahilli", names, lambda code: names[code]) == ["sw", "de"]
