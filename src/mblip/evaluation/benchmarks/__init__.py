"""The benchmarks, one file each; :data:`BENCHMARKS` finds them by name."""

from __future__ import annotations

from mblip.errors import InputError, nearest
from mblip.evaluation.benchmark import Benchmark
from mblip.evaluation.benchmarks import babel_imagenet, captions, chair, marvl, maxm, pope, scenes, vqa, xgqa, xvnli

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        xgqa.BENCHMARK,
        xvnli.BENCHMARK,
        marvl.BENCHMARK,
        marvl.NLVR2,
        maxm.BENCHMARK,
        vqa.BENCHMARK,
        babel_imagenet.BENCHMARK,
        pope.BENCHMARK,
        *pope.COCO,
        *pope.SEEM,
        chair.BENCHMARK,
        chair.SHORT,
        chair.LONG,
        captions.BENCHMARK,
        captions.XFLICKRCO,
        captions.XM3600,
        captions.COCO,
    )
}

EVALUATED: dict[str, Benchmark] = {name: benchmark for name, benchmark in BENCHMARKS.items() if benchmark.images}
"""Those that a model can be asked: ``pope``, ``chair`` and ``captions`` alone score files of several."""

MADE: dict[str, Benchmark] = {scenes.NAME: scenes.BENCHMARK}
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
