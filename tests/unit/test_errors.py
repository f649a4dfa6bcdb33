from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from tests.rights import permissions_bind

import mblip
from mblip.cli.app import _CONTINUE, _how_to_continue, app
from mblip.config import find_recipe
from mblip.endpoint import RequestFailed
from mblip.errors import (
    InputError,
    MblipError,
    RemoteError,
    ResourceError,
    TrainingError,
    cannot_read,
    cannot_write,
    check_readable,
    counted,
    guess,
    nearest,
    of_system,
    shorten,
    unforeseen,
)
from mblip.evaluation.benchmarks import find_benchmark
from mblip.evaluation.metrics.segmentation import SEGMENTERS, segmenter
from mblip.models.speedups import SPEEDUPS, speed_up
from mblip.storage import UnreadableImage
from mblip.storage.cells import PictureCells


def test_a_number_has_its_noun() -> None:
    assert [counted(n, "more row") for n in (0, 1, 2400)] == ["0 more rows", "1 more row", "2,400 more rows"]


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
        "from mblip.errors import *\n"
        "@a.app.command()\n"
        f"def boom() -> None:\n    {body}\n"
        "a.main()\n"
    )
    return subprocess.run([sys.executable, "-c", script, "boom"], capture_output=True, text=True, check=False)


def test_input_error_is_one_sentence_and_exit_code_2() -> None:
    done = run_verb("raise InputError('photo.jpg is empty; remove it')")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "mblip: photo.jpg is empty; remove it\n")


@pytest.mark.parametrize("kind", ["InputError", "RemoteError", "ResourceError", "TrainingError", "MblipError"])
def test_every_kind_of_error_is_one_sentence_and_exit_code_2(kind: str) -> None:
    done = run_verb(f"raise {kind}('it failed; mend it')")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "mblip: it failed; mend it\n")


