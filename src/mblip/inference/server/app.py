"""The application: routes, limits, keys and metrics around the batcher."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import HTTPException, RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import mblip
from mblip.errors import InputError
from mblip.inference.predictor import Predictor
from mblip.inference.server.batching import Batcher, Busy
from mblip.inference.server.pictures import Pictures
from mblip.inference.server.schema import MAX_IMAGES, ChatRequest, Completion
from mblip.models.generation import Answer

CLIENT_GONE = 499  # nobody reads it; nginx's number, for the metrics
MAX_PROMPT_TOKENS = 1024
_FORM = "multipart/form-data"


@dataclass(frozen=True, slots=True)
class Settings:
    """How a server behaves.

    Attributes:
        batch_size: Texts that are generated together.
        wait: Seconds that a request waits for company at most.
        queue: Texts that may wait; beyond them the answer is 429.
        cached_images: Encoded images that are kept.
        max_bytes: Of a request, and of a fetched picture.
        remote_images: Whether http(s) addresses of pictures are fetched.
        keys: That clients may show; none for an open server.
    """

    batch_size: int = 32
    wait: float = 0.01
    queue: int = 256
    cached_images: int = 1024
    max_bytes: int = 20 << 20
    remote_images: bool = False
    keys: Sequence[str] = ()


class _Metrics:
    """What ``/metrics`` tells."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("mblip_requests", "Chat requests", ["status"], registry=self.registry)
        self.seconds = Histogram(
            "mblip_request_seconds", "From request to whole answer", registry=self.registry,
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
        )  # fmt: skip
        self.batch = Histogram(
            "mblip_batch_size", "Texts in a batch", registry=self.registry, buckets=(1, 2, 4, 8, 16, 32, 64, 128)
        )
        self.waiting = Gauge("mblip_waiting", "Texts that wait", registry=self.registry)


