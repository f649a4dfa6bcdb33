"""Dynamic batching: requests that arrive almost together are answered in one batch."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from mblip.errors import ResourceError
from mblip.inference.predictor import for_people
from mblip.models.generation import Answer, Generator, Request
from mblip.models.vision_llm import VisionLLM


class Busy(ResourceError):
    """The queue is full; ``retry_after`` is the number of seconds until there should be room."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"all places in the queue are taken; try again in {retry_after} s")
        self.retry_after = retry_after


NamedPictures = Sequence[tuple[str, Image.Image]]


@dataclass(eq=False, slots=True)
class QueuedRequest:
    """A prompt in the queue.

    Attributes:
        pictures: The pictures with the hash of their content, in the order in which the model sees them.
        generation: Options of generation; only jobs with equal options run together.
        seed: Seed of the sampling; a job with a seed runs alone.
        tell: Called with each piece of text, for streams.
        abandoned: Set when nobody waits for the answer any more.
    """

    prompt: str
    pictures: NamedPictures
    generation: Mapping[str, Any]
    answer: asyncio.Future[Answer]
    seed: int | None = None
    tell: Callable[[str], None] | None = None
    arrived: float = field(default_factory=time.monotonic)
    abandoned: threading.Event = field(default_factory=threading.Event)

    @property
    def alone(self) -> bool:
        """Whether it must run without others: a seed fixes the draws of a batch, and a stream has one reader."""
        return self.seed is not None or self.tell is not None

    def runs_with(self, other: QueuedRequest) -> bool:
        """Whether both may run in one batch."""
        return self is other or not (self.alone or other.alone or self.generation != other.generation)


