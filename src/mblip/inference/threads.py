"""How many threads torch may use: a container's share of the machine counts, which torch does not look at."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

# A person who sets one of these has decided.
_OVERRIDES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def limit_threads() -> None:
    """Let torch use no more threads than its control group grants whole cores, unless ``OMP_NUM_THREADS`` is set.

    Beyond them the kernel stops all threads together for the rest of each period. The cores that a process is pinned to
    torch respects by itself.
    """
    import torch

    quota = cpu_quota()
    if quota is not None and not any(name in os.environ for name in _OVERRIDES):
        torch.set_num_threads(max(1, min(torch.get_num_threads(), int(quota))))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """The cores that this process' control group may use, by the tightest limit above it (v1 and v2); None: no limit.

    Args:
        root: What holds ``proc`` and ``sys``.
    """
    quotas: list[float] = []
    for file in _limits(root):
        with suppress(OSError, ValueError, ZeroDivisionError):
            if file.name == "cpu.max":
                used, period = file.read_text().split()
            else:
                used, period = file.read_text(), file.with_name("cpu.cfs_period_us").read_text()
            quotas.append(int(used) / int(period))  # "max" is no number
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
        # In a container the path may be that of the host, which is not there; its own group is then the root.
        for folder in (inside, *inside.parents):
            yield mount / folder / name
