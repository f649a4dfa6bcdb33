"""Runs a model over benchmarks' items; answers go to files as they come, so that a killed run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from mblip.errors import InputError
from mblip.evaluation.answerers.base import Answerer, NoAnswer
from mblip.evaluation.benchmarks.scenes import GENERATION, NAME, SceneItem
from mblip.evaluation.results import predictions_path
from mblip.evaluation.tasks import Task
from mblip.models.generation import Generator, Request
from mblip.models.vision_llm import VisionLLM
from mblip.schema import Prediction
from mblip.storage import ImageStore, JsonlAppender, JsonlWriter, UnreadableImage, read_records

Progress = Callable[[int, int], None]
_ELSEWHERE = "evaluate to another folder"


class Processes(Protocol):
    """The processes that share the work, as Accelerate's ``PartialState`` has them."""

    process_index: int
    num_processes: int
    is_main_process: bool

    def wait_for_everyone(self) -> None:
        """Return when all have come here."""
        ...


def answer_tasks(
    tasks: Sequence[Task],
    answerer: Answerer,
    directory: Path,
    processes: Processes,
    protocol: str = "generation",
    allow_missing: bool = False,
    progress: Progress = lambda done, total: None,
) -> None:
    """Answer every item of every task; what is answered already is kept.

    Requests of all tasks that are decoded alike run together, so that an image is encoded once for all its questions in
    all languages. Several processes share the images, and the first of them puts their answers together.

    Args:
        tasks: What is asked.
        answerer: Who.
        directory: The run directory.
        processes: Who else works on it.
        protocol: ``generation``, or ``candidates`` to choose from each benchmark's answers.
        allow_missing: Leave items out whose picture proves unreadable or that the model says nothing to; else it is an
            error.
        progress: Told how many of this process's requests are answered, and of how many.

    Raises:
        InputError: The directory holds answers to something else, a picture cannot be read, or the model gave no text.
    """
    if processes.is_main_process:
        for task in tasks:
            for path in _files(directory, task):
                JsonlAppender(path).close()  # removes a line that a killed run left unfinished
    processes.wait_for_everyone()
    known = [_read(directory, task) for task in tasks]
    processes.wait_for_everyone()
    groups: dict[str, list[tuple[int, Request]]] = {}
    for number, (task, requests) in enumerate(zip(tasks, _shares(tasks, processes), strict=True)):
        for request in requests:
            if request.id not in known[number]:
                groups.setdefault(_alike(task, answerer, protocol), []).append((number, request))
    total = sum(map(len, groups.values()))
    done = 0
    with ExitStack() as stack:
        files = {number: JsonlAppender(_part(directory, tasks[number], processes)) for number in _numbers(groups)}
        for file in files.values():
            stack.enter_context(file)
        for alike, waiting in groups.items():
            for number, request, answer in _answers(
                tasks, waiting, answerer, json.loads(alike), protocol, allow_missing
            ):
                task = tasks[number]
                files[number].append(
                    Prediction(request.id, task.benchmark.name, task.language, request.images, request.prompt, answer)
                )
                done += 1
                progress(done, total)
    processes.wait_for_everyone()
    if processes.is_main_process:
        for task in tasks:
            _merge(directory, task)
    processes.wait_for_everyone()


def _answers(
    tasks: Sequence[Task],
    waiting: Sequence[tuple[int, Request]],
    answerer: Answerer,
    how: dict[str, Any],
    protocol: str,
    allow_missing: bool,
) -> Iterator[tuple[int, Request, str]]:
    """The answers to requests that are decoded alike, with the number of their task."""
    stores = {id(task.pictures): task.pictures for task in tasks}
    asked = {}
    for number, request in waiting:
        # Tasks that share their pictures share the keys of them, so that each is encoded once.
        keys = tuple(f"{id(tasks[number].pictures)}/{key}" for key in request.images)
        asked[f"{number} {request.id}"] = (number, request, Request(f"{number} {request.id}", keys, request.prompt))
    unreadable: list[str] = []

    def open_image(key: str) -> Image.Image:
        store, _, name = key.partition("/")
        try:
            return stores[int(store)].get(name)
        except UnreadableImage:
            unreadable.append(key)
            raise

    while asked:
        requests = [request for _, _, request in asked.values()]
        try:
            answers = (
                answerer.choices(requests, open_image, tuple(how["candidates"]))
                if protocol == "candidates"
                else answerer.answers(requests, open_image, how)
            )
            for request, answer in answers:
                number, own, _ = asked.pop(request.id)
                if isinstance(answer, NoAnswer):
                    if not allow_missing:
                        raise InputError(
                            f"{tasks[number].name}, item {own.id!r}: {answer.why}; the same command asks again, and "
                            "--allow-missing leaves such items out, counted"
                        )
                    continue
                yield number, own, answer
        except UnreadableImage:
            if not allow_missing:
                raise
            asked = {name: found for name, found in asked.items() if unreadable[-1] not in found[2].images}


