"""Connections that end: time limits for what a client sends and takes, one short answer to what is no HTTP."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

LATE = "mblip.late"  # in a request's scope: its body did not come in time
_REASONS = {
    400: b"Bad Request",
    408: b"Request Timeout",
    431: b"Request Header Fields Too Large",
}
_INVALID = "this is not a valid HTTP request"


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may take.

    Attributes:
        header: Seconds until the headers of a request are here, from the connection or the request's first byte on.
        body: Seconds until its body is here; also until a client goes on reading an answer that waits for it.
        idle: Seconds that a connection is kept without a request.
        drain: Seconds that requests which were begun may still take after SIGTERM.
        connections: Connections at a time; more are hung up on.
    """

    header: float = 10.0
    body: float = 120.0
    idle: float = 30.0
    drain: float = 60.0
    connections: int = 1000


class Connection(H11Protocol):
    """uvicorn's HTTP connection with the limits that it lacks.

    uvicorn limits the time of an idle connection alone: one that sends a byte now and then lived for ever.

    Args:
        limits: Of time and number.
        refused: Told the status of each refusal that no application sees.
        **options: What uvicorn gives its protocols.
    """

    def __init__(self, *, limits: Limits, refused: Callable[[int], None], **options: Any) -> None:
        super().__init__(**options)
        self.limits, self.refused = limits, refused
        self._awaited = ""
        self._waiting: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        if len(self.connections) >= self.limits.connections:
            self.transport = cast(asyncio.Transport, transport)
            self.refused(503)
            self.transport.abort()
            return
        super().connection_made(cast(asyncio.Transport, transport))
        self._await("idle")

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        for timer in (self._waiting, self._unread):
            if timer:
                timer.cancel()
        if self.flow is not None:  # else it was hung up on at once
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """It has sent something."""
        if self.flow is None or self.transport.is_closing():
            return
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """It was answered."""
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """It reads more slowly than it is answered."""
        super().pause_writing()
        self._unread = self.loop.call_later(self.limits.body, self.transport.abort)

    def resume_writing(self) -> None:
        """It has read on."""
        super().resume_writing()
        if self._unread:
            self._unread.cancel()

    def shutdown(self) -> None:
        """Close it, if nothing is being answered."""
        try:
            super().shutdown()
        except h11.LocalProtocolError:  # something broken was being refused
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, with the status that h11 has for it, and hang up."""
        status = getattr(sys.exception(), "error_status_hint", 400)
        self._refuse(
            status if status in _REASONS else 400, _INVALID
        )  # 501 for a strange coding would look like our fault

    def _unsupported_upgrade_warning(self) -> None:
        """A client asked for another protocol: it gets HTTP, as it may, and the log no line for each."""

    def _watch(self) -> None:
        """Wait for what is still to come of a request."""
        if self.transport.is_closing():
            return
        state = self.conn.their_state
        begun = state is h11.IDLE and bool(self.conn.trailing_data[0])
        self._await("body" if state is h11.SEND_BODY else "header" if begun else "")

    def _await(self, what: str) -> None:
        if what == self._awaited:
            return
        self._awaited = what
        if self._waiting:
            self._waiting.cancel()
        self._waiting = self.loop.call_later(getattr(self.limits, what), self._late, what) if what else None

    def _late(self, what: str) -> None:
        if self.transport.is_closing():
            return
        if what == "idle":  # it was opened and never used
            self.transport.close()
            return
        if self.cycle is not None and not self.cycle.response_complete:
            # The application waits for the rest: to it, the client is gone.
            cast(dict[str, Any], self.cycle.scope)[LATE] = True
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        seconds = getattr(self.limits, what)
        self._refuse(408, f"the {what} of the request did not come within {seconds:g} s", tell=what == "header")

    def _refuse(self, status: int, message: str, tell: bool = True) -> None:
        if tell:
            self.refused(status)
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # else an answer was begun before
            problem = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
            body = json.dumps({"error": problem}).encode()
            head = f"HTTP/1.1 {status} ".encode() + _REASONS[status]
            self.transport.write(
                head + b"\r\nContent-Type: application/json\r\nConnection: close\r\n"
                b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
            )
            if self.cycle is not None:
                self.cycle.disconnected = True
        self._unread = self._unread or self.loop.call_later(self.limits.body, self.transport.abort)
        self.transport.close()
