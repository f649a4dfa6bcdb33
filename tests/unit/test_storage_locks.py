"""One writer at a time, for folders and files; a dead one holds nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mblip.errors import InputError
from mblip.storage import exclusive_lock


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_the_second_is_refused_and_the_third_not(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    if kind == "directory":
        path.mkdir()
    with exclusive_lock(path, "writing"):
        for _ in range(2):  # a refused process takes nothing away from the one that holds
            refused = pytest.raises(InputError, match=rf"out: another process is writing there; .*another {kind}")
            with refused, exclusive_lock(path, "writing"):
                pytest.fail("two at once")
    with exclusive_lock(path, "writing"):
        pass
    assert _names(tmp_path) == (["out"] if kind == "directory" else [])


def test_a_file_is_one_by_whatever_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    one, another, same = (
        exclusive_lock(tmp_path / name, "writing") for name in ("real/a.csv", "real/b.csv", "link/a.csv")
    )
    with one, another, pytest.raises(InputError), same:
        pytest.fail("two at once")


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    code = "import sys, time\nfrom mblip.storage import exclusive_lock\n"
    code += "with exclusive_lock(sys.argv[1], 'writing'):\n    print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout and holder.stdout.readline() == "held\n"
    with pytest.raises(InputError), exclusive_lock(path, "writing"):
        pytest.fail("two at once")
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    assert _names(tmp_path) == [".a.csv.lock"]
    with exclusive_lock(path, "writing"):
        pass
    assert _names(tmp_path) == []


def test_of_many_at_once_one_holds_at_any_time(tmp_path: Path) -> None:
    """Each removes the lock's file at its end, in which moment another may have opened it."""
    code = """
import os, sys
from mblip.errors import InputError
from mblip.storage import exclusive_lock
path, marker = sys.argv[1], sys.argv[1] + ".marker"
for _ in range(300):
    try:
        with exclusive_lock(path, "writing"):
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
            os.unlink(marker)
    except InputError:
        pass
"""
    racing = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a.csv")]) for _ in range(3)]
    assert [process.wait(120) for process in racing] == [0, 0, 0]


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"cannot write .*; a part of its path is a file"),
        exclusive_lock(tmp_path / "file/a.csv", "writing"),
    ):
        pytest.fail("no such folder")
