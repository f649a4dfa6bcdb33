"""Freed memory stays with the process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from mblip.inference import allocator

# Page faults of making and freeing a large block 20 times, in a process of its own: the setting is the process's.
FAULTS = """
import resource, sys
from mblip.inference.allocator import keep_freed_memory
assert keep_freed_memory() is (sys.argv[1] == "kept")
import numpy
def round():
    blocks = [numpy.ones(2 << 20) for _ in range(8)]  # 16 MiB each, all freed together
round()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    round()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_pages_are_not_mapped_anew() -> None:
    def faults(kept: str, **environment: str) -> int:
        clean = {name: value for name, value in os.environ.items() if name not in allocator._OVERRIDES}
        command = [sys.executable, "-c", FAULTS, kept]
        return int(subprocess.run(command, env={**clean, **environment}, capture_output=True, check=True).stdout)

    assert faults("kept") < 500
    # What a person sets counts: here, that everything is mapped.
    assert faults("as set", MALLOC_MMAP_THRESHOLD_="65536") > 10_000


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert not allocator.keep_freed_memory()
