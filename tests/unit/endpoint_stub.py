"""An OpenAI-compatible endpoint on loopback whose answers a test chooses, and which counts what it is asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Stub:
    """What a test sees of the endpoint.

    Attributes:
        requests: Bodies, each with ``headers`` and ``path``.
        url: Its base.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[dict[str, Any]] = []


def completion(text: str | None, finish: str = "stop") -> bytes:
    """The body of an ordinary answer."""
    return json.dumps({"choices": [{"message": {"content": text}, "finish_reason": finish}]}).encode()


@contextmanager
def endpoint(answer: Callable[[dict[str, Any], int], Any]) -> Iterator[Stub]:
    """Serve what ``answer`` gives for a body and the request's number: a text, (status, body, headers) or raw bytes."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                stub.requests.append(body | {"headers": dict(self.headers), "path": self.path})
                number = len(stub.requests)
            found = answer(body, number)
            if isinstance(found, bytes):  # whatever it is, HTTP or not
                self.wfile.write(found)
                self.close_connection = True
                return
            status, content, headers = found if isinstance(found, tuple) else (200, completion(found), {})
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            return

    lock = threading.Lock()
    server = Server(("127.0.0.1", 0), Handler)
    stub = Stub(f"http://127.0.0.1:{server.server_address[1]}/v1")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
