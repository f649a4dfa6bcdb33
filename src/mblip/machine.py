"""The threads and the memory that this process may use on the machine or in a container's control group."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

# Variables that override the limits computed here.
_OVERRIDES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
ALLOCATOR_OVERRIDES = (
    "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"
)  # fmt: skip

# glibc's names and numbers (malloc.h), each with its value in bytes.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_KEPT = ((_M_TRIM_THRESHOLD, 512 << 20), (_M_TOP_PAD, 64 << 20), (_M_MMAP_THRESHOLD, 32 << 20))


def keep_freed_memory() -> bool:
    """Let glibc keep up to 512 MiB of freed memory; return whether it does.

    A step of a beam search makes and frees several tensors of beams times vocabulary. By default their pages go back to
    the kernel each time and are cleared and mapped again in the next step, which took a third of a batch's time. Call it
    after loading the model, when the memory that loading freed has already been returned. It does nothing without
    glibc, or if an environment variable already configures the allocator.
    """
    if sys.platform != "linux" or any(os.environ.get(name) for name in ALLOCATOR_OVERRIDES):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, value) for name, value in _KEPT)


def limit_threads(processes: int = 1) -> bool:
    """Limit torch's threads to a process' share of the cores that may be used, unless ``OMP_NUM_THREADS`` is set.

    These are the whole cores that the control group grants: with more threads, the kernel stops all of them for the rest
    of each period. Torch itself already respects the cores that a process is pinned to.

    Args:
        processes: Number of processes that share the cores.

    Returns:
        False if ``OMP_NUM_THREADS`` decides instead.
    """
    import torch

    if any(name in os.environ for name in _OVERRIDES):
        return False
    own, quota = torch.get_num_threads(), cpu_quota()
    share = max(1, (own if quota is None else min(own, int(quota))) // processes)
    if share != own:
        torch.set_num_threads(share)
    return True


def cpu_quota(root: Path = Path("/")) -> float | None:
    """The number of cores that this process' control group may use: the tightest limit (v1 or v2), None without one.

    Args:
        root: The folder that holds ``proc`` and ``sys``.
    """
    quotas: list[float] = []
    for file in _limits(root, "cpu", "cpu.max", "cpu.cfs_quota_us"):
        with suppress(OSError, ValueError, ZeroDivisionError):
            if file.name == "cpu.max":
                used, period = file.read_text().split()
            else:
                used, period = file.read_text(), file.with_name("cpu.cfs_period_us").read_text()
            quotas.append(int(used) / int(period))  # "max" is no number
    return min((quota for quota in quotas if quota > 0), default=None)  # -1: no limit


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process can still take: of the machine, and of each control group above it; None: nobody says.

    A control group counts cached files as used, which the kernel gives up when memory is short; they count as free here.

    Args:
        root: The folder that holds ``proc`` and ``sys``.
    """
    free: list[int] = []
    with suppress(OSError, ValueError, StopIteration):
        lines = (root / "proc/meminfo").read_text().splitlines()
        free.append(int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))) << 10)
    for file in _limits(root, "memory", "memory.max", "memory.limit_in_bytes"):
        second = file.name == "memory.max"
        with suppress(OSError, ValueError):
            used = int(file.with_name("memory.current" if second else "memory.usage_in_bytes").read_text())
            rows = [line.split() for line in file.with_name("memory.stat").read_text().splitlines()]
            cached = {name: int(value) for name, value in rows}.get(
                "inactive_file" if second else "total_inactive_file", 0
            )
            free.append(max(0, int(file.read_text()) - used + cached))  # "max" is no number
    return min(free, default=None)


def _limits(root: Path, controller: str, second: str, first: str) -> Iterator[Path]:
    """The files that may hold a limit, from the process' own group up.

    Args:
        root: The folder that holds ``proc`` and ``sys``.
        controller: Name of the controller.
        second: Name of its file in version 2.
        first: Name of its file in version 1.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    groups = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if not controllers:
            mount, name = groups, second
        elif controller in controllers.split(","):
            mount = groups / controllers if (groups / controllers).is_dir() else groups / controller
            name = first
        else:
            continue
        inside = PurePosixPath(place.lstrip("/"))
        # In a container the path may be that of the host, which is not there; its own group is then the root.
        for folder in (inside, *inside.parents):
            yield mount / folder / name
