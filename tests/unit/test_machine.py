"""The cores and the memory of a container, and memory that was freed."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mblip import machine


def _machine(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": cgroup, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("cgroup", "files", "quota"),
    [
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ("0::/a/b\n", {"sys/fs/cgroup/a/cpu.max": "200000 100000", "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, 2.0),
        ("0::/docker/0123\n", {"sys/fs/cgroup/cpu.max": "50000 100000"}, 0.5),
        ("3:cpuset:/\n1:cpu,cpuacct:/x\n0::/\n", {
            "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "300000\n",
            "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n"}, 3.0),
        ("1:cpu:/\n", {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, None),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "nonsense"}, None),
        ("0::/\n", {}, None),
    ],
)  # fmt: skip
def test_the_tightest_quota_counts(tmp_path: Path, cgroup: str, files: dict[str, str], quota: float | None) -> None:
    assert machine.cpu_quota(_machine(tmp_path, cgroup, files)) == quota


def test_there_is_none_where_there_are_no_groups(tmp_path: Path) -> None:
    assert machine.cpu_quota(tmp_path) is None


@pytest.mark.parametrize(
    ("quota", "processes", "named", "expected"),
    [
        (2.7, 1, {}, 2), (0.5, 1, {}, 1), (64.0, 1, {}, 4), (None, 1, {}, 4), (1.0, 1, {"OMP_NUM_THREADS": "4"}, 4),
        (None, 2, {}, 2), (2.7, 2, {}, 1), (64.0, 3, {}, 1), (None, 9, {}, 1), (None, 2, {"MKL_NUM_THREADS": "4"}, 4),
    ],
)  # fmt: skip
def test_torch_takes_its_share_of_whole_cores_and_what_a_person_sets_stays(
    quota: float | None, processes: int, named: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in machine._OVERRIDES:
        monkeypatch.delenv(name, raising=False)
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(machine, "cpu_quota", lambda: quota)
    # Pretended: once torch has had more threads in a process, none that is forked from it can use any.
    taken = [4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: taken[-1])
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    machine.limit_threads(processes)
    assert taken[-1] == expected


MEMINFO = "MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable:    4096 kB\n"
V1, V2 = "sys/fs/cgroup/memory/x/", "sys/fs/cgroup/"


@pytest.mark.parametrize(
    ("cgroup", "files", "free"),
    [
        ("0::/\n", {"proc/meminfo": MEMINFO}, 4 << 20),
        ("0::/\n", {"proc/meminfo": MEMINFO, f"{V2}memory.max": "max\n", f"{V2}memory.current": "5",
                    f"{V2}memory.stat": "inactive_file 0\n"}, 4 << 20),
        # 3 MiB may be held, 2 are, of which half are files that the kernel would give up.
        ("0::/\n", {"proc/meminfo": MEMINFO, f"{V2}memory.max": f"{3 << 20}\n", f"{V2}memory.current": f"{2 << 20}\n",
                    f"{V2}memory.stat": f"anon 1\ninactive_file {1 << 20}\n"}, 2 << 20),
        ("4:memory:/x\n0::/\n", {"proc/meminfo": MEMINFO, f"{V1}memory.limit_in_bytes": "1000\n",
                                 f"{V1}memory.usage_in_bytes": "900\n", f"{V1}memory.stat": "total_inactive_file 50\n"}, 150),
        ("0::/\n", {f"{V2}memory.max": "7", f"{V2}memory.current": "9", f"{V2}memory.stat": "inactive_file 1\n"}, 0),
        ("0::/\n", {"proc/meminfo": "nonsense"}, None),
        ("0::/\n", {}, None),
    ],
)  # fmt: skip
def test_the_least_free_memory_counts(tmp_path: Path, cgroup: str, files: dict[str, str], free: int | None) -> None:
    assert machine.free_memory(_machine(tmp_path, cgroup, files)) == free


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_this_machine_says_how_much_is_free() -> None:
    free = machine.free_memory()
    assert free is not None and 0 <= free <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


SETTING = "from mblip.machine import keep_freed_memory; print(keep_freed_memory())"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_glibc_takes_the_setting_unless_a_person_has_chosen() -> None:
    def kept(**environment: str) -> str:
        clean = {name: value for name, value in os.environ.items() if name not in machine.ALLOCATOR_OVERRIDES}
        command = [sys.executable, "-c", SETTING]
        return subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, check=True).stdout

    assert kept() == "True\n"
    assert kept(MALLOC_MMAP_THRESHOLD_="65536") == "False\n"


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert not machine.keep_freed_memory()
