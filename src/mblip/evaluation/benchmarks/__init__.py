"""The benchmarks, one file each: every module here lists its own in ``BENCHMARKS``; :data:`BENCHMARKS` has all by name."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from mblip.errors import InputError, nearest
from mblip.evaluation.benchmark import Benchmark


def load_benchmarks() -> list[Benchmark]:
    """What the modules of this package list, in the order of their names."""
    modules = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return [found for name in modules for found in import_module(f"{__name__}.{name}").BENCHMARKS]


_ALL = load_benchmarks()

BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL if benchmark.files}

EVALUATED: dict[str, Benchmark] = {name: benchmark for name, benchmark in BENCHMARKS.items() if benchmark.images}
"""Those that a model can be asked: ``pope``, ``chair`` and ``captions`` alone score files of several."""

MADE: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL if not benchmark.files}
"""Those whose items and pictures are made, so that a model can be asked them without data."""


def evaluated(name: str) -> list[Benchmark]:
    """The benchmark of a name, or the family of it: ``pope`` for ``pope_random``, ``pope_popular`` and so on.

    Raises:
        InputError: There is none; names the nearest.
    """
    known = {**EVALUATED, **MADE}
    found = [benchmark for key, benchmark in known.items() if key == name or key.startswith(f"{name}_")]
    if not found:
        raise InputError(f"unknown benchmark {name!r}{nearest(name, known)}")
    return found


def find_benchmark(name: str) -> Benchmark:
    """A benchmark by name.

    Raises:
        InputError: There is none; names the nearest.
    """
    known = {**BENCHMARKS, **MADE}
    if name not in known:
        raise InputError(f"unknown benchmark {name!r}{nearest(name, known)}")
    return known[name]
