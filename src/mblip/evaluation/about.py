"""What a reader of scores must know of a benchmark, in the run's ``benchmarks.json``: no registry is asked for it.

So a benchmark of another package is reported like any other, also where that package is not installed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from mblip.errors import InputError, of_system
from mblip.evaluation.benchmark import Benchmark
from mblip.evaluation.benchmarks import find_benchmark
from mblip.evaluation.metric import Metric, find_metric
from mblip.storage import write_json

ABOUT = "benchmarks.json"


@dataclass(frozen=True, slots=True)
class About:
    """A benchmark as a run has written it down.

    Attributes:
        name: Of the benchmark.
        metrics: In the order of importance: the first that scores have stands for the benchmark.
        english: The benchmark that stands for its English, where that is another one.
        own_language: Whether answers are in the language of the question; otherwise all are in English.
        images: Folders below a data root (or stores) that its pictures may be in.
    """

    name: str
    metrics: tuple[Metric, ...] = ()
    english: str = ""
    own_language: bool = False
    images: tuple[str, ...] = ()

    def metric(self, name: str) -> Metric:
        """A metric by name; one that was not declared is a plain number of which more is better."""
        return find_metric(self.metrics, name)


def describe(benchmark: Benchmark) -> About:
    """What a run writes of a benchmark."""
    own = "{language}" in benchmark.prompt or benchmark.is_made
    return About(benchmark.name, benchmark.metrics, benchmark.english, own, benchmark.images)


def write_about(directory: Path, benchmarks: Iterable[Benchmark]) -> None:
    """Add benchmarks to ``benchmarks.json``.

    Raises:
        InputError: It cannot be written, or what is there is damaged.
    """
    held = _read(directory / ABOUT) | {benchmark.name: describe(benchmark) for benchmark in benchmarks}
    write_json(directory / ABOUT, [asdict(about) for about in held.values()])


def read_about(directory: Path, names: Iterable[str]) -> dict[str, About]:
    """What a run says of its benchmarks, by name.

    Args:
        directory: Of the run.
        names: Benchmarks that are wanted; those that the run does not describe, since it is older than that file, are
            looked for among the benchmarks at hand.

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
        raise of_system(error, f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{path} is damaged ({where + ': ' if where else ''}{first['msg']}); run mblip eval on its directory again"
        ) from error
    return {about.name: about for about in found}


_LIST = TypeAdapter(list[About])
