"""The server's application: routes and settings around the batcher."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import HTTPException, RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import ValidationError
from pydantic_core import from_json
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.cors import CORSMiddleware

import mblip
from mblip.errors import InputError, MblipError
from mblip.inference.notices import notice_for
from mblip.inference.predictor import Predictor
from mblip.inference.server.batching import Batcher, Busy
from mblip.inference.server.errors import CLIENT_GONE, error_response, problem
from mblip.inference.server.guard import CHAT, LOOPBACK_ORIGINS, Front, Guard, Metrics, host_name, is_loopback
from mblip.inference.server.pictures import BadPicture, RequestPictures
from mblip.inference.server.schema import MAX_IMAGES, MAX_TOKENS, ChatRequest, Completion, explain
from mblip.models.generation import Answer

_FORM = "multipart/form-data"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a server.

    Attributes:
        batch_size: Number of texts that are generated together.
        wait: Maximum seconds that a request waits for others to join its batch.
        queue: Number of texts that may wait; further requests get status 429.
        cached_images: Number of encoded images that are kept.
        max_bytes: Largest size of a request, and of a fetched picture.
        remote_images: Whether http(s) addresses of pictures are fetched.
        keys: Valid keys of clients; empty for an open server.
        host: Address or name that the server listens on.
        hosts: Host names that requests may use, besides that address and the loopback names.
        origins: Origins whose pages may use the server, besides its own and, if it listens on loopback, those of this
            machine.
    """

    batch_size: int = 32
    wait: float = 0.01
    queue: int = 256
    cached_images: int = 1024
    max_bytes: int = 20 << 20
    remote_images: bool = False
    keys: Sequence[str] = ()
    host: str = "127.0.0.1"
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()


