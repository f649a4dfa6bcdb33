"""The files of ``mblip eval``, and how to read them.

A run directory has

``run.json``
The model and the settings behind all files in the directory: a :class:`Run`.
``predictions/<benchmark>-<language>.jsonl``
The answers, :class:`mblip.schema.Prediction` lines, in the order of the benchmark's items once it is finished.
``missing/<benchmark>-<language>.jsonl``
    The items without an answer, with reasons: :class:`Missing` lines. Only written if there are any.
``items/<benchmark>-<language>.jsonl``
    The question and the score of each item: :class:`ItemScore` lines, in the same order. Paired tests between two runs
    and samples need nothing else.
``scores.json``
    A list of :class:`mblip.schema.Score`, one per benchmark and language, in the order of evaluation.
``benchmarks.json``
    Descriptions of the benchmarks, such as the units of their metrics: :class:`mblip.evaluation.about.About` objects.

``<language>`` is the mC4 code.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from mblip.errors import InputError, cannot_read
from mblip.more_languages import add_languages
from mblip.schema import Prediction, Score
from mblip.storage import JsonlWriter, parse_record, read_records, write_json

T = TypeVar("T")

FORMAT = 2
READ = (1, 2)  # format 1 does not record everything that decides an answer, so such a run is not continued
RUN, SCORES, PREDICTIONS, ITEMS, MISSING = "run.json", "scores.json", "predictions", "items", "missing"


@dataclass(frozen=True, slots=True)
class Run:
    """The model and settings of a run directory.

    Attributes:
        model: Name of the model on the command line.
        kind: ``mblip``, ``huggingface``, ``openai``, ``predictions`` or ``dummy``.
        identity: Everything besides the decoding that decides the model's answers: hashes of weights, configuration,
            tokeniser, processor and chat template, revision, endpoint, precision.
        protocol: See :class:`mblip.schema.Score`.
        prompts: ``paper``, ``original``, ``finetuned`` or the path of a file of prompts.
        limit: Number of images that were used of each benchmark; None for all.
        format: Version of the directory's format.
        decoding: The effective settings of generation, or the candidates, by benchmark.
        sets: ``official`` or ``paper``, see :mod:`mblip.evaluation.sets`.
        pictures: ``correct``, or ``original`` for pictures as they are stored.
        more_languages: Languages beyond the 96 that were registered when the run started.
    """

    model: str
    kind: str
    identity: dict[str, Any]
    protocol: str = "generation"
    prompts: str = "paper"
    limit: int | None = None
    format: int = FORMAT
    decoding: dict[str, Any] = field(default_factory=dict)
    sets: str = "official"
    pictures: str = "correct"
    more_languages: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Missing:
    """An item without an answer, and why."""

    id: str
    why: str


@dataclass(frozen=True, slots=True)
class ItemScore:
    """One item of a benchmark and the values of its answer.

    Attributes:
        id: The benchmark's own identifier.
        images: Keys of its pictures, by which intervals are clustered.
        text: The question or statement; empty for captions.
        gold: The reference answers or captions.
        values: Values of all metrics that are means over items, as fractions.
    """

    id: str
    images: tuple[str, ...]
    text: str
    gold: tuple[str, ...]
    values: dict[str, float]


def task_path(directory: Path, kind: str, benchmark: str, language: str) -> Path:
    """The file of a kind (``predictions``, ``missing``, ``items``) for a benchmark in a language."""
    return directory / kind / f"{benchmark}-{language}.jsonl"


def predictions_path(directory: Path, benchmark: str, language: str) -> Path:
    """The file of the answers to a benchmark in a language."""
    return task_path(directory, PREDICTIONS, benchmark, language)


def items_path(directory: Path, benchmark: str, language: str) -> Path:
    """The file of the items of a benchmark in a language."""
    return task_path(directory, ITEMS, benchmark, language)


def read_run(directory: Path) -> Run:
    """Read the description of a run directory.

    Raises:
        InputError: ``mblip eval`` did not make the directory, or it has another format.
    """
    path = directory / RUN
    run = parse_record(Run, _read_json(path, dict), str(path))
    if run.format not in READ:
        raise InputError(f"{path} has format {run.format}; this version reads {FORMAT}: evaluate again")
    add_languages(run.more_languages, str(path))
    return run


def read_scores(directory: Path) -> list[Score]:
    """The scores of a directory.

    Raises:
        InputError: There are no scores, or the file is damaged.
    """
    path = directory / SCORES
    rows = _read_json(path, list)
    scores = [parse_record(Score, row, f"{path}, record {number}") for number, row in enumerate(rows, start=1)]
    for number, score in enumerate(scores, start=1):
        if any(len(pair) != 2 for pair in score.ci95.values()):
            raise InputError(f"{path}, record {number}: ci95 must be a lower and an upper bound; run mblip eval again")
        score.ci95 = {name: (low, high) for name, (low, high) in score.ci95.items()}
    return scores


def read_items(directory: Path, benchmark: str, language: str) -> list[ItemScore]:
    """The items of a benchmark in a language with their values.

    Raises:
        InputError: The file is missing or damaged.
    """
    return _read_records(items_path(directory, benchmark, language), ItemScore)


def read_missing(directory: Path, benchmark: str, language: str) -> dict[str, str]:
    """The reasons of items without an answer in a benchmark and language, by item; empty if all have one.

    Raises:
        InputError: The file is damaged.
    """
    path = task_path(directory, MISSING, benchmark, language)
    return {row.id: row.why for row in _read_records(path, Missing)} if path.exists() else {}


def read_predictions(directory: Path, benchmark: str, language: str) -> dict[str, Prediction]:
    """The answers to a benchmark in a language, by item.

    Raises:
        InputError: The file is missing or damaged.
    """
    rows = _read_records(predictions_path(directory, benchmark, language), Prediction)
    return {row.id: row for row in rows}


def write_run(directory: Path, run: Run) -> None:
    """Write ``run.json``.

    Raises:
        InputError: It cannot be written.
    """
    write_json(directory / RUN, asdict(run))


def write_scores(directory: Path, scores: Sequence[Score]) -> None:
    """Write ``scores.json``.

    Raises:
        InputError: It cannot be written.
    """
    write_json(directory / SCORES, [asdict(score) for score in scores])


def write_items(directory: Path, benchmark: str, language: str, items: Iterable[ItemScore]) -> None:
    """Write the items of a benchmark in a language.

    Raises:
        InputError: They cannot be written.
    """
    with JsonlWriter(items_path(directory, benchmark, language)) as writer:
        for item in items:
            writer.write(item)


def _read_records(path: Path, kind: type[T]) -> list[T]:
    try:
        return list(read_records(path, kind))
    except InputError as error:
        remedy = "delete that line and run" if path.exists() else "run"
        raise InputError(f"{error}; {remedy} mblip eval on its directory again, which makes what is missing") from error


def _read_json(path: Path, kind: type) -> Any:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise InputError(
                f"cannot read {path}: {error.strerror}; name a directory that mblip eval has written"
            ) from error
        raise cannot_read(path, error) from error
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); run mblip eval on its directory again") from error
    if not isinstance(data, kind):
        raise InputError(f"{path} is not what mblip eval writes; run it again")
    return data
