# ruff: noqa: E501
"""Hosts, origins, connections that drip or stay, the end of a server, and what is counted."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.serving import NAME, chat, png, serving
from tests.unit.inference.siege import Siege

from mblip.errors import InputError
from mblip.inference.predictor import Predictor
from mblip.inference.resolve import served_name
from mblip.inference.server import Limits, Settings, create_app, listed_hosts, listed_origins
from mblip.inference.server.guard import host_name
from mblip.inference.server.server import listen, server_of
from mblip.models.generation import Generator

PATH = "/v1/chat/completions"
QUICK = Limits(header=0.5, body=0.5, idle=0.5, drain=1)


@pytest.fixture(scope="module")
def address(tiny: Predictor) -> Iterator[str]:
    settings = Settings(
        wait=0,
        hosts=listed_hosts(["Models.Example.ORG., 192.168.7.7"]),
        origins=listed_origins(["https://Pages.example/"]),
    )
    with serving(create_app(tiny, NAME, settings), QUICK) as found:
        yield found


def counted(address: str) -> dict[str, float]:
    found = re.findall(r'mblip_requests_total\{status="(\d+)"\} ([\d.]+)', httpx.get(f"{address}/metrics").text)
    return {status: float(number) for status, number in found}


def raw(address: str, data: bytes, seconds: float = 20) -> bytes:
    siege = httpx.URL(address)
    answer = b""
    with (
        contextlib.suppress(ConnectionError),  # reset: more was sent than was read
        socket.create_connection((siege.host, siege.port), timeout=seconds) as connection,
    ):
        connection.sendall(data)
        while piece := connection.recv(1 << 16):
            answer += piece
    return answer


def test_hosts(address: str) -> None:
    port = httpx.URL(address).port
    for host in (
        "localhost", "LOCALHOST:1", f"localhost:{port}", "localhost.", "a.localhost", "127.0.0.1", "127.9.9.9:80", "[::1]",
        f"[::1]:{port}", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "models.example.org", "MODELS.example.org:443", "192.168.7.7",
    ):  # fmt: skip
        assert httpx.get(f"{address}/v1/models", headers={"Host": host}).status_code == 200, host
    refused = httpx.post(f"{address}{PATH}", json=chat("x"), headers={"Host": "evil.example"})
    assert refused.status_code == 403
    assert refused.json()["error"]["param"] == "Host"
    assert "--allowed-hosts" in refused.json()["error"]["message"]
    # The rest of what must be refused is in the siege.


def test_origins(address: str) -> None:
    port = httpx.URL(address).port
    body: dict[str, Any] = {"json": chat("x", max_tokens=1)}
    for origin in (
        "https://pages.example",
        "HTTPS://pages.example",
        f"http://127.0.0.1:{port}",
        "http://localhost:5173",
    ):
        answer = httpx.post(f"{address}{PATH}", headers={"Origin": origin}, **body)
        assert answer.status_code == 200, origin
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,x-stainless-os"}
    for origin in ("https://pages.example", "http://localhost:5173", "http://[::1]:3000"):
        preflight = httpx.options(f"{address}{PATH}", headers={"Origin": origin, **ask})
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == origin
        assert "x-stainless-os" in preflight.headers["access-control-allow-headers"]
        error = httpx.post(f"{address}{PATH}", headers={"Origin": origin}, json={})
        assert error.headers["access-control-allow-origin"] == origin  # a page may read why
    foreign = httpx.options(f"{address}{PATH}", headers={"Origin": "https://evil.example", **ask})
    assert foreign.status_code == 403
    assert "--allowed-origins" in foreign.json()["error"]["message"]


def test_any_origin_and_host(tiny: Predictor) -> None:
    with serving(create_app(tiny, NAME, Settings(hosts=["*"], origins=["*"], host="0.0.0.0"))) as address:
        headers = {"Origin": "https://any.example", "Host": "any.example"}
        assert httpx.post(f"{address}{PATH}", headers=headers, json=chat("x", max_tokens=1)).status_code == 200
    with serving(create_app(tiny, NAME, Settings(host="0.0.0.0"))) as address:  # others' pages are not this machine's
        headers = {"Origin": "http://localhost:5173", "Host": "127.0.0.1"}
        assert httpx.post(f"{address}{PATH}", headers=headers, json=chat("x", max_tokens=1)).status_code == 403


def test_options_that_are_no_hosts_or_origins() -> None:
    assert listed_hosts(["a.example,B.example", "*", "[::1]"]) == ["a.example", "b.example", "*", "::1"]
    assert listed_origins(["https://a.example:8443/ , *"]) == ["https://a.example:8443", "*"]
    for host in ("http://a.example", "a.example/x", "a@b.example", "[::1", "a.example:70000"):
        with pytest.raises(InputError, match="--allowed-hosts"):
            listed_hosts([host])
    for origin in ("a.example", "https://a.example/x", "https://", "https://a.example?x"):
        with pytest.raises(InputError, match="--allowed-origins"):
            listed_origins([origin])
    assert host_name("a" * 300 + ":70000") is None


def test_what_clients_call_a_model() -> None:
    names = {
        "runs/mine": "mine", "runs/mine/": "mine", "/srv/me/secret/run 1": "run 1", "Gregor/mblip-mt0-xl": "mblip-mt0-xl",
        "nano:nano-blip2-en": "nano:nano-blip2-en", "C:\\runs\\mine": "mine", "mine": "mine",
    }  # fmt: skip
    assert {name: served_name(name) for name in names} == names
    assert "/" not in served_name(".")


def test_kept_connections_are_answered_at_once(address: str) -> None:
    bound = listen("127.0.0.1", 0)
    assert bound.proto == socket.IPPROTO_TCP  # else asyncio leaves Nagle's algorithm on
    bound.close()
    with httpx.Client(base_url=address) as client:
        took = []
        for _ in range(30):
            begun = time.perf_counter()
            client.get("/v1/models").raise_for_status()
            took.append(time.perf_counter() - begun)
    assert statistics.median(took) < 0.03  # 0.041 and more with it, however idle the machine


def test_slow_clients_are_cut_off_and_counted(address: str) -> None:
    before = counted(address)
    host = f"Host: {httpx.URL(address).netloc.decode()}\r\n".encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Type: application/json\r\n" + host
    for sent, told in (
        (head, b"the header of the request did not come within 0.5 s"),
        (head + b"Content-Length: 9\r\n\r\n{", b"the body of the request did not come within 0.5 s"),
        (head + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", b"the body of the request did not come within 0.5 s"),
    ):
        begun = time.monotonic()
        answer = raw(address, sent)
        assert answer.startswith(b"HTTP/1.1 408 Request Timeout")
        assert told in answer
        assert time.monotonic() - begun < 10
    assert raw(address, b"") == b""  # never used: closed without a word
    assert raw(address, b"GET /v1/models HTTP/1.1\r\n" + host + b"\r\n").startswith(b"HTTP/1.1 200")
    assert counted(address)["408"] == before.get("408", 0) + 3


@pytest.mark.parametrize("said", ["Content-Length: 3000000", "Transfer-Encoding: chunked"])
def test_who_sends_all_of_what_is_too_large_is_answered_and_not_kept(tiny: Predictor, said: str) -> None:
    body = b"2dc6c0\r\n" + b"x" * 3_000_000 + b"\r\n0\r\n\r\n" if "chunked" in said else b"x" * 3_000_000
    limits = Limits(header=5, body=5, idle=0.5, drain=1)
    with serving(create_app(tiny, NAME, Settings(max_bytes=1000)), limits) as address:
        siege = httpx.URL(address)
        head = f"POST {PATH} HTTP/1.1\r\nHost: {siege.netloc.decode()}\r\n{said}\r\n\r\n".encode()
        with socket.create_connection((siege.host, siege.port), timeout=5) as connection:
            connection.sendall(head)
            answer = b""
            if "chunked" not in said:
                answer = connection.recv(1 << 16)  # refused by what is announced
            connection.sendall(body)  # its end is what must not leave the connection open for ever
            while piece := connection.recv(1 << 16):
                answer += piece
        assert answer.startswith(b"HTTP/1.1 413 ") and b"larger than 1,000 bytes" in answer


def test_every_refusal_is_counted_by_its_code(tiny: Predictor) -> None:
    with serving(create_app(tiny, NAME, Settings(keys=("k",), max_bytes=5000))) as address:
        key = {"Authorization": "Bearer k"}
        httpx.get(f"{address}/v1/models")
        httpx.get(f"{address}/nothing", headers=key)
        httpx.get(f"{address}/v1/models", headers={**key, "Host": "evil.example"})
        httpx.get(f"{address}{PATH}", headers=key)
        httpx.post(f"{address}{PATH}", headers=key, content=b"x" * 6000)
        httpx.post(f"{address}{PATH}", headers={**key, "Content-Type": "text/plain"}, content=b"x")
        httpx.post(f"{address}{PATH}", headers=key, json={})
        raw(address, b"nonsense\r\n\r\n")
        raw(address, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 1_000_000)
        httpx.post(f"{address}{PATH}", headers=key, json=chat("x", max_tokens=1))
        metrics = httpx.get(f"{address}/metrics", headers=key).text
    found = dict(re.findall(r'mblip_requests_total\{status="(\d+)"\} (\d+)', metrics))
    assert found == {
        "401": "1",
        "404": "1",
        "403": "1",
        "405": "1",
        "413": "1",
        "415": "1",
        "400": "2",
        "431": "1",
        "200": "1",
    }
    assert "mblip_request_seconds_count 4.0" in metrics  # posted to the chat route


def test_a_streams_time_is_until_its_last_byte(tiny: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    from mblip.inference.server.batching import Batcher

    stream = Batcher.stream

    async def slow(*arguments: Any) -> Any:
        import asyncio

        async for piece in stream(*arguments):
            yield piece
        await asyncio.sleep(0.6)

    monkeypatch.setattr(Batcher, "stream", slow)
    with serving(create_app(tiny, NAME, Settings(wait=0))) as address:
        assert httpx.post(f"{address}{PATH}", json=chat("x", max_tokens=1, stream=True), timeout=60).status_code == 200
        metrics = httpx.get(f"{address}/metrics").text
    assert float(re.findall(r"mblip_request_seconds_sum ([\d.e+-]+)", metrics)[0]) >= 0.6


def test_who_hangs_up_is_one_line(
    address: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(*_: object) -> Iterator[str]:  # so that the client is certainly gone before the end
        while True:
            time.sleep(0.02)
            yield "word "

    monkeypatch.setattr(Generator, "stream", endless)
    before = counted(address).get("499", 0)
    place = (httpx.URL(address).host, int(httpx.URL(address).port or 0))
    body = json.dumps(chat("x", png(), max_tokens=400, stream=True)).encode()
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    )
    for sent in (head + b"999\r\n\r\n{", head + str(len(body)).encode() + b"\r\n\r\n" + body):
        caplog.clear()
        with socket.create_connection(place) as connection:
            connection.sendall(sent)
            time.sleep(0.2)
        end = time.monotonic() + 30
        while counted(address).get("499", 0) == before and time.monotonic() < end:
            time.sleep(0.05)
        before += 1
        assert counted(address)["499"] == before
        told = [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
        assert told == ["a client hung up: POST /v1/chat/completions"]
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_connection_with_two_lengths_is_closed(address: str) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = raw(address, head + b"0\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1") == 1


def test_a_drain_ends_whatever_clients_do(tiny: Predictor, caplog: pytest.LogCaptureFixture) -> None:
    """Half a header, half a body, an answer that is not taken, a stream without end: all are hung up on at the limit."""
    bound = listen("127.0.0.1", 0)
    place = bound.getsockname()[:2]
    server = server_of(create_app(tiny, NAME, Settings(wait=0)), Limits(header=300, body=300, idle=300, drain=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    while not server.started:
        time.sleep(0.02)
    body = json.dumps(chat("x", png(), max_tokens=512, stream=True, repetition_penalty=10)).encode()
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    )
    whole = head + str(len(body)).encode() + b"\r\n\r\n" + body
    clients = [socket.create_connection(place) for _ in range(5)]
    for client, sent in zip(clients, (b"", head, head + b"99\r\n\r\n{", whole, whole * 3), strict=True):
        client.sendall(sent)
    time.sleep(0.3)
    begun = time.monotonic()
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive()
    assert time.monotonic() - begun < 15
    assert not [record for record in caplog.records if record.exc_info]
    for client in clients:
        client.close()


def test_more_connections_than_allowed_are_hung_up_on(tiny: Predictor) -> None:
    with serving(create_app(tiny, NAME, Settings()), Limits(connections=3, idle=2, drain=1)) as address:
        place = (httpx.URL(address).host, int(httpx.URL(address).port or 0))
        held = [socket.create_connection(place) for _ in range(8)]
        time.sleep(0.3)
        for connection in held:
            connection.settimeout(0.2)
        gone = 0
        for connection in held:
            try:
                gone += connection.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                gone += 1
        assert gone == 5
        for connection in held:
            connection.close()
        time.sleep(0.3)
        assert counted(address)["503"] == 5


def test_the_siege_looks_at_what_it_gets(tmp_path: Any) -> None:
    """A siege that finds nothing must be able to find something."""
    (tmp_path / "note").write_text("only here")
    siege = Siege("http://127.0.0.1:1", tmp_path / "note", ["/srv/inside"])
    for answer in (
        b"x only here",
        b"HTTP/1.1 200 OK\r\n\r\n/srv/inside/x",
        b"HTTP/1.1 500 x\r\n",
        b"Traceback (most recent",
    ):
        siege._look_at("x", answer)
    siege._look_at("x", b"HTTP/1.1 404 Not Found\r\n\r\n" + str(tmp_path / "note").encode())
    assert len(siege.found) == 4
