"""A gate before Gradio: clients reach only the page, uploads and the page's own functions, with valid inputs.

Gradio reads and copies any file whose path is in a request, unless its own check is on. It also has a proxy, a way to
call methods of components, and links to saved states. The page needs none of that, so nothing of it is reachable: paths
that are not listed below do not exist, an upload has a name that is looked up, and every request is rebuilt from
checked values.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from typing import Any, BinaryIO

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mblip.inference.demo_sessions import Sessions
from mblip.inference.uploads import Uploads

_API = "/gradio_api"
_FILES = 16  # in one upload
_PAGES = re.compile(
    # File systems refuse longer names, and Gradio fails on them.
    r"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt|/(assets|static|svelte)(/[\w@+-][\w@.+-]{0,199}){1,6}"
    rf"|{_API}/(info/?|startup-events|app_id|theme\.css|user|login_check)"
)
_FILE = re.compile(rf"{_API}/file=(.+)", re.DOTALL)
_EVENTS = re.compile(rf"{_API}/call/(\w+)/(\w+)")
_CALL = re.compile(rf"{_API}/(call|run)/(\w+)/?")
_SESSION = re.compile(r"[\w-]{1,64}", re.ASCII)
_HEADERS = (
    b"host",
    b"accept",
    b"content-type",
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"user-agent",
    b"if-none-match",
)
# The beginnings of files in formats that every browser draws, without running code.
_DRAWN = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "png"),
    (re.compile(rb"\xff\xd8\xff"), "jpeg"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "webp"),
    (re.compile(rb"GIF8"), "gif"),
    (re.compile(rb"BM"), "bmp"),
    (re.compile(rb"....ftypavi[fs]", re.DOTALL), "avif"),
)
_BEGINNING = 16
_log = logging.getLogger(__name__)
Check = Callable[[Any], Any]


class WrongInput(Exception):
    """An invalid value for an input of the page."""


class Function:
    """A function of the page, as clients call it.

    Args:
        number: Gradio's number of the function.
        inputs: A check for each input, which returns the value to pass on or raises :class:`WrongInput`.
        queued: Whether it is called through the queue, as slow functions are.
    """

    def __init__(self, number: int, inputs: Mapping[str, Check], queued: bool = True) -> None:
        self.number, self.inputs, self.queued = number, inputs, queued

    def checked(self, data: Any) -> list[Any]:
        """The checked inputs."""
        if not isinstance(data, list) or len(data) != len(self.inputs):
            raise WrongInput(f"data must be a list of {len(self.inputs)}: {', '.join(self.inputs)}")
        found = []
        for (name, check), value in zip(self.inputs.items(), data, strict=True):
            try:
                found.append(check(value))
            except WrongInput as error:
                raise WrongInput(f"{name}: {error}") from error
        return found


class _Opened(Response):
    """A response with an open file; ranges are not supported."""

    def __init__(self, file: BinaryIO, headers: Mapping[str, str], kind: str) -> None:
        size = os.fstat(file.fileno()).st_size
        super().__init__(None, headers={**headers, "Content-Length": str(size)}, media_type=kind)
        self.file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.file:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while piece := await asyncio.to_thread(self.file.read, 1 << 18):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


class Gate:
    """An ASGI application in front of Gradio's.

    Args:
        app: Gradio's application.
        uploads: The files that clients may name.
        functions: The page's functions by name.
        sessions: The visitors for whom messages are kept.
        preview: Makes a JPEG of a picture in another format; returns None for a file that is no picture.
    """

    def __init__(
        self,
        app: ASGIApp,
        uploads: Uploads,
        functions: Mapping[str, Function],
        sessions: Sessions,
        preview: Callable[[BinaryIO], Awaitable[bytes | None]],
    ) -> None:
        self.app, self.uploads, self.functions, self.sessions = app, uploads, functions, sessions
        self.preview = preview
        self._listening: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            return
        path, request = scope["path"], Request(scope, receive)
        if scope["method"] in ("GET", "HEAD"):
            named, events = _FILE.fullmatch(path), _EVENTS.fullmatch(path)
            if _PAGES.fullmatch(path):
                await self._pass(scope, receive, send)
            elif named:
                await (await self._file(named[1]))(scope, receive, send)
            elif events and events[1] in self.functions:
                await self._listen(events[2], b"", scope, receive, send)
            elif path == f"{_API}/queue/data":
                session = request.query_params.get("session_hash", "")
                await self._listen(session, f"session_hash={session}".encode(), scope, receive, send)
            else:
                await _refusal(404, "there is no such page")(scope, receive, send)
        elif scope["method"] == "POST" and path == f"{_API}/upload":
            await (await self._upload(request))(scope, receive, send)
        elif scope["method"] == "POST" and (path == f"{_API}/queue/join" or _CALL.fullmatch(path)):
            await self._call(request, send)
        else:
            await _refusal(404, "there is no such page")(scope, receive, send)

    async def _file(self, name: str) -> Response:
        # Opened at once, so that it is sent completely even if newer uploads push it out.
        opened = self.uploads.open(name)
        if opened is None:
            return _refusal(404, "there is no such upload")
        headers = {
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "sandbox",
            "Cache-Control": "private",
        }
        with ExitStack() as stack:
            file = stack.enter_context(opened)
            beginning = file.read(_BEGINNING)
            file.seek(0)
            kind = next((kind for begins, kind in _DRAWN if begins.match(beginning)), "")
            if not kind and (preview := await self.preview(file)):  # such as TIFF
                return Response(preview, headers=headers, media_type="image/jpeg")
            file.seek(0)
            stack.pop_all()  # the response closes it
        if not kind:  # an uploaded page or script must not run under our origin
            headers["Content-Disposition"] = "attachment"
        return _Opened(file, headers, f"image/{kind}" if kind else "application/octet-stream")

    async def _upload(self, request: Request) -> Response:
        try:
            async with request.form(max_files=_FILES, max_fields=_FILES) as form:
                files = [file for _, file in form.multi_items() if isinstance(file, UploadFile)]
                names = [self.uploads.add(file.filename or "", await file.read()) for file in files]
        except MultiPartException as error:
            return _refusal(400, error.message)
        except HTTPException as error:
            return _refusal(error.status_code, str(error.detail))
        except OSError as error:
            _log.warning("an upload could not be kept: %s", error.strerror)
            return _refusal(413, "there is no room for the upload")
        return JSONResponse(names) if names else _refusal(400, "the upload has no file")

    async def _call(self, request: Request, send: Send) -> None:
        try:
            path, body = self._written_anew(request, await _json(request))
        except WrongInput as error:
            await _refusal(400, str(error))(request.scope, request.receive, send)
            return
        if not self.sessions.make_room(self._listening):
            await _refusal(429, "too many questions are being answered; try again in a minute")(
                request.scope, request.receive, send
            )
            return
        sent = json.dumps(body).encode()
        scope = {**request.scope, "path": path, "raw_path": path.encode(), "query_string": b""}
        length = (b"content-length", str(len(sent)).encode())
        scope["headers"] = [length, (b"content-type", b"application/json"), *_kept(scope, but=b"content-type")]
        given = False

        async def receive() -> Message:
            nonlocal given
            if given:
                return await request.receive()
            given = True
            return {"type": "http.request", "body": sent, "more_body": False}

        await self._pass(scope, receive, send)

    def _written_anew(self, request: Request, body: Any) -> tuple[str, dict[str, Any]]:
        if not isinstance(body, dict):
            raise WrongInput("the body must be a JSON object")
        path, session = request.scope["path"], body.get("session_hash")
        call = _CALL.fullmatch(path)
        number, name = body.get("fn_index"), call[2] if call else None
        if call is None or name not in self.functions:  # the page also uses run/predict
            name = next(
                (key for key, one in self.functions.items() if type(number) is int and one.number == number), None
            )
        function = self.functions.get(name or "")
        if name is None or function is None or function.queued is (call is not None and call[1] == "run"):
            raise WrongInput("there is no such function")
        data = function.checked(body.get("data"))
        if call and call[1] == "call":
            return f"{_API}/call/{name}", {"data": data}
        if not isinstance(session, str) or not _SESSION.fullmatch(session):
            raise WrongInput("session_hash: write up to 64 letters and digits")
        written = {"data": data, "fn_index": function.number, "session_hash": session}
        trigger = body.get("trigger_id")
        if type(trigger) is int and abs(trigger) < 1 << 31:
            written["trigger_id"] = trigger
        return f"{_API}/run/{name}" if call else path, written

    async def _listen(self, name: str, query: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        if not _SESSION.fullmatch(name) or not self.sessions.waits(name):
            await _refusal(404, "there is no such session")(scope, receive, send)
        elif name in self._listening:
            await _refusal(409, "another client listens to this page already")(scope, receive, send)
        else:
            self._listening.add(name)
            try:
                await self._pass({**scope, "query_string": query}, receive, send)
            finally:
                self._listening.discard(name)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to Gradio with the headers it needs, and hide our folder in the answer."""
        gone = rewritten = False

        async def noted() -> Message:
            nonlocal gone
            message = await receive()
            gone = gone or message["type"] == "http.disconnect"
            return message

        async def hidden(message: Message) -> None:
            nonlocal rewritten
            if message["type"] == "http.response.start":
                headers = message.get("headers", [])
                kind = dict(headers).get(b"content-type", b"")
                rewritten = kind.startswith((b"application/json", b"text/html", b"text/event-stream", b"text/plain"))
                if rewritten:
                    message = {**message, "headers": [pair for pair in headers if pair[0] != b"content-length"]}
            elif rewritten:
                message = {**message, "body": self.uploads.hide(message.get("body", b""))}
            await send(message)

        query = scope["query_string"] if scope["path"] == f"{_API}/queue/data" else b""
        try:
            await self.app({**scope, "headers": _kept(scope), "query_string": query}, noted, hidden)
        except (ClientDisconnect, asyncio.CancelledError):
            raise
        except Exception as error:
            if gone:
                _log.warning("Gradio failed after its client had left: %s", type(error).__name__)
                return
            raise


