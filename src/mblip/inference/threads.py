"""Limit torch's threads to a container's share of the machine, which torch ignores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

# Variables by which the user has chosen already.
_OVERRIDES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def limit_threads() -> None:
    """Let torch use at most as many threads as its control group has full cores, unless ``OMP_NUM_THREADS`` is set.

    With more threads, the kernel stops all of them for the rest of each period. Torch itself respects the cores that a
    process is pinned to.
    """
    import torch

    quota = cpu_quota()
    if quota is not None and not any(name in os.environ for name in _OVERRIDES):
        torch.set_num_threads(max(1, min(torch.get_num_threads(), int(quota))))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Number of cores that this process's control group may use, by the lowest limit above it (v1 and v2); None: no limit.

    Args:
        root: The folder of ``proc`` and ``sys``.
    """
    quotas: list[float] = []
    for file in _limits(root):
        with suppress(OSError, ValueError, ZeroDivisionError):
            if file.name == "cpu.max":
                used, period = file.read_text().split()
            else:
                used, period = file.read_text(), file.with_name("cpu.cfs_period_us").read_text()
            quotas.append(int(used) / int(period))  # "max" is not a number
    return min((quota for quota in quotas if quota > 0), default=None)  # -1: no limit


def _limits(root: Path) -> Iterator[Path]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    groups = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if not controllers:
            mount, name = groups, "cpu.max"
        elif "cpu" in controllers.split(","):
            mount = groups / controllers if (groups / controllers).is_dir() else groups / "cpu"
            name = "cpu.cfs_quota_us"
        else:
            continue
        inside = PurePosixPath(place.lstrip("/"))
        # In a container the path may be the host's and not exist; the container's own group is then the root.
        for folder in (inside, *inside.parents):
            yield mount / folder / name
