"""Run a model over benchmarks' items; answers are saved as they come, so that a killed run can be continued."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from mblip.errors import InputError
from mblip.evaluation.answerers.base import Answerer, NoAnswer, OpenImage, RequestGroup
from mblip.evaluation.results import MISSING, PREDICTIONS, Missing, predictions_path, task_path
from mblip.evaluation.tasks import Task
from mblip.models.generation import Request
from mblip.progress import Progress, silent
from mblip.schema import Prediction
from mblip.storage import JsonlAppender, JsonlWriter, UnreadableImage, read_records

_ELSEWHERE = "evaluate to another folder"


class Processes(Protocol):
    """The processes that share the work, as in Accelerate's ``PartialState``."""

    process_index: int
    num_processes: int
    is_main_process: bool

    def wait_for_everyone(self) -> None:
        """Return when all processes have called it."""
        ...


def answer_tasks(
    tasks: Sequence[Task],
    answerer: Answerer,
    directory: Path,
    processes: Processes,
    protocol: str = "generation",
    progress: Progress = silent,
) -> None:
    """Answer every item of every task; existing answers are kept.

    Requests with equal decoding run together over all tasks, so an image is encoded once for all its questions in all
    languages. Several processes share the images, and the first one merges their answers. An item without an answer, or
    whose picture cannot be read, does not stop the others: it is listed with its reason in ``missing/``.

    Args:
        tasks: The tasks.
        answerer: The model.
        directory: The run directory.
        processes: The processes that share the work.
        protocol: ``generation``, or ``candidates`` to choose from each benchmark's answers.
        progress: Called with the number of this process's finished requests; the stage is empty.

    Raises:
        InputError: The directory has answers to other questions, or the model cannot answer at all.
    """
    if processes.is_main_process:
        for task in tasks:
            for path in _files(directory, task, PREDICTIONS):
                JsonlAppender(path).close()  # removes an unfinished line of a killed run
            for path in _files(directory, task, MISSING):
                path.unlink()  # these items are asked again
    processes.wait_for_everyone()
    known = [_read(directory, task) for task in tasks]
    processes.wait_for_everyone()
    groups: dict[str, list[tuple[int, Request]]] = {}
    choices = [{item.id: item.candidates for item in task.items if item.candidates} for task in tasks]
    for number, (task, requests) in enumerate(zip(tasks, _shares(tasks, processes), strict=True)):
        # Only candidates can differ between the items of a task.
        alike = (
            json.dumps(answerer.decoding(task.benchmark.decoding), sort_keys=True) if protocol != "candidates" else ""
        )
        for request in requests:
            if request.id not in known[number]:
                own = choices[number].get(request.id, task.benchmark.candidates)
                groups.setdefault(alike or json.dumps({"candidates": list(own)}), []).append((number, request))
    total = sum(map(len, groups.values()))
    with ExitStack() as stack:
        appenders: dict[Path, JsonlAppender] = {}

        def append(task: Task, kind: str, record: Any) -> None:
            path = _part(directory, task, kind, processes)
            if path not in appenders:
                appenders[path] = stack.enter_context(JsonlAppender(path))
            appenders[path].append(record)

        for done, (number, request, answer) in enumerate(_answers(tasks, groups, answerer, protocol), start=1):
            task = tasks[number]
            if isinstance(answer, NoAnswer):
                append(task, MISSING, Missing(request.id, answer.why))
            else:
                row = (request.id, task.benchmark.name, task.language, request.images, request.prompt, answer)
                append(task, PREDICTIONS, Prediction(*row))
            progress("", done, total)
    processes.wait_for_everyone()
    if processes.is_main_process:
        for task in tasks:
            _merge(directory, task)
    processes.wait_for_everyone()