class Batcher:
    """Answers jobs one batch at a time in a thread of its own.

    Args:
        model: The vision-LLM.
        batch_size: Maximum number of texts in a batch.
        wait: Maximum seconds that a job waits for others to join; not while the model works on other jobs.
        queue: Maximum number of waiting texts; beyond it :class:`Busy` is raised.
        cached_images: Number of encoded images that are kept, by the hash of their content.
        on_batch: Called with the size of each batch.
    """

    def __init__(
        self,
        model: VisionLLM,
        *,
        batch_size: int = 32,
        wait: float = 0.01,
        queue: int = 256,
        cached_images: int = 1024,
        on_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        self.batch_size, self.wait, self.queue, self.on_batch = batch_size, wait, queue, on_batch
        self._waiting: deque[QueuedRequest] = deque()
        self._changed = asyncio.Event()
        self._closing = False
        self._seconds = 1.0  # duration of recent batches
        self._pictures: dict[str, Image.Image] = {}
        self._generator = Generator(
            model, lambda key: self._pictures[key], batch_size=batch_size, cached_images=cached_images
        )
        self._thread = ThreadPoolExecutor(1, "mblip-model")
        self._worker = asyncio.create_task(self._work())

    @property
    def waiting(self) -> int:
        """Number of texts in the queue."""
        return len(self._waiting)

    async def answer(
        self, prompt: str, pictures: NamedPictures, generation: Mapping[str, Any], n: int, seed: int | None
    ) -> list[Answer]:
        """Answer a prompt ``n`` times.

        Cancelling removes it from the queue, or stops a batch that nobody waits for.

        Raises:
            Busy: The queue is full.
        """
        jobs = self._jobs(prompt, pictures, generation, n, seed)
        self._enter(jobs)
        try:
            return list(await asyncio.gather(*(job.answer for job in jobs)))
        finally:
            self._leave(jobs)

    async def stream(
        self, prompt: str, pictures: NamedPictures, generation: Mapping[str, Any], n: int, seed: int | None
    ) -> AsyncIterator[tuple[int, str | Answer]]:
        """Answer a prompt ``n`` times in pieces, each with the number of its answer; the complete answers come last.

        With beam search an answer is known only at the end and is one piece. Closing the iterator stops the generation.

        Raises:
            Busy: The queue is full.
        """
        in_pieces = generation["num_beams"] == 1  # else the answer comes at the end, and is batched like any other
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[tuple[int, str] | None]()

        def tell(place: int, piece: str) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, (place, piece))

        jobs = self._jobs(prompt, pictures, generation, n, seed)
        for place, job in enumerate(jobs):
            job.tell = partial(tell, place) if in_pieces else None
            job.answer.add_done_callback(lambda _: pieces.put_nowait(None))
        self._enter(jobs)
        try:
            yield 0, ""  # the queue has room
            for _ in jobs:
                while (piece := await pieces.get()) is not None:
                    yield piece
            answers = await asyncio.gather(*(job.answer for job in jobs))  # raises the jobs' errors
            for place, answer in enumerate(answers):
                if not in_pieces:
                    yield place, answer.text
                yield place, answer
        finally:
            self._leave(jobs)

    async def close(self) -> None:
        """Answer all waiting requests, then stop."""
        self._closing = True
        self._changed.set()
        await self._worker
        self._thread.shutdown()

    def _jobs(
        self, prompt: str, pictures: NamedPictures, generation: Mapping[str, Any], n: int, seed: int | None
    ) -> list[QueuedRequest]:
        loop = asyncio.get_running_loop()
        seeds = [None if seed is None else (seed + place) % 2**63 for place in range(n)]
        return [QueuedRequest(prompt, pictures, generation, loop.create_future(), one) for one in seeds]

    def _enter(self, jobs: Sequence[QueuedRequest]) -> None:
        if self._closing or len(self._waiting) + len(jobs) > self.queue:
            batches = math.ceil((len(self._waiting) + len(jobs)) / self.batch_size)
            raise Busy(max(1, math.ceil(batches * self._seconds)))
        self._waiting.extend(jobs)
        self._changed.set()

    def _leave(self, jobs: Sequence[QueuedRequest]) -> None:
        for job in jobs:
            job.abandoned.set()
            job.answer.cancel()
            if job in self._waiting:
                self._waiting.remove(job)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := await self._next():
            self.on_batch(len(batch))
            started = time.monotonic()
            outcome = await _outcome(loop.run_in_executor(self._thread, self._run, batch))
            if isinstance(outcome, BaseException) and len(batch) > 1:
                # One of them may be the cause, so each is tried alone.
                for job in batch:
                    _settle([job], await _outcome(loop.run_in_executor(self._thread, self._run, [job])))
            else:
                _settle(batch, outcome)
            self._seconds = 0.8 * self._seconds + 0.2 * (time.monotonic() - started)

    async def _next(self) -> list[QueuedRequest]:
        """The jobs of the next batch; empty after closing, when all are answered."""
        while True:
            self._changed.clear()
            if self._waiting:
                first = self._waiting[0]
                batch = [job for job in self._waiting if job.runs_with(first)][: self.batch_size]
                left = first.arrived + self.wait - time.monotonic()
                if left <= 0 or len(batch) == self.batch_size or first.alone or self._closing:
                    for job in batch:
                        self._waiting.remove(job)
                    return batch
                with suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self._changed.wait()
            elif self._closing:
                return []
            else:
                await self._changed.wait()

    def _run(self, batch: Sequence[QueuedRequest]) -> list[Answer]:
        """Answer a batch, in the model's thread."""
        first = batch[0]
        self._pictures = {key: picture for job in batch for key, picture in job.pictures}
        self._generator.generation = for_people(first.generation, {})
        if first.seed is not None:
            torch.manual_seed(first.seed)
        try:
            if first.tell is not None:
                return [self._tell(first)]
            nobody_waits = StoppingCriteriaList([_NobodyWaits(batch)])
            self._generator.generation["stopping_criteria"] = nobody_waits
            return self._generator.counted([_request(job) for job in batch])
        finally:
            self._pictures = {}

    def _tell(self, job: QueuedRequest) -> Answer:
        assert job.tell is not None
        pieces = self._generator.stream(_request(job))
        try:
            while not job.abandoned.is_set():
                job.tell(next(pieces))
        except StopIteration as whole:
            answer: Answer = whole.value
            return answer
        pieces.close()
        return Answer("", 0, False)  # nobody reads it


class _NobodyWaits(StoppingCriteria):  # type: ignore[misc]
    """Ends a batch whose jobs were all abandoned."""

    def __init__(self, batch: Sequence[QueuedRequest]) -> None:
        self.batch = batch

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        stop = all(job.abandoned.is_set() for job in self.batch)
        return torch.full((len(input_ids),), stop, dtype=torch.bool, device=input_ids.device)


def _request(job: QueuedRequest) -> Request:
    return Request("", tuple(key for key, _ in job.pictures), job.prompt)


async def _outcome(work: asyncio.Future[list[Answer]]) -> list[Answer] | BaseException:
    (outcome,) = await asyncio.gather(work, return_exceptions=True)
    return outcome


def _settle(batch: Sequence[QueuedRequest], outcome: list[Answer] | BaseException) -> None:
    for place, job in enumerate(batch):
        if job.answer.done():
            continue
        if isinstance(outcome, BaseException):
            job.answer.set_exception(outcome)
        else:
            job.answer.set_result(outcome[place])
