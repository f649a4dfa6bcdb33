"""A web server for downloads that behaves as badly as it is told."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import re
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Page:
    """What lies at a path, and how it is served.

    Attributes:
        content: The file; may be replaced between requests.
        breaks: After so many bytes of an answer the connection is cut; one is taken from the front for each answer.
        reset: Cut by a reset instead of a close.
        answers: (status, headers) given instead of the file; one is taken from the front for each request.
        ranges: Whether ranges are honoured.
        conditions: Whether ``If-Range`` is.
        etag: ``strong``, ``weak`` or empty.
        modified: Value of ``Last-Modified``.
        length: What is told as ``Content-Length`` instead of the truth; ``none`` for no length, ``chunked`` for chunks.
        stalls: Seconds that the connection is kept open behind an answer.
        headers: Further ones.
        location: Where to it leads.
        hook: Called before each answer.
    """

    content: bytes = b""
    breaks: list[int] = field(default_factory=list)
    reset: bool = False
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    ranges: bool = True
    conditions: bool = True
    etag: str = "strong"
    modified: str = ""
    length: int | str | None = None
    stalls: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    location: str = ""
    hook: Callable[[Page], None] | None = None
    sent: int = 0
    requests: list[dict[str, str]] = field(default_factory=list)


class Site:
    """The server: ``pages`` by path, each of which counts the bytes it sent."""

    def __init__(self, url: str, pages: dict[str, Page]) -> None:
        self.url, self.pages, self.busiest, self.active = url, pages, 0, 0
        self.lock = threading.Lock()

    def add(self, path: str, content: bytes = b"", **how: Any) -> Page:
        self.pages[path] = Page(content, **how)
        return self.pages[path]


@contextlib.contextmanager
def serve() -> Iterator[Site]:
    """The site, on a free port of this machine."""
    pages: dict[str, Page] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.respond(body=False)

        def do_GET(self) -> None:
            with site.lock:
                site.active += 1
                site.busiest = max(site.busiest, site.active)
            try:
                self.respond(body=True)
            finally:
                with site.lock:
                    site.active -= 1

        def respond(self, body: bool) -> None:
            page = pages.get(self.path.partition("?")[0])
            if page is None:
                self.plain(404, {})
                return
            page.requests.append({"method": self.command, **{k.lower(): v for k, v in self.headers.items()}})
            if page.hook:
                page.hook(page)
            if body and page.answers:
                self.plain(*page.answers.pop(0))
                return
            if page.location:
                self.plain(302, {"Location": page.location})
                return
            self.file(page, body)

        def plain(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def file(self, page: Page, body: bool) -> None:
            content, mark = page.content, hashlib.md5(page.content).hexdigest()
            tag = {"strong": f'"{mark}"', "weak": f'W/"{mark}"'}.get(page.etag, "")
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            fits = not page.conditions or self.headers.get("If-Range", tag) in (tag, page.modified)
            start = int(asked[1]) if asked and page.ranges and fits else 0
            status = 206 if asked and page.ranges and fits else 200
            if status == 206 and start >= len(content):
                self.plain(416, {"Content-Range": f"bytes */{len(content)}"})
                return
            self.send_response(status)
            rest = content[start:]
            if page.length == "chunked":
                self.send_header("Transfer-Encoding", "chunked")
            elif page.length != "none":
                told = len(rest) if page.length is None else int(page.length) - start
                self.send_header("Content-Length", str(told))
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if tag:
                self.send_header("ETag", tag)
            if page.modified:
                self.send_header("Last-Modified", page.modified)
            for name, value in page.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if not body:
                return
            cut = page.breaks.pop(0) if page.breaks else None
            shown = rest if cut is None else rest[:cut]
            self.body(page, shown, chunked=page.length == "chunked", ended=cut is None)
            if page.stalls:
                self.wfile.flush()
                time.sleep(page.stalls)
            if cut is not None or page.length in ("none",) or isinstance(page.length, int):
                if page.reset:
                    self.wfile.flush()
                    while struct.unpack("I", fcntl.ioctl(self.connection, termios.TIOCOUTQ, bytes(4)))[0]:
                        time.sleep(0.001)  # a reset throws away what has not left this machine; that was not sent
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True

        def body(self, page: Page, data: bytes, chunked: bool, ended: bool) -> None:
            for place in range(0, len(data), 1 << 14):
                block = data[place : place + (1 << 14)]
                try:
                    self.wfile.write(f"{len(block):x}\r\n".encode() + block + b"\r\n" if chunked else block)
                except OSError:  # the client has gone
                    self.close_connection = True
                    return
                page.sent += len(block)
            if chunked and ended:
                self.wfile.write(b"0\r\n\r\n")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.handle_error = True, lambda *_: None  # type: ignore[method-assign]
    site = Site(f"http://127.0.0.1:{server.server_address[1]}", pages)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def old_date() -> str:
    """A date long ago, as a header says it."""
    return formatdate(1_500_000_000, usegmt=True)
