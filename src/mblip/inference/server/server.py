"""Running an application: one socket, one process, a graceful end."""

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

# For a task that does not end when its client is gone.
_MERCY_SECONDS = 5
# Files that a server needs beside its connections.
_OTHER_FILES = 256


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to an address.

    Raises:
        InputError: It is taken, or none of this machine's.
    """
    try:
        # The protocol is TCP by number: asyncio else leaves Nagle's algorithm on, 40 ms an answer on kept connections.
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
    """Serve until SIGTERM or Ctrl-C; requests that were begun are then answered, within a limit, before this returns.

    Args:
        app: Made by :func:`~mblip.inference.server.create_app`.
        bound: See :func:`listen`.
        on_start: Told the address once it answers.
        limits: What clients may take.
    """
    limits = limits or Limits()
    _allow_files(limits.connections + _OTHER_FILES)
    host, port = bound.getsockname()[:2]
    server = server_of(app, limits, lambda: on_start(f"http://{f'[{host}]' if ':' in host else host}:{port}"))
    # uvicorn raises the signal again when it is done; the end of a server that was told to stop is no failure.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[bound])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _allow_files(wanted: int) -> None:
    """Let this process open as many files, as far as it may: a server without one left cannot even hang up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def server_of(app: Any, limits: Limits, on_start: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """A server of an application, not yet running."""
    connection: Any = partial(Connection, limits=limits, refused=app.state.metrics.refused)
    config = uvicorn.Config(
        app, http=connection, ws="none", log_level="warning", server_header=False, proxy_headers=False,
        timeout_keep_alive=limits.idle,  # type: ignore[arg-type] # a number of seconds, whole or not
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
        # To hang up on clients ends their requests as if they had left; to cancel the tasks, as uvicorn does, ends in a
        # traceback for each.
        hang_up = self.servers[0].get_loop().call_later(self._drain, self._hang_up)
        await super().shutdown(sockets)
        hang_up.cancel()

    def _hang_up(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()
