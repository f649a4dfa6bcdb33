"""The benchmarks, one file each; :data:`BENCHMARKS` finds them by name."""

from __future__ import annotations

from mblip.errors import InputError, nearest
from mblip.evaluation.benchmark import Benchmark
from mblip.evaluation.benchmarks import captions, chair, marvl, maxm, pope, vqa, xgqa, xvnli

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        xgqa.BENCHMARK,
        xvnli.BENCHMARK,
        marvl.BENCHMARK,
        maxm.BENCHMARK,
        vqa.BENCHMARK,
        pope.BENCHMARK,
        chair.BENCHMARK,
        captions.BENCHMARK,
        captions.XFLICKRCO,
        captions.XM3600,
        captions.COCO,
    )
}


def find_benchmark(name: str) -> Benchmark:
    """A benchmark by name.

    Raises:
        InputError: There is none; names the nearest.
    """
    if name not in BENCHMARKS:
        raise InputError(f"unknown benchmark {name!r}{nearest(name, BENCHMARKS)}; there are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]
