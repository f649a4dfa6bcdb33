"""Time limits for connections, and one short answer to anything that is not HTTP."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

LATE = "mblip.late"  # key in a request's scope: its body did not come in time
_REASONS = {
    400: b"Bad Request",
    408: b"Request Timeout",
    431: b"Request Header Fields Too Large",
}
_INVALID = "this is not a valid HTTP request"


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits for clients.

    Attributes:
        header: Seconds for the headers of a request, from the connection or the request's first byte on.
        body: Seconds for the body of a request, and for a client to continue reading an answer.
        idle: Seconds that a connection is kept without a request.
        drain: Seconds that started requests may still take after SIGTERM.
        connections: Maximum number of connections; further ones are closed.
    """

    header: float = 10.0
    body: float = 120.0
    idle: float = 30.0
    drain: float = 60.0
    connections: int = 1000


class Connection(H11Protocol):
    """uvicorn's HTTP connection with the limits that it lacks.

    uvicorn only limits the time of an idle connection, so one that sends a byte now and then would never end.

    Args:
        limits: Limits of time and number.
        refused: Called with the status of each refusal that no application sees.
        **options: Arguments of uvicorn's protocols.
    """

    def __init__(self, *, limits: Limits, refused: Callable[[int], None], **options: Any) -> None:
        super().__init__(**options)
        self.limits, self.refused = limits, refused
        self._awaited = ""
        self._waiting: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Handle a new connection."""
        if len(self.connections) >= self.limits.connections:
            self.transport = cast(asyncio.Transport, transport)
            self.refused(503)
            self.transport.abort()
            return
        super().connection_made(cast(asyncio.Transport, transport))
        self._await("idle")

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the end of the connection."""
        for timer in (self._waiting, self._unread):
            if timer:
                timer.cancel()
        if self.flow is not None:  # else it was closed at once
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Handle bytes from the client."""
        if self.flow is None or self.transport.is_closing():
            return
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Handle the end of an answer."""
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """Handle a client that reads more slowly than it is answered."""
        super().pause_writing()
        self._unread = self.loop.call_later(self.limits.body, self.transport.abort)

    def resume_writing(self) -> None:
        """Handle a client that has continued to read."""
        super().resume_writing()
        if self._unread:
            self._unread.cancel()

    def shutdown(self) -> None:
        """Close the connection, unless a request is being answered."""
        try:
            super().shutdown()
        except h11.LocalProtocolError:  # an invalid request was being refused
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Refuse invalid HTTP with h11's status, and close the connection."""
        status = getattr(sys.exception(), "error_status_hint", 400)
        self._refuse(
            status if status in _REASONS else 400, _INVALID
        )  # a status of 501 for an unknown coding would look like our fault

    def _unsupported_upgrade_warning(self) -> None:
        """Answer requests for another protocol with HTTP, without a log line for each."""

    def _watch(self) -> None:
        """Start the timer for the next part of a request."""
        if self.transport.is_closing():
            return
        state = self.conn.their_state
        begun = state is h11.IDLE and bool(self.conn.trailing_data[0])
        # uvicorn's own timer ends with the next byte, such as the rest of a body that was refused before all of it came.
        answered = self.cycle is None or self.cycle.response_complete
        kept = state is h11.IDLE and answered and self.timeout_keep_alive_task is None
        self._await("body" if state is h11.SEND_BODY else "header" if begun else "idle" if kept else "")

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
        if what == "idle":  # nothing was begun
            self.transport.close()
            return
        if self.cycle is not None and not self.cycle.response_complete:
            # The application waits for the body: tell it that the client is gone.
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
