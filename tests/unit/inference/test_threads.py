"""The cores of a container."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mblip.inference import threads


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
    assert threads.cpu_quota(_machine(tmp_path, cgroup, files)) == quota


def test_there_is_none_where_there_are_no_groups(tmp_path: Path) -> None:
    assert threads.cpu_quota(tmp_path) is None


@pytest.mark.parametrize(
    ("quota", "named", "expected"),
    [(2.7, {}, 2), (0.5, {}, 1), (64.0, {}, 4), (None, {}, 4), (1.0, {"OMP_NUM_THREADS": "4"}, 4)],
)  # fmt: skip
def test_torch_takes_whole_cores_and_what_a_person_sets_stays(
    quota: float | None, named: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in threads._OVERRIDES:
        monkeypatch.delenv(name, raising=False)
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    # Pretended: once torch has had more threads in a process, none that is forked from it can use any.
    taken = [4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: taken[-1])
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    threads.limit_threads()
    assert taken[-1] == expected