def create_app(model: Predictor, name: str, settings: Settings | None = None) -> FastAPI:
    """The server's application.

    Args:
        model: The model that answers.
        name: Name of the model for clients.
        settings: Limits and keys.
    """
    settings = settings or Settings()
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher = Batcher(
            model.vlm, batch_size=settings.batch_size, wait=settings.wait, queue=settings.queue,
            cached_images=settings.cached_images, on_batch=metrics.batch.observe,
        )  # fmt: skip
        metrics.waiting.set_function(lambda: batcher.waiting)
        app.state.batcher = batcher
        yield
        await batcher.close()

    app = FastAPI(title="mblip", version=mblip.__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.pictures = RequestPictures(model.shrink, remote=settings.remote_images, max_bytes=settings.max_bytes)
    app.state.metrics = metrics
    app.state.notice = notice_for(model.vlm)
    own = host_name(settings.host) or settings.host
    loopback = is_loopback(own)
    # The middleware added last sees a request first.
    app.add_middleware(Guard, max_bytes=settings.max_bytes, keys=settings.keys)
    app.add_middleware(
        CORSMiddleware, allow_origins=settings.origins, allow_origin_regex=LOOPBACK_ORIGINS if loopback else None,
        allow_methods=["GET", "POST"], allow_headers=["*"], expose_headers=["Retry-After"], allow_private_network=True,
    )  # fmt: skip
    app.add_middleware(
        Front, metrics=metrics, hosts=[own, *settings.hosts], origins=settings.origins, loopback_pages=loopback
    )
    precision = model.precision
    served = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "mblip"}

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server is up, and the precision of its language model."""
        return {"status": "ok", "precision": precision}

    @app.head("/metrics", include_in_schema=False)
    @app.get("/metrics")
    async def show_metrics() -> Response:
        """Figures for Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.head("/v1/models", include_in_schema=False)
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model that is served."""
        return {"object": "list", "data": [served]}

    @app.head("/v1/models/{model_id:path}", response_model=None, include_in_schema=False)
    @app.get("/v1/models/{model_id:path}", response_model=None, responses={404: {"description": "another model"}})
    async def model_named(model_id: str) -> Response:
        """The model that is served, by its name."""
        return JSONResponse(served) if model_id == name else _no_model(model_id, name)

    @app.post(CHAT, openapi_extra=_REQUEST_BODY, response_model=None)
    async def chat(request: Request) -> Response:
        """Answer a prompt about pictures; as JSON, or as multipart with the JSON in ``request`` and the pictures."""
        return await _chat(request, model, name)

    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    return app


async def _chat(request: Request, model: Predictor, name: str) -> Response:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (_FORM, "application/json", ""):
        return error_response(415, f"the content type must be application/json or {_FORM}, not {kind[:100]!r}")
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        return error_response(415, f"the body must be sent as it is, not with Content-Encoding {coding[:100]!r}")
    sent: Any = None
    try:
        text, uploads = await _read(request, kind)
        sent = _parsed(text)
        asked = ChatRequest.model_validate(sent)
        if asked.model not in (None, name):
            return _no_model(asked.model, name)
        message = asked.messages[asked.place]
        if len(message.images) > MAX_IMAGES:
            raise InputError(f"a message may have {MAX_IMAGES} pictures, not {len(message.images)}")
        tokens = model.count_tokens(message.prompt)
        pictures = []
        for part, url in message.images.items():
            place = f"messages.{asked.place}.content.{part}"
            try:
                pictures += await request.app.state.pictures.open([url], uploads)
            except BadPicture as error:
                return error_response(400, f"{place}: {error}", param=place)
        notice = request.app.state.notice
        notices = {notice(picture) for _, picture in pictures} if notice else set()
        batcher: Batcher = request.app.state.batcher
        tokens += len(pictures) * model.vlm.container.tokens_per_image
        room = room_for_answer(model, tokens)
        limit = room if asked.asked_tokens > room else None
        completion = Completion(name, next(filter(None, notices), None))
        if asked.stream:
            pieces = batcher.stream(message.prompt, pictures, asked.generation(room), asked.n, asked.seed)
            first = await anext(pieces)  # the status must say whether the queue has room
            return StreamingResponse(
                _events(first, pieces, completion, asked, tokens, limit), media_type="text/event-stream",
                headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
            )  # fmt: skip
        answer = asyncio.ensure_future(
            batcher.answer(message.prompt, pictures, asked.generation(room), asked.n, asked.seed)
        )
        answers = await _unless_gone(request, answer)
        if answers is None:
            return Response(status_code=CLIENT_GONE)
        usage = _usage(tokens, answers, limit)
        return JSONResponse(completion.whole([a.text for a in answers], [_reason(a) for a in answers], usage))
    except ValidationError as error:
        why, place_or_none = explain(error, sent)
        return error_response(400, why, param=place_or_none)
    except InputError as error:
        return error_response(400, str(error))
    except Busy as error:
        return error_response(429, str(error), "rate_limit_exceeded", headers={"Retry-After": str(error.retry_after)})


def _parsed(text: bytes) -> Any:
    try:
        return from_json(text.removeprefix(_BYTE_ORDER_MARK))
    except ValueError as error:
        raise InputError(f"the request is not valid JSON: {error}") from error


def room_for_answer(model: Predictor, tokens: int) -> int:
    """The longest possible answer, in tokens, to a prompt of this length, pictures included.

    Raises:
        InputError: There is no room for an answer.
    """
    config = model.vlm.model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if config.is_encoder_decoder or not isinstance(positions, int):
        return MAX_TOKENS
    if positions <= tokens:
        raise InputError(
            f"the prompt and its pictures have {tokens} tokens; the language model has {positions} positions"
        )
    return min(MAX_TOKENS, positions - tokens)


async def _read(request: Request, kind: str) -> tuple[bytes, dict[str, bytes]]:
    if kind == _FORM:
        async with request.form(max_files=MAX_IMAGES, max_fields=1, max_part_size=1 << 20) as form:
            files = {key: await file.read() for key, file in form.items() if isinstance(file, UploadFile)}
            text = form.get("request")
        if not isinstance(text, str):
            raise InputError("a multipart request has its JSON in the field 'request'")
        return text.encode("utf-8", "surrogatepass"), files
    return await request.body(), {}


async def _unless_gone(request: Request, answer: asyncio.Future[list[Answer]]) -> list[Answer] | None:
    """Wait for the answer; None if the client hangs up first, which cancels the work."""
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
    asked: ChatRequest, tokens: int, limit: int | None,
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
            except (RuntimeError, ValueError, MblipError):
                yield event({"error": problem("the answer could not be finished", "internal_error")})
                return
    for index, answer in answers.items():
        yield event(completion.chunk({}, _reason(answer), index))
    if asked.stream_options and asked.stream_options.include_usage:
        yield event(completion.usage(_usage(tokens, list(answers.values()), limit)))
    yield "data: [DONE]\n\n"


def _reason(answer: Answer) -> str:
    return "stop" if answer.ended else "length"


def _usage(prompt: int, answers: Sequence[Answer], limit: int | None) -> dict[str, int]:
    made = sum(answer.tokens for answer in answers)
    usage = {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}
    return usage if limit is None else {**usage, "max_tokens_clamped_to": limit}


def _no_model(asked: str | None, name: str) -> JSONResponse:
    return error_response(404, f"there is no model {(asked or '')[:100]!r} here, only {name!r}", "model_not_found")


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    message = str(error.detail)
    if error.status_code == 404 and message == "Not Found":  # no route, as for clients of OpenAI's other APIs
        message = f"nothing is served at {request.url.path[:100]}; questions go to POST /v1/chat/completions"
    headers = dict(error.headers or {})
    if error.status_code == 405:
        allowed = error.headers and error.headers.get("Allow")
        message = f"{request.method[:20]} is not answered at {request.url.path[:100]}, only {allowed or 'others'}"
    code = "request_too_large" if error.status_code == 413 else None
    return error_response(error.status_code, message, code, headers=headers)


async def _on_invalid(_: Request, error: Exception) -> Response:
    return error_response(400, "the request is not valid")


async def _on_broken_form(_: Request, error: Exception) -> Response:  # newer versions of starlette refuse it themselves
    return error_response(400, "the multipart body is not valid")


async def _on_failure(_: Request, error: Exception) -> Response:
    # The trace is in the server's log; clients must not see internals.
    return error_response(500, "the server failed to answer", "internal_error")


_HANDLERS: dict[type[Exception], Any] = {
    StarletteHTTPException: _on_http_error,
    HTTPException: _on_http_error,
    RequestValidationError: _on_invalid,
    FormParserError: _on_broken_form,
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
