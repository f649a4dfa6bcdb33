"""Freed memory stays with the process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from mblip.inference import allocator

SETTING = "from mblip.inference.allocator import keep_freed_memory; print(keep_freed_memory())"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_glibc_takes_the_setting_unless_a_person_has_chosen() -> None:
    def kept(**environment: str) -> str:
        clean = {name: value for name, value in os.environ.items() if name not in allocator._OVERRIDES}
        command = [sys.executable, "-c", SETTING]
        return subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, check=True).stdout

    assert kept() == "True\n"
    assert kept(MALLOC_MMAP_THRESHOLD_="65536") == "False\n"


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert not allocator.keep_freed_memory()