def create_app(model: Predictor, name: str, settings: Settings | None = None) -> FastAPI:
    """The server's application.

    Args:
        model: Answers.
        name: What clients call it.
        settings: Limits and keys.
    """
    settings = settings or Settings()
    metrics = _Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher = Batcher(
            model, batch_size=settings.batch_size, wait=settings.wait, queue=settings.queue,
            cached_images=settings.cached_images, on_batch=metrics.batch.observe,
        )  # fmt: skip
        metrics.waiting.set_function(lambda: batcher.waiting)
        app.state.batcher = batcher
        yield
        await batcher.close()

    app = FastAPI(title="mblip", version=mblip.__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.pictures = Pictures(model.shrink, remote=settings.remote_images, max_bytes=settings.max_bytes)
    app.add_middleware(_Guard, max_bytes=settings.max_bytes, keys=settings.keys)
    precision = model.precision
    served = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "mblip"}

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server is up, and what its language model computes in."""
        return {"status": "ok", "precision": precision}

    @app.get("/metrics")
    async def show_metrics() -> Response:
        """Figures for Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model that is served."""
        return {"object": "list", "data": [served]}

    @app.get("/v1/models/{model_id:path}", response_model=None, responses={404: {"description": "another model"}})
    async def model_named(model_id: str) -> Response:
        """The model that is served, by its name."""
        return JSONResponse(served) if model_id == name else _no_model(model_id, name)

    @app.post("/v1/chat/completions", openapi_extra=_REQUEST_BODY, response_model=None)
    async def chat(request: Request) -> Response:
        """Answer a prompt about pictures; as JSON, or as multipart with the JSON in ``request`` and the pictures."""
        begun = time.monotonic()
        response = await _chat(request, model, name, metrics)
        metrics.requests.labels(str(response.status_code)).inc()
        metrics.seconds.observe(time.monotonic() - begun)
        return response

    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    return app


async def _chat(request: Request, model: Predictor, name: str, metrics: _Metrics) -> Response:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (_FORM, "application/json", ""):
        return _error(415, f"the content type must be application/json or {_FORM}, not {kind[:100]!r}")
    try:
        asked, uploads = await _read(request, kind)
        if asked.model not in (None, name):
            return _no_model(asked.model, name)
        (message,) = asked.messages
        if len(message.images) > MAX_IMAGES:
            raise InputError(f"a message may have {MAX_IMAGES} pictures, not {len(message.images)}")
        tokens = len(model.tokenizer(message.prompt)["input_ids"])
        if tokens > MAX_PROMPT_TOKENS:
            raise InputError(f"the prompt has {tokens} tokens; at most {MAX_PROMPT_TOKENS} are read")
        pictures = await request.app.state.pictures.open(message.images, uploads)
        batcher: Batcher = request.app.state.batcher
        tokens += len(pictures) * model.container.tokens_per_image
        completion = Completion(name)
        if asked.stream:
            pieces = batcher.stream(message.prompt, pictures, asked.generation(), asked.n, asked.seed)
            first = await anext(pieces)  # whether there is room is said by the status
            return StreamingResponse(
                _events(first, pieces, completion, asked, tokens), media_type="text/event-stream",
                headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
            )  # fmt: skip
        answer = asyncio.ensure_future(
            batcher.answer(message.prompt, pictures, asked.generation(), asked.n, asked.seed)
        )
        answers = await _unless_gone(request, answer)
        if answers is None:
            return Response(status_code=CLIENT_GONE)
        return JSONResponse(
            completion.whole([a.text for a in answers], [_reason(a) for a in answers], _usage(tokens, answers))
        )
    except ValidationError as error:
        first_error = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first_error["loc"])
        unknown = first_error["type"] == "extra_forbidden"
        why = "this server has no such field" if unknown else first_error["msg"].removeprefix("Value error, ")
        return _error(400, f"{place or 'the request'}: {why}", param=place or None)
    except InputError as error:
        return _error(400, str(error))
    except Busy as error:
        return _error(429, str(error), "rate_limit_exceeded", headers={"Retry-After": str(error.retry_after)})


async def _read(request: Request, kind: str) -> tuple[ChatRequest, dict[str, bytes]]:
    if kind == _FORM:
        async with request.form(max_files=MAX_IMAGES, max_fields=1, max_part_size=1 << 20) as form:
            files = {key: await file.read() for key, file in form.items() if isinstance(file, UploadFile)}
            text = form.get("request")
        if not isinstance(text, str):
            raise InputError("a multipart request has its JSON in the field 'request'")
        return ChatRequest.model_validate_json(text), files
    return ChatRequest.model_validate_json(await request.body()), {}


async def _unless_gone(request: Request, answer: asyncio.Future[list[Answer]]) -> list[Answer] | None:
    """The answer; None, and the work is called off, if the client hangs up before."""
    gone = asyncio.ensure_future(_gone(request))
    try:
        either: set[asyncio.Future[Any]] = {answer, gone}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else None
    finally:
        gone.cancel()
        answer.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(
    first: tuple[int, str | Answer], pieces: AsyncIterator[tuple[int, str | Answer]], completion: Completion,
    asked: ChatRequest, tokens: int,
) -> AsyncIterator[str]:  # fmt: skip
    def event(data: dict[str, Any]) -> str:
        return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"

    answers: dict[int, Answer] = {}
    async with aclosing(pieces):  # type: ignore[type-var]
        for index in range(asked.n):
            yield event(completion.chunk({"role": "assistant", "content": ""}, index=index))
        place, piece = first
        while True:
            if isinstance(piece, Answer):
                answers[place] = piece
            elif piece:
                yield event(completion.chunk({"content": piece}, index=place))
            try:
                place, piece = await anext(pieces)
            except StopAsyncIteration:
                break
            except (RuntimeError, ValueError, InputError):
                yield event({"error": _problem("the answer could not be finished", "internal_error")})
                return
    for index, answer in answers.items():
        yield event(completion.chunk({}, _reason(answer), index))
    if asked.stream_options and asked.stream_options.include_usage:
        yield event(completion.usage(_usage(tokens, list(answers.values()))))
    yield "data: [DONE]\n\n"


def _reason(answer: Answer) -> str:
    return "stop" if answer.ended else "length"


def _usage(prompt: int, answers: Sequence[Answer]) -> dict[str, int]:
    made = sum(answer.tokens for answer in answers)
    return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}


def _no_model(asked: str, name: str) -> JSONResponse:
    return _error(404, f"there is no model {asked!r} here, only {name!r}", "model_not_found")


def _problem(message: str, code: str | None, param: str | None = None, kind: str = "invalid_request_error") -> Any:
    return {"message": message, "type": kind, "param": param, "code": code}


def _error(
    status: int, message: str, code: str | None = None, param: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    kind = "invalid_request_error" if status < 500 else "server_error"
    # A message may quote half a character, which JSON can spell but UTF-8 cannot.
    shown = message.encode("utf-8", "replace").decode()
    return JSONResponse({"error": _problem(shown, code, param, kind)}, status, headers)


async def _on_http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    return _error(error.status_code, str(error.detail), headers=dict(error.headers or {}))


async def _on_invalid(_: Request, error: Exception) -> Response:
    return _error(400, "the request is not valid")


async def _on_failure(_: Request, error: Exception) -> Response:
    # The trace is in the server's log; a client learns nothing about the inside.
    return _error(500, "the server failed to answer", "internal_error")


_HANDLERS: dict[type[Exception], Any] = {
    StarletteHTTPException: _on_http_error,
    HTTPException: _on_http_error,
    RequestValidationError: _on_invalid,
    Exception: _on_failure,
}

_SCHEMA = ChatRequest.model_json_schema()
_REQUEST_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _SCHEMA},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["request"],
                    "properties": {"request": {"type": "string", "description": "the JSON object"}},
                    "additionalProperties": {"type": "string", "format": "binary"},
                }
            },
        },
    }
}


class _Guard:
    """Before anything is read: the key, and the size of the body, whatever its header says."""

    def __init__(self, app: ASGIApp, max_bytes: int, keys: Sequence[str]) -> None:
        self.app, self.max_bytes = app, max_bytes
        self.keys = [_digest(key) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {key.lower(): value for key, value in scope["headers"]}
        length = headers.get(b"content-length", b"0")
        if self.keys and scope["path"] != "/health" and not self._known(headers.get(b"authorization", b"")):
            refusal = _error(401, "give a valid key: Authorization: Bearer KEY", "invalid_api_key")
        elif length.isdigit() and int(length) > self.max_bytes:
            refusal = _error(413, f"the request is larger than {self.max_bytes:,} bytes", "request_too_large")
        else:
            await self._limited(scope, receive, send)
            return
        await refusal(scope, receive, send)

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.max_bytes:
                raise StarletteHTTPException(413, f"the request is larger than {self.max_bytes:,} bytes")
            return message

        await self.app(scope, counted, send)

    def _known(self, header: bytes) -> bool:
        kind, _, key = header.partition(b" ")
        shown = _digest(key.strip())
        # All are compared, each in constant time, so that the time tells nothing.
        found = [hmac.compare_digest(shown, known) for known in self.keys]
        return kind.lower() == b"bearer" and any(found)


def _digest(key: str | bytes) -> bytes:
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()
