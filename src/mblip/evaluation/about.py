"""Descriptions of benchmarks in a run's ``benchmarks.json``, so that reports need no registry.

A benchmark of another package is reported like any other, even if that package is not installed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from mblip.errors import InputError, cannot_read
from mblip.evaluation.benchmark import Benchmark
from mblip.evaluation.benchmarks import find_benchmark
from mblip.evaluation.metric import Metric, find_metric
from mblip.storage import write_json

ABOUT = "benchmarks.json"


@dataclass(frozen=True, slots=True)
class About:
    """A benchmark as a run describes it.

    Attributes:
        name: Name of the benchmark.
        metrics: The metrics in order of importance; the first one that scores have represents the benchmark.
        english: The benchmark that serves as its English part, if that is another one.
        own_language: Whether answers are in the language of the question, and not all in English.
        images: Folders below a data root (or stores) that may have its pictures.
    """

    name: str
    metrics: tuple[Metric, ...] = ()
    english: str = ""
    own_language: bool = False
    images: tuple[str, ...] = ()

    def metric(self, name: str) -> Metric:
        """A metric by name; an undeclared one is a plain number, and higher is better."""
        return find_metric(self.metrics, name)


def describe(benchmark: Benchmark) -> About:
    """The description of a benchmark that a run writes."""
    own = "{language}" in benchmark.prompt or benchmark.is_made
    return About(benchmark.name, benchmark.metrics, benchmark.english, own, benchmark.images)


def write_about(directory: Path, benchmarks: Iterable[Benchmark]) -> None:
    """Add benchmarks to ``benchmarks.json``.

    Raises:
        InputError: The file cannot be written, or the existing file is damaged.
    """
    held = _read(directory / ABOUT) | {benchmark.name: describe(benchmark) for benchmark in benchmarks}
    write_json(directory / ABOUT, [asdict(about) for about in held.values()])


def read_about(directory: Path, names: Iterable[str]) -> dict[str, About]:
    """The descriptions of a run's benchmarks, by name.

    Args:
        directory: The run directory.
        names: The benchmarks to describe. Those that an older run does not describe are looked up among the installed
            ones.

    Raises:
        InputError: The file is damaged, or an undescribed benchmark is unknown.
    """
    held = _read(directory / ABOUT)
    return {name: held.get(name) or describe(find_benchmark(name)) for name in names}


def _read(path: Path) -> dict[str, About]:
    if not path.exists():
        return {}
    try:
        found = _LIST.validate_json(path.read_bytes())
    except OSError as error:
        raise cannot_read(path, error) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{path} is damaged ({where + ': ' if where else ''}{first['msg']}); run mblip eval on its directory again"
        ) from error
    return {about.name: about for about in found}


_LIST = TypeAdapter(list[About])