def _answers(
    tasks: Sequence[Task],
    groups: dict[str, list[tuple[int, Request]]],
    answerer: Answerer,
    protocol: str,
) -> Iterator[tuple[int, Request, str | NoAnswer]]:
    """Yield the answer to every request, or the reason for none, with the number of its task."""
    stores = {id(task.pictures): task.pictures for task in tasks}
    owners: dict[str, tuple[int, Request]] = {}
    waiting: dict[str, dict[str, Request]] = {}
    for alike, requests in groups.items():
        for number, request in requests:
            # Tasks with the same store of pictures share keys, so that each picture is encoded once.
            keys = tuple(f"{id(tasks[number].pictures)}/{key}" for key in request.images)
            name = f"{number} {request.id}"
            owners[name] = (number, request)
            waiting.setdefault(alike, {})[name] = Request(name, keys, request.prompt)
    unreadable: list[str] = []

    def open_image(key: str) -> Image.Image:
        store, _, name = key.partition("/")
        try:
            return stores[int(store)].get(name)
        except UnreadableImage:
            unreadable.append(key)
            raise

    place = {name: alike for alike, requests in waiting.items() for name in requests}
    while any(waiting.values()):
        try:
            for request, answer in _ask(answerer, waiting, open_image, protocol):
                del waiting[place[request.id]][request.id]
                yield *owners[request.id], answer
        except UnreadableImage as error:
            for requests_ in waiting.values():
                for name in [name for name, request in requests_.items() if unreadable[-1] in request.images]:
                    del requests_[name]
                    yield *owners[name], NoAnswer(str(error))


def _ask(
    answerer: Answerer, waiting: Mapping[str, Mapping[str, Request]], open_image: OpenImage, protocol: str
) -> Iterator[tuple[Request, str | NoAnswer]]:
    groups = [RequestGroup(list(asked.values()), json.loads(alike)) for alike, asked in waiting.items() if asked]
    if protocol != "candidates":
        return answerer.answers(groups, open_image)
    return chain.from_iterable(
        answerer.choices(group.requests, open_image, tuple(group.decoding["candidates"])) for group in groups
    )


def _shares(tasks: Sequence[Task], processes: Processes) -> Iterator[list[Request]]:
    """This process's requests of each task: those of every n-th image, the same images in every task."""
    numbers: dict[tuple[int, tuple[str, ...]], int] = {}
    for task in tasks:
        share = []
        for item in task.items:
            image = numbers.setdefault((id(task.pictures), item.images), len(numbers))
            if image % processes.num_processes == processes.process_index:
                share.append(task.ask(item))
        yield share


def _files(directory: Path, task: Task, kind: str) -> list[Path]:
    """The files that may have answers to a task: the merged one, and those of stopped processes."""
    whole = task_path(directory, kind, task.benchmark.name, task.language)
    return [path for path in [whole, *sorted(whole.parent.glob(f"{whole.stem}.part*.jsonl"))] if path.exists()]


def _part(directory: Path, task: Task, kind: str, processes: Processes) -> Path:
    whole = task_path(directory, kind, task.benchmark.name, task.language)
    return whole if processes.num_processes == 1 else whole.with_suffix(f".part{processes.process_index}.jsonl")


def _read(directory: Path, task: Task) -> dict[str, str]:
    """The existing answers, by item."""
    asked = {item.id: task.ask(item).prompt for item in task.items}
    answers = {}
    for path in _files(directory, task, PREDICTIONS):
        for row in read_records(path, Prediction):
            if row.id not in asked and not task.without_image:
                raise InputError(f"{path} has an answer to {row.id!r}, which is not in {task.path}; {_ELSEWHERE}")
            if row.prompt != asked.get(row.id, row.prompt):
                now = asked[row.id]
                raise InputError(
                    f"{path} has an answer to {row.prompt!r}, but the prompt of {row.id!r} is now {now!r}; {_ELSEWHERE}"
                )
            answers[row.id] = row.answer
    return answers


def _merge(directory: Path, task: Task) -> None:
    """Merge all answers into one file in the order of the items, and list items without an answer in another."""
    answers = _read(directory, task)
    files = _files(directory, task, PREDICTIONS)
    whole = predictions_path(directory, task.benchmark.name, task.language)
    with JsonlWriter(whole) as writer:
        for request in map(task.ask, task.items):
            if request.id in answers:
                row = (request.id, task.benchmark.name, task.language, request.images, request.prompt)
                writer.write(Prediction(*row, answers[request.id]))
    lists = _files(directory, task, MISSING)
    reasons = {row.id: row for path in lists for row in read_records(path, Missing)}
    if reasons:
        with JsonlWriter(task_path(directory, MISSING, task.benchmark.name, task.language)) as writer:
            for item in task.items:
                if item.id in reasons:
                    writer.write(reasons[item.id])
    for path in (*files, *lists):
        if ".part" in path.name:
            path.unlink()