@pytest.mark.parametrize(("raised", "says"), [
    ("OSError(28, 'No space left on device', '/x/y')", "/x/y: No space left on device; free the space"),
    ("OSError(24, 'Too many open files')", "Too many open files; close some files"),
    ("OSError(5, 'Input/output error', b'/x/y')", "/x/y: Input/output error; make room"),
    ("MemoryError()", "out of memory: lower the batch size"),
    ("__import__('torch').OutOfMemoryError('CUDA out of memory. Tried to allocate 1 GiB')", "out of memory: lower"),
    ("RuntimeError(\"DefaultCPUAllocator: can't allocate memory: you tried\")", "out of memory: lower"),
])  # fmt: skip
def test_a_resource_that_gave_out_anywhere_is_one_sentence_too(raised: str, says: str) -> None:
    done = run_verb(f"raise {raised}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"mblip: {says}") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("raised", ["OSError(2, 'No such file', '/x')", "RuntimeError('a mistake of ours')"])
def test_what_nobody_foresaw_keeps_its_traceback(raised: str) -> None:
    done = run_verb(f"raise {raised}")
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_a_refusal_of_the_system_is_of_the_kind_that_helps() -> None:
    numbers = {errno.ENOSPC: ResourceError, errno.EDQUOT: ResourceError, errno.EMFILE: ResourceError,
               errno.EACCES: InputError, errno.ENOENT: InputError, errno.EROFS: InputError}  # fmt: skip
    for number, kind in numbers.items():
        assert type(of_system(OSError(number, "why"), "what; do that")) is kind, number


@pytest.mark.parametrize(("number", "read", "write"), [
    (errno.EACCES, "give yourself the right to read it", "choose a folder that can be written"),
    (errno.EPERM, "give yourself the right to read it", "choose a folder that can be written"),
    (errno.EROFS, "", "choose a folder that can be written"),
    (errno.EISDIR, "a file is expected there: name one", "it is a folder: choose another name"),
    (errno.ENOTDIR, "a part of its path is a file", "a part of its path is a file"),
    (errno.EEXIST, "", "a part of its path is a file"),
    (errno.ENAMETOOLONG, "choose a shorter name", "choose a shorter name"),
    (errno.ELOOP, "its links lead in a circle", "its links lead in a circle"),
    (errno.ENOSPC, "free the space", "free the space, or choose another disk"),
])  # fmt: skip
def test_every_refusal_of_the_system_names_a_remedy(number: int, read: str, write: str) -> None:
    error = OSError(number, os.strerror(number), "x")
    assert f"cannot read a/x: {os.strerror(number)}{'; ' if read else ''}{read}" in str(cannot_read("a/x", error))
    assert f"cannot write a/x: {os.strerror(number)}; " in (told := str(cannot_write("a/x", error))) and write in told
    if read:
        last = unforeseen(error)
        assert last is not None and f"x: {os.strerror(number)}; {read.replace('to read it', 'to it')}" in str(last)
        assert type(last) is (ResourceError if number == errno.ENOSPC else InputError)


def test_a_refusal_that_nobody_can_mend_is_none_to_tell() -> None:
    assert unforeseen(OSError(errno.ENOENT, "No such file", "x")) is None
    assert unforeseen(OSError("of no number")) is None


def test_a_long_path_does_not_fill_the_screen() -> None:
    error = OSError(errno.ENAMETOOLONG, "File name too long", "y" * 4000)
    assert all(len(str(told)) < 350 for told in (cannot_read("y" * 4000, error), unforeseen(error)))


@pytest.mark.parametrize("how", ["denied", "folder", "circle", "below a file", "long"])
def test_a_file_that_cannot_be_opened_is_told_of(how: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    if how == "folder":
        path.mkdir()
    elif how == "circle":
        path.symlink_to(path)
    else:
        path.write_text("x")
        path.chmod(0o000 if how == "denied" else 0o600)
        path = {"below a file": path / "b", "long": tmp_path / ("x" * 300)}.get(how, path)
    with permissions_bind(), pytest.raises(InputError, match=r"^cannot read .*; \w+"):
        check_readable(path)


def test_a_file_that_can_be_opened_or_is_missing_passes(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    check_readable(tmp_path / "a")
    check_readable(tmp_path / "b")


def test_another_wording_keeps_the_kind() -> None:
    for kind in (InputError, RemoteError, ResourceError, TrainingError):
        again = kind("short").reworded("longer")
        assert type(again) is kind and str(again) == "longer"
    assert type(UnreadableImage("a.jpg", "it is cut off").reworded("row 3: it is cut off")) is InputError
    assert type(RequestFailed("broken answer", "x", passing=True).reworded("y")) is RemoteError


def test_the_kinds_are_siblings_and_have_a_short_way_to_them() -> None:
    assert mblip.MblipError is MblipError
    for kind in (InputError, RemoteError, ResourceError, TrainingError):
        assert kind.__bases__ == (MblipError,) and getattr(mblip, kind.__name__) is kind


def test_the_errors_are_there_without_torch() -> None:
    script = (
        "import sys, mblip; mblip.InputError; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


CONTINUES = "; the same command continues where it stopped"


@pytest.mark.parametrize(
    ("words", "rest"),
    [
        ("train nano/align --to runs/x", CONTINUES),
        ("eval runs/x --suite quick", CONTINUES),
        ("quickstart", CONTINUES),
        ("data mix nano_scenes --to runs/mix", CONTINUES),
        ("data download paper", CONTINUES),
        ("data inspect runs/mix", ""),
        ("caption photos --language de --to a.csv", "; the same command with --resume continues where it stopped"),
        ("caption photos --language de --to=a.csv", "; the same command with --resume continues where it stopped"),
        ("caption photos --language de --to a.csv --resume", CONTINUES),
        ("caption photos --language de", ""),  # on the screen: nothing is kept
        ("serve --model runs/x", ""),
        ("demo", ""),
        ("boom", ""),
    ],
)
def test_interrupt_says_how_to_continue_only_where_the_verb_continues(words: str, rest: str) -> None:
    assert _how_to_continue(words.split()) == rest


def test_every_verb_that_continues_exists() -> None:
    command: Any = typer.main.get_command(app)
    for verb, *below in _CONTINUE:
        assert verb in command.commands
        assert not below or below[0] in command.commands[verb].commands


def test_interrupt_is_one_line() -> None:
    done = run_verb("raise KeyboardInterrupt")
    assert (done.returncode, done.stderr) == (130, "mblip: interrupted\n")


def test_a_path_without_rights_is_one_sentence_in_any_verb() -> None:
    done = run_verb("raise PermissionError(13, 'Permission denied', 'mine/recipe.yaml')")
    assert done.returncode == 2
    assert done.stderr == "mblip: mine/recipe.yaml: Permission denied; give yourself the right to it\n"
    assert "Traceback" in run_verb("raise PermissionError('of no path')").stderr


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
        ("pape", ["quick", "paper"], "; did you mean 'paper'? Available: paper, quick"),
        ("PAPER", ["quick", "paper"], "; did you mean 'paper'? Available: paper, quick"),
        ("zzz", ["quick", "paper"], "; available: quick, paper"),
        (
            "pope_rand",
            ["xgqa", "pope", "pope_random"],
            "; did you mean 'pope_random'? Available: pope_random, pope, xgqa",
        ),
        ("x", [], "; available: none"),
    ],
)
def test_an_unknown_name_lists_what_there_is_nearest_first(name: str, known: list[str], hint: str) -> None:
    assert nearest(name, known) == hint


def test_no_message_prints_a_whole_table() -> None:
    told = nearest("y" * 10_000, [f"name{number}" for number in range(1000)])
    assert "and 900 more" in told
    assert len(told) < 1500
    assert len(shorten("y" * 10_000)) == 200


def _columns(folder: Path) -> None:
    pq.write_table(pa.table({"picture": [b"x"], "zebra": ["a"]}), folder / "t.parquet")
    PictureCells(folder / "t.parquet", "pictur")


@pytest.mark.parametrize(("ask", "names"), [
    (_columns, ("picture", "zebra")),
    (lambda _: speed_up(cast("Any", None), ["packed_row"]), tuple(SPEEDUPS)),
    (lambda _: segmenter("spacyy", "ja"), tuple(SEGMENTERS)),
    (lambda _: find_recipe("finetune_mine"), ("finetune_own", "mt0_xl_align")),
    (lambda _: find_benchmark("xgqaa"), ("marvl", "xvnli")),
])  # fmt: skip
def test_an_unknown_name_lists_each_known_one_once(
    ask: Callable[[Path], object], names: tuple[str, ...], tmp_path: Path
) -> None:
    """Beside the guess, which repeats the nearest one."""
    with pytest.raises(InputError) as caught:
        ask(tmp_path)
    listed = re.sub(r"did you mean '[^']*'\?", "", str(caught.value))
    assert "it has" not in listed
    for name in names:
        assert len(re.findall(rf"(?<![\w/]){re.escape(name)}(?!\w)", listed)) == 1, listed