def one_of(*values: Any) -> Check:
    """A check that a value is one of these."""

    def check(value: Any) -> Any:
        if not isinstance(value, str) or value not in values:
            raise WrongInput("not one of the choices")
        return value

    return check


def some_of(*values: str) -> Check:
    """A check that a value is a list of these, each once at most."""
    one = one_of(*values)

    def check(value: Any) -> Any:
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > len(values) or len(value) != len({str(item) for item in value}):
            raise WrongInput("write a list of choices, each once")
        return [one(item) for item in value]

    return check


def number(least: float, most: float, whole: bool = False) -> Check:
    """A check that a value is a number in a range."""

    def check(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise WrongInput("write a number")
        if not least <= value <= most or (whole and value != int(value)):
            raise WrongInput(f"write a {'whole ' if whole else ''}number from {least:g} to {most:g}")
        return int(value) if whole else float(value)

    return check


def text(most: int) -> Check:
    """A check that a value is a text of at most ``most`` characters."""

    def check(value: Any) -> Any:
        if not isinstance(value, str) or len(value) > most:
            raise WrongInput(f"write a text of at most {most:,} characters")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise WrongInput("contains half of a surrogate pair, which is not a character") from error
        return value

    return check


def upload(uploads: Uploads) -> Check:
    """A check that a value names an upload; returns Gradio's form of a file, with nothing else from the client."""

    def check(value: Any) -> Any:
        if value is None:
            return None
        path = uploads.find(value.get("path")) if isinstance(value, dict) else None
        if path is None:
            raise WrongInput("not a recently uploaded picture; upload it (again)")
        return {"path": str(path), "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}

    return check


async def _json(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise WrongInput("the body is not valid JSON") from error


def _kept(scope: Scope, but: bytes = b"") -> list[tuple[bytes, bytes]]:
    # No Accept-Encoding, because compressed answers cannot be searched. No Origin: it was checked, and Gradio would
    # open CORS.
    return [(key, value) for key, value in scope["headers"] if key in (*_HEADERS, b"content-length") and key != but]


def _refusal(status: int, why: str) -> Response:
    # Gradio's clients read "detail", ours read "error".
    return JSONResponse({"detail": why, "error": {"message": why, "type": "invalid_request_error"}}, status)