def _alike(task: Task, answerer: Answerer, protocol: str) -> str:
    """What requests must have in common to run together."""
    if protocol == "candidates":
        return json.dumps({"candidates": task.benchmark.candidates})
    return json.dumps(answerer.decoding(task.benchmark.decoding), sort_keys=True)


def _shares(tasks: Sequence[Task], processes: Processes) -> Iterator[list[Request]]:
    """This process's requests of each task: those of every n-th image, the same image in every task."""
    numbers: dict[tuple[int, tuple[str, ...]], int] = {}
    for task in tasks:
        share = []
        for item in task.items:
            image = numbers.setdefault((id(task.pictures), item.images), len(numbers))
            if image % processes.num_processes == processes.process_index:
                share.append(task.ask(item))
        yield share


def _numbers(groups: dict[str, list[tuple[int, Request]]]) -> list[int]:
    return sorted({number for waiting in groups.values() for number, _ in waiting})


def _files(directory: Path, task: Task) -> list[Path]:
    """The files that may hold answers to a task: the whole one, and those of processes that were stopped."""
    whole = predictions_path(directory, task.benchmark.name, task.language)
    return [path for path in [whole, *sorted(whole.parent.glob(f"{whole.stem}.part*.jsonl"))] if path.exists()]


def _part(directory: Path, task: Task, processes: Processes) -> Path:
    whole = predictions_path(directory, task.benchmark.name, task.language)
    return whole if processes.num_processes == 1 else whole.with_suffix(f".part{processes.process_index}.jsonl")


def _read(directory: Path, task: Task) -> dict[str, str]:
    """The answers at hand, by item."""
    asked = {item.id: task.ask(item).prompt for item in task.items}
    answers = {}
    for path in _files(directory, task):
        for row in read_records(path, Prediction):
            if row.id not in asked and not task.without_image:
                raise InputError(f"{path} answers {row.id!r}, which {task.path} does not ask; {_ELSEWHERE}")
            if row.prompt != asked.get(row.id, row.prompt):
                now = asked[row.id]
                raise InputError(f"{path} answers {row.prompt!r} where {row.id!r} now asks {now!r}; {_ELSEWHERE}")
            answers[row.id] = row.answer
    return answers


def _merge(directory: Path, task: Task) -> None:
    """Put all answers into one file, in the order of the items."""
    answers = _read(directory, task)
    files = _files(directory, task)
    whole = predictions_path(directory, task.benchmark.name, task.language)
    with JsonlWriter(whole) as writer:
        for request in map(task.ask, task.items):
            if request.id in answers:
                row = (request.id, task.benchmark.name, task.language, request.images, request.prompt)
                writer.write(Prediction(*row, answers[request.id]))
    for path in files:
        if path != whole:
            path.unlink()


def run_scenes(
    vlm: VisionLLM,
    items: Sequence[SceneItem],
    store: ImageStore,
    predictions: Path,
    batch: int = 256,
    progress: Progress = lambda done, total: None,
) -> dict[str, str]:
    """Answer every item about a scene; returns item id -> answer."""
    answers: dict[str, str] = {}
    if predictions.exists():
        JsonlAppender(predictions).close()  # removes a line that a killed run left unfinished
        answers = {row.id: row.answer for row in read_records(predictions, Prediction)}
    waiting = {item.id: item for item in items if item.id not in answers}
    generator = Generator(vlm, store.get, batch_size=batch, **GENERATION)
    # A batch takes as many steps as its longest answer: names, in two, do not wait for lists.
    by_task: dict[str, list[Request]] = {}
    for item in waiting.values():
        by_task.setdefault(item.task, []).append(Request(item.id, (item.image,), item.prompt))
    found = chain.from_iterable(generator.answers(requests) for requests in by_task.values())
    with JsonlAppender(predictions) as appender:
        for done, (request, answer) in enumerate(found, start=1):
            language = waiting[request.id].language
            appender.append(Prediction(request.id, NAME, language, request.images, request.prompt, answer))
            answers[request.id] = answer
            progress(done, len(waiting))
    return {item.id: answers[item.id] for item in items}
