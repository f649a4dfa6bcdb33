"""A model behind an OpenAI-compatible API (``/v1/chat/completions``), pictures as data URLs."""

from __future__ import annotations

import base64
import io
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from queue import Empty, SimpleQueue
from types import MappingProxyType
from typing import Any

from mblip.endpoint import Endpoint, RequestFailed
from mblip.errors import InputError, MblipError, RemoteError
from mblip.evaluation.answerers.base import NoAnswer, OpenImage, RequestGroup
from mblip.models.generation import Request
from mblip.replies import RULES, Reply, without_reasoning
from mblip.storage import UnreadableImage

KEY_VARIABLE = "OPENAI_API_KEY"
_JPEG_QUALITY = 95
# Fields that the evaluation sets itself.
_OURS = ("messages", "model", "stream", "n")
# After this many requests without an answer, the endpoint is at fault and not the items.
_SILENT = 50


class OpenAIAnswerer:
    """See :class:`~mblip.evaluation.answerers.base.Answerer`.

    Args:
        endpoint: Base address of the API.
        model: Name of the model at the endpoint.
        under_way: Number of parallel requests.
        extra_body: Additional fields of every request; a field that is None is removed.

    Raises:
        InputError: The endpoint is not an http(s) address, or a field must not be set.
    """

    kind = "openai"

    def __init__(
        self, endpoint: str, model: str, under_way: int, extra_body: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        if taken := [name for name in _OURS if name in extra_body]:
            raise InputError(f"--extra-body sets {taken[0]!r}, which the evaluation sets itself; leave it out")
        self.model = model
        self.identity: dict[str, Any] = {
            "endpoint": endpoint.rstrip("/"),
            "images": f"JPEG, quality {_JPEG_QUALITY}",
            "extra body": dict(extra_body),
            "replies": RULES,
        }
        self._endpoint = Endpoint(endpoint, KEY_VARIABLE, key_required=False)
        self._under_way = under_way
        self._extra = dict(extra_body)

    def decoding(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Greedy decoding up to the benchmark's length, unless extra fields change it; the API has no beams."""
        own = {"temperature": 0, "max_tokens": wanted["max_new_tokens"]}
        return {name: value for name, value in {**own, **self._extra}.items() if value is not None}

    def refusal(self, request: Request, open_image: OpenImage) -> str:
        """Always empty: only a request can tell."""
        return ""

    def answers(
        self, groups: Sequence[RequestGroup], open_image: OpenImage
    ) -> Iterator[tuple[Request, str | NoAnswer]]:
        """See the protocol; answers are yielded as they come, so a slow one does not delay others.

        Raises:
            InputError: The endpoint is missing, refuses all requests or fails repeatedly. Answers of running requests
                are yielded first.
        """
        jobs: SimpleQueue[tuple[Request, Mapping[str, Any]]] = SimpleQueue()
        count = 0
        for group in groups:
            for request in group.requests:
                jobs.put((request, group.decoding))
                count += 1
        found: SimpleQueue[tuple[Request, str | NoAnswer | BaseException] | None] = SimpleQueue()
        stop = threading.Event()
        # A thread asks again only when an answer has been taken, and so written: a kill loses no more than is under way.
        free = threading.Semaphore(self._under_way)
        refused: dict[int, str] = {}  # numbers of pictures that the endpoint does not take, with the reason

        def work() -> None:
            try:
                while free.acquire() and not stop.is_set():
                    request, decoding = jobs.get_nowait()
                    why = refused.get(len(request.images))
                    try:
                        answer = NoAnswer(why) if why else self._one(request, open_image, decoding)
                        found.put((request, answer))
                    except BaseException as error:
                        found.put((request, error))
                        raise
            except (Empty, MblipError):
                return
            finally:
                free.release()
                found.put(None)

        # Daemon threads, so that an interrupted evaluation does not wait for a slow endpoint.
        workers = [
            threading.Thread(target=work, daemon=True, name="mblip-ask") for _ in range(min(self._under_way, count))
        ]
        for worker in workers:
            worker.start()
        working = len(workers)
        failure: BaseException | None = None
        answered: set[int] = set()  # numbers of pictures that the endpoint has answered about
        silent: Counter[int] = Counter()
        try:
            while working:
                entry = found.get()
                if entry is None:
                    working -= 1
                    continue
                request, answer = entry
                if isinstance(answer, BaseException):
                    failure = failure or answer
                    stop.set()
                    continue
                pictures = len(request.images)
                if not isinstance(answer, NoAnswer):
                    answered.add(pictures)
                elif answer.asked and pictures not in answered:
                    silent[pictures] += 1
                    if silent[pictures] == _SILENT and pictures > 1:
                        refused[pictures] = answer.why
                    elif silent[pictures] == _SILENT:
                        stop.set()
                        failure = failure or RemoteError(
                            f"none of the first {_SILENT} requests had an answer, the last because {answer.why}; "
                            "correct that and run the same command again"
                        )
                yield request, answer
                free.release()
        finally:
            stop.set()
            free.release(len(workers))  # wakes those that wait
        if isinstance(failure, MblipError) and "the same command" not in str(failure):
            raise failure.reworded(f"{failure}; then run the same command again") from failure
        if failure:
            raise failure

    def choices(
        self, requests: Sequence[Request], open_image: OpenImage, candidates: Sequence[str]
    ) -> Iterator[tuple[Request, str]]:
        """Always raises: the API does not score given answers."""
        raise InputError(f"{self._endpoint.url} cannot score candidates, only mblip's models can; use generation")

    def _one(self, request: Request, open_image: OpenImage, decoding: Mapping[str, Any]) -> str | NoAnswer:
        try:
            urls = [_data_url(open_image(key)) for key in request.images]
        except UnreadableImage as error:
            return NoAnswer(str(error), asked=False)
        content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        content.append({"type": "text", "text": request.prompt})
        body = {"model": self.model, "messages": [{"role": "user", "content": content}], **decoding}
        try:
            reply = self._endpoint.chat(body)
        except RequestFailed as failure:
            return NoAnswer(" ".join(str(failure).split()))
        return self._answer_in(reply, decoding)

    def _answer_in(self, reply: Reply, decoding: Mapping[str, Any]) -> str | NoAnswer:
        text = reply.refusal if reply.text is None and reply.refusal else reply.text
        answer = None if text is None else without_reasoning(text)
        if answer is None or (not answer and reply.finish in ("length", "content_filter")):
            limit = decoding.get("max_tokens", decoding.get("max_completion_tokens"))
            spent = f" within {limit} tokens; turn its reasoning off, or raise the limit with --extra-body"
            said = "only reasoning" if text else "no text"
            cut = reply.finish == "length" or (text and answer is None)
            return NoAnswer(
                f"{self._endpoint.url} gave {said} (finish_reason {reply.finish or None!r}){spent if cut else ''}"
            )
        return answer


def _data_url(picture: Any) -> str:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
