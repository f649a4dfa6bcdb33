"""The benchmarks, one file each: every module lists its own in ``BENCHMARKS``, and plug-ins register theirs.

:data:`BENCHMARKS`, :data:`EVALUATED` and :data:`MADE` are views of one registry (:data:`mblip.plugins.benchmarks`).
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module

from mblip import plugins
from mblip.errors import InputError, nearest
from mblip.evaluation.benchmark import Benchmark


def load_benchmarks() -> list[Benchmark]:
    """The benchmarks of this package's modules, in the order of module names."""
    modules = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return [found for name in modules for found in import_module(f"{__name__}.{name}").BENCHMARKS]


for _benchmark in load_benchmarks():
    plugins.benchmarks.register(_benchmark.name, _benchmark, plugins.OWN)


class _Chosen(Mapping[str, Benchmark]):
    """The registered benchmarks that fulfil a condition; those of damaged packages are left out."""

    def __init__(self, holds: Callable[[Benchmark], bool]) -> None:
        self._holds = holds

    def __getitem__(self, name: str) -> Benchmark:
        found = _registered(name)
        if not self._holds(found):
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return (name for name, found in plugins.benchmarks.usable() if self._holds(found))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _registered(name: str) -> Benchmark:
    """A registered benchmark.

    Raises:
        KeyError: No benchmark has this name.
        InputError: It cannot be loaded, or has another name.
    """
    found: Benchmark = plugins.benchmarks[name]
    if found.name != name:
        owner = plugins.benchmarks.owners(name)[0]
        raise InputError(f"the benchmark {name!r} of {owner} has the name {found.name!r}; report it to its authors")
    return found


def _can_be_asked(benchmark: Benchmark) -> bool:
    return bool(benchmark.images) or benchmark.is_made


BENCHMARKS: Mapping[str, Benchmark] = _Chosen(lambda benchmark: not benchmark.is_made)
"""The benchmarks that read annotations."""

EVALUATED: Mapping[str, Benchmark] = _Chosen(lambda benchmark: bool(benchmark.images) and not benchmark.is_made)
"""Those of them that a model can be asked; ``pope``, ``chair`` and ``captions`` only score files of several."""

MADE: Mapping[str, Benchmark] = _Chosen(lambda benchmark: benchmark.is_made)
"""The benchmarks whose items and pictures are generated, so that a model can be asked without data."""


def family(name: str) -> list[str]:
    """The benchmarks that a name stands for: its own, and ``pope_random`` and so on for ``pope``.

    A family belongs to one package: ``pope_mine`` of another package is not part of ``pope``.
    """
    names = [key for key in plugins.benchmarks if key == name or key.startswith(f"{name}_")]
    owners = [plugins.benchmarks.owners(key) for key in names]
    first = next((owner for key, owner in zip(names, owners, strict=True) if key == name), owners[0] if owners else [])
    return [key for key, owner in zip(names, owners, strict=True) if set(owner) & set(first)]


def can_be_asked(name: str) -> bool:
    """Whether a name is that of a benchmark, or of a family, that a model can be asked."""
    return any(_can_be_asked(benchmark) for benchmark in map(_registered, family(name)))


def evaluated(name: str) -> list[Benchmark]:
    """The benchmark of a name, or its family: ``pope_random``, ``pope_popular`` and so on for ``pope``.

    Raises:
        InputError: There is none (the message names the nearest), or its package is damaged.
    """
    found = [benchmark for benchmark in map(_registered, family(name)) if _can_be_asked(benchmark)]
    if not found:
        known = [*EVALUATED, *MADE]
        raise InputError(f"unknown benchmark {name!r}{nearest(name, known)}{plugins.lacking()}")
    return found


def find_benchmark(name: str) -> Benchmark:
    """A benchmark by name.

    Raises:
        InputError: There is none (the message names the nearest), or its package is damaged.
    """
    if name not in plugins.benchmarks:
        raise InputError(f"unknown benchmark {name!r}{plugins.benchmarks.hint(name)}")
    return _registered(name)
