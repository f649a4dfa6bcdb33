# ruff: noqa: E501
"""A siege of the demo and its server: some hundreds of hostile requests, of which none may read a file or break anything.

Each attack gives the bytes that came back. They must hold neither what stands in a file of the server's nor a path of it, and
no status of 500 or more.
"""

from __future__ import annotations

import itertools
import json
import re
import socket
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tests.serving import chat, png

Attack = Callable[[], bytes]
FIELDS: dict[str, list[Any]] = {
    "caption": [None, ["sw"], 1, 0, 1.5, 4],
    "ask": [None, "what is it?", "en", 1, 0, 1.5, 4],
    "load_example": [0],
}
_SECONDS = 20.0


@dataclass
class Siege:
    """Where it goes, and what must not come back.

    Attributes:
        address: Of the demo.
        secret: A file of the server's.
        paths: Beginnings of the server's paths.
        found: What was tried and failed us.
        tried: The number of attacks.
    """

    address: str
    secret: Path
    paths: list[str]
    found: list[str] = field(default_factory=list)
    tried: int = 0

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.address)
        self.place = (str(parts.hostname), int(parts.port or 80))
        self.host = parts.netloc
        self.inside = self.secret.read_bytes().strip()

    def lay(self, every: int = 1) -> None:
        """Attack with each, or every so many of each kind."""
        for kind in self.kinds():
            for name, attack in itertools.islice(kind(), 0, None, every):
                self.tried += 1
                try:
                    answer = attack()
                except httpx.RemoteProtocolError:
                    continue  # hung up on
                self._look_at(f"{kind.__name__}: {name}", answer)

    def kinds(self) -> list[Callable[[], Iterator[tuple[str, Attack]]]]:
        """Kinds of attack."""
        return [self.slots, self.addresses, self.hosts, self.origins, self.uploads, self.broken, self.slow]

    def _look_at(self, name: str, answer: bytes) -> None:
        said = answer.replace(str(self.secret).encode(), b"")  # what the attacker wrote may be quoted
        status = re.match(rb"HTTP/1\.1 (\d+)", answer)
        if self.inside in answer:
            self.found.append(f"{name}: the file came back")
        elif any(path.encode() in said for path in self.paths):
            self.found.append(f"{name}: a path of the server's in {answer[:500]!r}")
        elif status and int(status[1]) >= 500:
            self.found.append(f"{name}: {answer[:500]!r}")
        elif b"Traceback" in answer:
            self.found.append(f"{name}: a traceback")

    def names(self) -> Iterator[str]:
        """Spellings of the secret file's path."""
        path = str(self.secret)
        yield path
        yield f"/{path}"
        yield f"{self.secret.parent}/../{self.secret.parent.name}/{self.secret.name}"
        yield f"uploads/../../../../../../../..{path}"
        yield f"uploads/{'0' * 32}/../..{path}"
        yield f"file://{path}"
        yield f"file={path}"
        yield f"{self.address}/gradio_api/file={path}"
        yield urllib.parse.quote(path, safe="")
        yield path.replace("/", "%2f").replace(".", "%2e")
        yield urllib.parse.quote(urllib.parse.quote(path, safe=""), safe="")
        yield path.replace("/", "\\")
        yield f"{path}\0.png"
        yield f"{path}/."
        yield f"/proc/self/root{path}"
        yield f"/dev/fd/../../..{path}"
        yield "/proc/self/environ"
        yield "/etc/passwd"
        yield "~/.bashrc"
        yield "http://127.0.0.1:1/secret"
        yield "http://169.254.169.254/latest/meta-data/"
        yield f"data:text/plain,{path}"

    def values(self) -> Iterator[Any]:
        """What may stand in a slot."""
        meta = {"_type": "gradio.FileData"}
        for name in self.names():
            yield {"path": name, "meta": meta}
        path = str(self.secret)
        yield from (
            {"path": path}, {"path": path, "url": path, "meta": meta}, {"url": path, "meta": meta},
            {"path": path, "url": f"file://{path}", "orig_name": path, "meta": meta},
            {"path": "", "url": f"http://{self.host}/gradio_api/file={path}", "meta": meta},
            {"path": "x.png", "orig_name": f"../../../{path}", "meta": meta},
            {"path": path, "is_stream": True, "meta": meta}, {"path": [path], "meta": meta},
            {"path": {"path": path, "meta": meta}, "meta": meta}, {"video": {"path": path, "meta": meta}},
            {"image": {"path": path, "meta": meta}, "annotations": [{"path": path, "meta": meta}]},
            {"background": {"path": path, "meta": meta}, "layers": [{"path": path, "meta": meta}], "composite": None},
            {"files": [{"path": path, "meta": meta}]}, [{"path": path, "meta": meta}], [[{"path": path, "meta": meta}]],
            [{"a": {"b": [{"path": path, "meta": meta}]}}], {"__type__": "update", "value": {"path": path, "meta": meta}},
            {"__type__": "update", "value": path}, path, [path], {path: path}, {"path": path, "meta": {"_type": "x"}},
            {"path": path, "meta": meta, "__class__": "x"}, 10**400, "\ud800", {"a": {}}, True, -1, 1e308, [None] * 5000,
        )  # fmt: skip

    def slots(self) -> Iterator[tuple[str, Attack]]:
        """Files of the server's, anywhere in the data of every function and route."""
        for value in self.values():
            for function, data in FIELDS.items():
                for slot in range(len(data)):
                    tried = [*data[:slot], value, *data[slot + 1 :]]
                    yield f"{function}[{slot}] = {str(value)[:80]}", lambda f=function, d=tried: self._function(f, d)
        routes = (
            "call/v2/caption",
            "run/caption",
            "run/predict",
            "api/caption",
            "api/predict",
            "call/nothing",
            "queue/push",
        )
        for route, value in itertools.product(routes, itertools.islice(self.values(), 4)):
            body = {"data": [value, *FIELDS["caption"][1:]], "fn_index": 2, "session_hash": "abc", "picture": value}
            yield f"{route} {str(value)[:60]}", lambda r=route, b=body: self.post(f"/gradio_api/{r}", b)
        bodies: list[Any] = [
            None, [], {}, {"data": None}, {"data": {}}, {"data": []}, {"data": [1] * 6}, {"fn_index": 10**9, "data": []},
            {"fn_index": "2", "data": FIELDS["caption"]}, {"fn_index": 2, "data": FIELDS["caption"], "session_hash": "../x"},
            {"fn_index": 2, "data": FIELDS["caption"], "session_hash": "a", "event_data": {"path": str(self.secret)}},
            {"fn_index": 2, "data": FIELDS["caption"], "session_hash": "a", "trigger_id": "x", "event_id": "y", "batched": True},
            {"fn_index": True, "data": FIELDS["caption"], "session_hash": {"a": 1}}, "x", 7,
        ]  # fmt: skip
        for body in bodies:
            yield f"queue/join {str(body)[:60]}", lambda b=body: self.post("/gradio_api/queue/join", b)
            yield f"call {str(body)[:60]}", lambda b=body: self.post("/gradio_api/call/caption", b)

    def addresses(self) -> Iterator[tuple[str, Attack]]:
        """Every route of Gradio's that gives files, calls out or tells of the inside; and a few of nobody's."""
        for name in self.names():
            for route in (
                "/gradio_api/file=",
                "/file=",
                "/gradio_api/file/",
                "/gradio_api/proxy=",
                "/assets/",
                "/static/",
            ):
                shown = urllib.parse.quote(name, safe="/:%\\")
                yield f"GET {route}{name[:60]}", lambda r=route, n=shown: self.raw("GET", f"{r}{n}")
        deep = "../" * 12 + "etc/passwd"
        routes = [
            f"/svelte/{deep}", f"/static/{deep}", f"/assets/..%2f..%2f..%2f{deep}", "/gradio_api/custom_component/x/client/y/z.js",
            f"/gradio_api/custom_component/x/server/component/{deep}", "/monitoring", "/monitoring/x", "/monitoring/summary",
            "/gradio_api/monitoring", "/gradio_api/deep_link?session_hash=x", "/?deep_link=..%2f..%2fx", "/config?deep_link=../x",
            "/?view=api", "/?__theme=../../x", "/gradio_api/runs", "/gradio_api/run-history/records", "/gradio_api/dev/reload",
            "/dev/reload", "/gradio_api/token", "/gradio_api/heartbeat/abc", "/gradio_api/queue/data?session_hash=nobody",
            "/gradio_api/queue/data", "/gradio_api/queue/data?session_hash=../../x", "/gradio_api/call/caption/nobody",
            "/gradio_api/call/v2/caption/nobody", "/gradio_api/upload_progress?upload_id=x", "/gradio_api/stream/a/b/1/playlist.m3u8",
            "/gradio_api/stream/a/b/1/playlist-file", "/gradio_api/mcp/", "/gradio_api/mcp/sse", "/gradio_api/openapi.json",
            "/gradio_api/vibe-code/", "/pwa_icon/99999", "/login", "/logout", "/gradio_api/info?all_endpoints=true", "/config", "/",
            "/theme.css", "/gradio_api/theme.css", "/manifest.json", "/robots.txt", "/docs", "/redoc", "/.env", "/.git/config", "//",
            "//etc/passwd", "/v1/models/..%2f..%2fetc%2fpasswd", "/%00", "/%ff%fe", "/" + "a" * 8000, "/gradio_api/startup-events",
            "*", "/v1/models?" + "a=b&" * 2000, "/gradio_api/app_id", "/metrics", "/health", "/gradio_api/queue/status",
        ]  # fmt: skip
        for route in routes:
            yield f"GET {route[:80]}", lambda r=route: self.raw("GET", r)
        for method in ("PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "OPTIONS", "PROPFIND", "HEAD"):
            for route in (
                "/",
                "/v1/chat/completions",
                "/gradio_api/queue/join",
                "/gradio_api/upload",
                "/gradio_api/file=x",
            ):
                yield f"{method} {route}", lambda m=method, r=route: self.raw(m, r)
        server = {"data": str(self.secret), "component_id": 4, "session_hash": "a", "fn_name": "load"}
        for route in (
            "component_server",
            "cancel",
            "reset",
            "stream/x",
            "stream/x/close",
            "process_events",
            "run-history/connect",
        ):
            yield f"POST {route}", lambda r=route: self.post(f"/gradio_api/{r}", server)

    def hosts(self) -> Iterator[tuple[str, Attack]]:
        """Names that lead here by DNS, and headers that say so."""
        port = self.place[1]
        for host in (
            "evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example", "127.0.0.1.nip.io",
            "localtest.me", "a.localhost.evil.example", "192.168.0.1", "10.0.0.1:80", "[::2]", "[fe80::1%25eth0]", "0x7f.1", "127.1",
            "2130706433", "localhost@evil.example", "evil.example#localhost", "localhost, evil.example", "localhost:99999",
            "localhost:x", "[::1", "::1", "", " ", "localhost evil.example", "xn--lcalhost-x4a", "l\xf6calhost", "evil.example.", "-",
            "*", "..", "localhost..", "http://localhost",
        ):  # fmt: skip
            for method, path in (("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("GET", "/")):
                yield f"Host {host!r} {path}", lambda h=host, m=method, p=path: self._refused(m, p, h, "")
        for extra in ("X-Forwarded-Host: evil.example", "Forwarded: host=evil.example", "X-Original-Host: evil.example",
                      "X-Forwarded-Host: evil.example, localhost", "X-Forwarded-Proto: javascript", "X-Gradio-Server: http://evil.example",
                      "X-Forwarded-Prefix: /evil.example", "X-Rewrite-URL: /etc/passwd"):  # fmt: skip
            yield extra, lambda e=extra: self._without(b"evil.example", self.raw("GET", "/config", extra=f"{e}\r\n"))
        yield "absolute", lambda: self._refused("GET", f"http://evil.example:{port}/v1/models", self.host, "")
        yield "absolute, POST", lambda: self._refused("POST", "HTTP://evil.example/v1/chat/completions", self.host, "")

    def origins(self) -> Iterator[tuple[str, Attack]]:
        """Pages of other sites."""
        for origin in (
            "http://evil.example", "https://evil.example", "null", "", "http://localhost.evil.example", "http://127.0.0.1.evil.example",
            "https://evil.example:443", f"http://evil.example:{self.place[1]}", "file://", "chrome-extension://abc", "http://[::2]",
            "http://localhost@evil.example", "http://evil.example#http://localhost", "javascript://localhost", "http://10.0.0.1",
            "http://localhost\t.evil.example", "HTTP://EVIL.EXAMPLE", "http://evil.localhost.example", "localhost", "http://",
        ):  # fmt: skip
            for path in (
                "/v1/chat/completions",
                "/gradio_api/queue/join",
                "/gradio_api/upload",
                "/gradio_api/call/caption",
            ):
                yield (
                    f"Origin {origin!r} {path}",
                    lambda o=origin, p=path: self._refused("POST", p, self.host, f"Origin: {o}\r\n"),
                )
            ask = f"Origin: {origin}\r\nAccess-Control-Request-Method: POST\r\n"
            yield (
                f"preflight {origin!r}",
                lambda a=ask: self._closed(self.raw("OPTIONS", "/v1/chat/completions", extra=a)),
            )
            yield f"GET {origin!r}", lambda o=origin: self._closed(self.raw("GET", "/config", extra=f"Origin: {o}\r\n"))
        yield (
            "no Origin, cross-site",
            lambda: self._refused("POST", "/v1/chat/completions", self.host, "Sec-Fetch-Site: cross-site\r\n"),
        )

    def uploads(self) -> Iterator[tuple[str, Attack]]:
        """Names of files that lead out; files that would run as pages."""
        names = ["../../../tmp/x.png", "/etc/cron.d/x", "..", ".", "", ".bashrc", "a" * 5000, "x\0.png", "x\r\nY: z", "C:\\x.png",
                 "<script>.svg", "é\U0001f600.png", "con", "x/../../y", "-rf", "a;b&c|d.png"]  # fmt: skip
        for name in names:
            yield f"upload {name[:40]!r}", lambda n=name: self._upload(n, png())
        kind = "Content-Type: multipart/form-data; boundary=x\r\n"
        page = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
        for name in ("x.svg", "x.html", "x.js", "x.xhtml", "x"):
            yield f"upload a page as {name}", lambda n=name: self._upload(n, page)
        for body in (b"", b"--x", b"--x\r\n\r\n", b"--x--", b"--x\r\nContent-Disposition: form-data\r\n\r\ny\r\n--x--",
                     b"--x\r\nContent-Disposition: form-data; name=files; filename=a\r\n\r\n"):  # fmt: skip
            yield f"form {body[:30]!r}", lambda b=body: self.raw("POST", "/gradio_api/upload", b, kind)
        yield "no form", lambda: self.raw("POST", "/gradio_api/upload", b"x", "Content-Type: text/plain\r\n")
        yield (
            "no boundary",
            lambda: self.raw("POST", "/gradio_api/upload", b"x", "Content-Type: multipart/form-data\r\n"),
        )

    def broken(self) -> Iterator[tuple[str, Attack]]:
        """What is no HTTP, or could be taken for two requests."""
        head, host = b"POST /v1/chat/completions HTTP/1.1\r\n", f"Host: {self.host}\r\n".encode()
        get = b"GET /v1/models HTTP/1.1\r\n" + host
        smuggled = b"GET /smuggled HTTP/1.1\r\n" + host + b"\r\n"
        yield (
            "both lengths",
            lambda: self._once(
                head + host + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled
            ),
        )
        for name, sent in {
            "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", "zeros": b"\0" * 100, "no version": b"GET /\r\n\r\n", "http 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "http 0.9": b"GET / HTTP/0.9\r\n\r\n", "http 9.9": b"GET / HTTP/9.9\r\n" + host + b"\r\n", "huge headers": get + b"X: " + b"a" * 200_000 + b"\r\n\r\n",
            "many headers": get + b"".join(b"X%d: y\r\n" % n for n in range(5000)) + b"\r\n", "two hosts": get + host + b"\r\n",
            "two lengths": head + host + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "length -1": head + host + b"Content-Length: -1\r\n\r\n",
            "length 1e30": head + host + b"Content-Length: 1" + b"0" * 30 + b"\r\n\r\n", "length +5": head + host + b"Content-Length: +5\r\n\r\nhello",
            "huge length": head + host + b"Content-Length: 99999999999\r\n\r\n", "gzip": head + host + b"Transfer-Encoding: gzip\r\n\r\n",
            "two codings": head + host + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", "bad chunk": head + host + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
            "long chunk": head + host + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n", "bad name": get + b"a b: c\r\n\r\n",
            "bare feeds": b"GET /v1/models HTTP/1.1\n" + host.replace(b"\r", b"") + b"\n", "folded": get + b"X: a\r\n b\r\n\r\n", "blank before colon": get + b"X : a\r\n\r\n",
            "nul": get + b"X: \0\r\n\r\n", "websocket": get + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n",
            "http 2 upgrade": get + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n\r\n", "1.0, no host": b"GET /v1/models HTTP/1.0\r\n\r\n",
            "1.0": b"GET /v1/models HTTP/1.0\r\n" + host + b"\r\n", "no host": b"GET /v1/models HTTP/1.1\r\n\r\n", "expect": head + host + b"Expect: 200-maybe\r\nContent-Length: 2\r\n\r\n{}",
            "pipelined": (get + b"\r\n") * 20 + b"nonsense\r\n\r\n", "garbage after 413": head + host + b"Transfer-Encoding: chunked\r\nAuthorization: x\r\n\r\n5\r\nhello\r\nzz\r\n",
            "early answer, then garbage": b"POST /v1/none HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nqq\r\n",
            "a key in two ways": get + b"Authorization: Basic !!!\r\nAuthorization: Bearer x\r\n\r\n", "deep json": self._post_bytes(b"[" * 100_000),
            "not utf-8": self._post_bytes(b'{"messages": "\xff"}'), "utf-16": self._post_bytes('{"messages": []}'.encode("utf-16")),
            "a number of 5000 digits": self._post_bytes(b'{"messages":[{"role":"user","content":"x"}],"seed":' + b"9" * 5000 + b"}"),
            "a seed of 65 bits": self._post_bytes(b'{"messages":[{"role":"user","content":"x"}],"seed":36893488147419103232}'),
        }.items():  # fmt: skip
            yield name, lambda s=sent: self.send(s)

    def slow(self) -> Iterator[tuple[str, Attack]]:
        """Clients that drip, stop or hang up, at every point of a request."""
        host = f"Host: {self.host}\r\n".encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\n" + host + b"Content-Type: application/json\r\n"
        whole = self._post_bytes(json.dumps(chat("x", png(), model=None, max_tokens=200)).encode())
        stream = self._post_bytes(json.dumps(chat("x", png(), model=None, max_tokens=200, stream=True)).encode())
        form = (
            b"POST /gradio_api/upload HTTP/1.1\r\n"
            + host
            + b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 500\r\n\r\n--x\r\n"
        )
        join = b"POST /gradio_api/queue/join HTTP/1.1\r\n" + host + b"Content-Length: 500\r\n\r\n{"
        for name, sent in {"nothing": b"", "a letter": b"G", "half a header": head, "half a body": head + b"Content-Length: 99\r\n\r\n{",
                           "an upload's beginning": form, "a call's beginning": join, "a request": whole, "a stream": stream,
                           "open chunks": head + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"}.items():  # fmt: skip
            for reset in (False, True):
                yield f"hangs up after {name}", lambda s=sent, r=reset: self._hang_up(s, r)
        for name, sent, drip in (
            ("headers", head, b"X: y\r\n"),
            ("a header", head + b"X: ", b"y"),
            ("blank lines", b"", b"\r\n"),
            ("a body", head + b"Content-Length: 100000\r\n\r\n", b" "),
            ("an upload", form, b"-"),
            ("a call", join, b" "),
            ("chunks", head + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
            ("a refused body", b"POST /nothing HTTP/1.1\r\n" + host + b"Content-Length: 100000\r\n\r\n", b" "),
        ):
            yield f"drips {name}", lambda s=sent, d=drip: self._drip(s, d)
        yield "keeps a connection", lambda: self._drip(b"GET /v1/models HTTP/1.1\r\n" + host + b"\r\n", b"")

    def post(self, path: str, body: Any) -> bytes:
        """A request with a body of JSON."""
        sent = json.dumps(body).encode()
        return self.raw("POST", path, sent, "Content-Type: application/json\r\n")

    def raw(self, method: str, path: str, body: bytes = b"", extra: str = "", host: str | None = None) -> bytes:
        """A request, byte by byte as it is given, on a connection that is closed after."""
        length = f"Content-Length: {len(body)}\r\n" if body or method == "POST" else ""
        shown = self.host if host is None else host
        head = f"{method} {path} HTTP/1.1\r\nHost: {shown}\r\n{extra}{length}Connection: close\r\n\r\n"
        return self.send(head.encode("latin-1", "replace") + body)

    def send(self, data: bytes) -> bytes:
        """Bytes; gives all that comes back until the connection is closed."""
        with socket.create_connection(self.place, timeout=_SECONDS) as connection:
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it was answered before it was read
            return rest(connection)

    def _post_bytes(self, body: bytes) -> bytes:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body

    def _function(self, name: str, data: list[Any]) -> bytes:
        route = "run/load_example" if name == "load_example" else f"call/{name}"
        answer = self.post(f"/gradio_api/{route}", {"data": data, "fn_index": 0, "session_hash": "siege"})
        event = re.search(rb'"event_id":\s*"(\w+)"', answer)
        return answer + (self.raw("GET", f"/gradio_api/{route}/{event[1].decode()}") if event else b"")

    def _upload(self, name: str, data: bytes) -> bytes:
        reply = httpx.post(f"{self.address}/gradio_api/upload", files={"files": (name, data)}, timeout=_SECONDS)
        answer = f"HTTP/1.1 {reply.status_code}\r\n".encode() + reply.content
        for path in reply.json() if reply.status_code == 200 else []:
            got = httpx.get(f"{self.address}/gradio_api/file={urllib.parse.quote(path)}", timeout=_SECONDS)
            runs = not got.headers["content-type"].startswith(("image/png", "application/octet-stream"))
            if got.content != data or runs or got.headers["x-content-type-options"] != "nosniff":
                self.found.append(f"upload {name!r}: {got.status_code} {got.headers}")
        return answer

    def _refused(self, method: str, path: str, host: str, extra: str) -> bytes:
        answer = self.raw(method, path, b"{}" if method == "POST" else b"", extra, host)
        if not re.match(rb"HTTP/1\.1 4\d\d", answer) or b"access-control-allow-origin" in answer.lower():
            self.found.append(f"{method} {path} of {host!r} {extra!r} was not refused: {answer[:100]!r}")
        return answer

    def _closed(self, answer: bytes) -> bytes:
        return self._without(b"access-control-allow-origin", answer)

    def _without(self, what: bytes, answer: bytes) -> bytes:
        if what in answer.lower():
            self.found.append(f"{what!r} in {answer[:300]!r}")
        return answer

    def _once(self, data: bytes) -> bytes:
        answer = self.send(data)
        if answer.count(b"HTTP/1.1 ") != 1 or b"connection: close" not in answer.lower():
            self.found.append(f"answered twice, or kept open: {answer[:300]!r}")
        return answer

    def _hang_up(self, data: bytes, reset: bool) -> bytes:
        with socket.create_connection(self.place, timeout=_SECONDS) as connection:
            connection.sendall(data)
            time.sleep(0.05)
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        return b""

    def _drip(self, data: bytes, drip: bytes) -> bytes:
        begun, answer = time.monotonic(), b""
        with socket.create_connection(self.place, timeout=0.05) as connection:
            try:
                connection.sendall(data)
                while time.monotonic() < begun + _SECONDS:
                    connection.sendall(drip)
                    try:
                        got = connection.recv(1 << 16)
                    except TimeoutError:
                        continue
                    answer += got
                    if not got:
                        return answer
            except OSError:
                return answer
        self.found.append(f"{data[:60]!r}, dripping, was still served after {_SECONDS:g} s")
        return answer


def rest(connection: socket.socket) -> bytes:
    """All that still comes."""
    answer = b""
    try:
        while piece := connection.recv(1 << 16):
            answer += piece
    except OSError:  # reset, or nothing came
        pass
    return answer
