"""What depends on the machine and is checked by hand: how soon the command line answers, and whether freed pages stay.

    python benchmarks/startup.py

Ends with code 1 where a limit is passed: `mblip --help` in 0.4 s of processor time (the median of five), 500 page faults of
making and freeing 128 MiB twenty times with the allocator's setting.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys

from mblip import machine

HELP_SECONDS, FAULTS = 0.4, 500
ROUNDS = """
import resource, sys
from mblip.machine import keep_freed_memory
keep_freed_memory()
import numpy
def round():
    blocks = [numpy.ones(2 << 20) for _ in range(8)]  # 16 MiB each, all freed together
round()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    round()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def help_seconds() -> float:
    """Processor time of ``mblip --help``: what a quiet machine would take, whatever else this one does."""
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "mblip", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(times)


def faults(**environment: str) -> int:
    """Page faults of the rounds, in a process of their own: the setting is the process's."""
    clean = {name: value for name, value in os.environ.items() if name not in machine.ALLOCATOR_OVERRIDES}
    command = [sys.executable, "-c", ROUNDS]
    return int(subprocess.run(command, env={**clean, **environment}, capture_output=True, check=True).stdout)


if __name__ == "__main__":
    found = {
        "help_seconds": round(help_seconds(), 3), "page_faults": faults(),
        "page_faults_where_all_is_mapped": faults(MALLOC_MMAP_THRESHOLD_="65536"),
    }  # fmt: skip
    print(json.dumps(found))
    sys.exit(found["help_seconds"] > HELP_SECONDS or found["page_faults"] > FAULTS)
