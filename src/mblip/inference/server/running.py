"""Running an application: one socket, one process, a graceful end."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from mblip.errors import InputError

# What requests that were begun may still take after SIGTERM.
_DRAIN_SECONDS = 60


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to an address.

    Raises:
        InputError: It is taken, or none of this machine's.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(family)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}:{port} ({error.strerror}): choose another --port or --host"
        ) from error
    return bound


def run(app: Any, bound: socket.socket, on_start: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that were begun are then answered before this returns."""
    host, port = bound.getsockname()[:2]
    config = uvicorn.Config(
        app, log_level="warning", timeout_graceful_shutdown=_DRAIN_SECONDS, server_header=False, proxy_headers=False
    )
    server = _Server(config, lambda: on_start(f"http://{f'[{host}]' if ':' in host else host}:{port}"))
    # uvicorn raises the signal again when it is done; the end of a server that was told to stop is no failure.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[bound])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_start()
