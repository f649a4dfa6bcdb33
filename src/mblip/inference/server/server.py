"""Run an application with one socket, one process and a graceful end."""

from __future__ import annotations

import resource
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn

from mblip.errors import of_system
from mblip.inference.server.connections import Connection, Limits

# Time for tasks that do not end when their client is gone.
_MERCY_SECONDS = 5
# Open files that a server needs besides its connections.
_OTHER_FILES = 256


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to an address.

    Raises:
        InputError: The address is taken, or is not one of this machine.
    """
    try:
        # The protocol number must be TCP's. Otherwise asyncio leaves Nagle's algorithm on, which costs 40 ms per
        # answer.
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise of_system(
            error,
            f"cannot listen on {host}:{port} ({error.strerror}): choose another --port or --host",
        ) from error
    return bound


def run(app: Any, bound: socket.socket, on_start: Callable[[str], None], limits: Limits | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C, then answer the started requests within a time limit.

    Args:
        app: The application from :func:`~mblip.inference.server.create_app`.
        bound: The socket, see :func:`listen`.
        on_start: Called with the address once the server answers.
        limits: Limits for clients.
    """
    limits = limits or Limits()
    _allow_files(limits.connections + _OTHER_FILES)
    host, port = bound.getsockname()[:2]
    server = server_of(app, limits, lambda: on_start(f"http://{f'[{host}]' if ':' in host else host}:{port}"))
    # uvicorn raises the signal again at the end, but stopping on request is not a failure.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[bound])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _allow_files(wanted: int) -> None:
    """Raise this process's limit of open files, as far as allowed: without one left, a server cannot even hang up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def server_of(app: Any, limits: Limits, on_start: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """A server of an application, not yet running."""
    connection: Any = partial(Connection, limits=limits, refused=app.state.metrics.refused)
    config = uvicorn.Config(
        app, http=connection, ws="none", log_level="warning", server_header=False, proxy_headers=False,
        timeout_keep_alive=limits.idle,  # type: ignore[arg-type] # seconds, may be a fraction
        timeout_graceful_shutdown=int(limits.drain) + _MERCY_SECONDS,
    )  # fmt: skip
    return _Server(config, limits.drain, on_start)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, drain: float, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._drain, self._on_start = drain, on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Closing the connections ends requests as if the clients had left. Cancelling the tasks, as uvicorn does, would
        # log a traceback for each.
        hang_up = self.servers[0].get_loop().call_later(self._drain, self._hang_up)
        await super().shutdown(sockets)
        hang_up.cancel()

    def _hang_up(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()
