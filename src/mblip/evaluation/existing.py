"""Evaluate existing answers like a model: a file of one benchmark in one language, or a folder of such files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mblip.errors import InputError
from mblip.evaluation.json_files import TABLES
from mblip.evaluation.predictions import Matched, match_answers, read_answers
from mblip.evaluation.results import PREDICTIONS, predictions_path
from mblip.evaluation.tasks import Task
from mblip.schema import Prediction
from mblip.storage import JsonlWriter


def is_predictions(name: str) -> bool:
    """Whether a name on the command line means predictions, and not a model."""
    path = Path(name)
    if path.is_dir():
        if any((path / file).exists() for file in ("config.json", "mblip.json")):
            return False
        is_training = (path / "recipe.yaml").is_file()  # an unfinished one, with its logs
        if is_training and not (path / PREDICTIONS).is_dir():
            return False
        return any(file.suffix.lower() in TABLES for folder in (path, path / PREDICTIONS) for file in folder.glob("*"))
    return path.suffix.lower() in TABLES and path.is_file()


def find_answers(tasks: Sequence[Task], source: Path, allow_missing: bool) -> list[tuple[Path, Matched]]:
    """Find the file of each task, and its answers by item.

    Raises:
        InputError: A file is missing, cannot be read or does not fit its benchmark.
    """
    found = []
    for task in tasks:
        path = _file_of(task, source, len(tasks) == 1)
        answers = read_answers(path, task.benchmark, task.language)
        found.append((path, match_answers(task.items, answers, task.benchmark, task.path, path, allow_missing)))
    return found


def keep_answers(directory: Path, task: Task, answers: Mapping[str, str]) -> None:
    """Write answers in the layout of a run, for reports and samples."""
    name, language = task.benchmark.name, task.language
    with JsonlWriter(predictions_path(directory, name, language)) as writer:
        for item in task.items:
            if item.id in answers:
                writer.write(Prediction(item.id, name, language, item.images, "", answers[item.id]))


def _file_of(task: Task, source: Path, alone: bool) -> Path:
    if source.is_file():
        if not alone:
            raise InputError(
                f"{source} is one file; give a folder of BENCHMARK-LANGUAGE.jsonl files, or one benchmark in one "
                "language"
            )
        return source
    name = f"{task.benchmark.name}-{task.language}"
    for folder in (source / PREDICTIONS, source):
        for ending in TABLES:
            if (folder / f"{name}{ending}").is_file():
                return folder / f"{name}{ending}"
    raise InputError(
        f"{source} has no predictions for {task.name}; it needs a file {name}.jsonl (or {', '.join(TABLES[1:])})"
    )
