"""The HTTP client for endpoints: what is tried again, what fails alone, what fails for all, and the server's own words."""

from __future__ import annotations

import json
import socket
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from tests.unit.endpoint_stub import completion, endpoint

from mblip import endpoint as module
from mblip.endpoint import Endpoint, RequestFailed, one_line
from mblip.errors import InputError, RemoteError
from mblip.replies import Reply

BODY = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAITS", (0.001, 0.001, 0.001, 0.001))


def test_a_reply_and_the_request_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret\n")
    with endpoint(lambda body, n: "Hola") as stub:
        client = Endpoint(stub.url, "MY_KEY", extra_body={"chat_template_kwargs": {"enable_thinking": False}})
        assert client.chat(BODY) == Reply("Hola", "stop")
        assert (
            Endpoint(stub.url + "/chat/completions/", extra_body={"temperature": 1})
            .chat({**BODY, "temperature": 0})
            .text
            == "Hola"
        )
    first, second = stub.requests
    assert first["path"] == second["path"] == "/v1/chat/completions"
    assert first["headers"]["Authorization"] == "Bearer secret" and "Authorization" not in second["headers"]
    assert first["chat_template_kwargs"] == {"enable_thinking": False} and second["temperature"] == 1


@pytest.mark.parametrize("failure", [
    (429, b"slow down", {}), (500, b"", {}), (502, b"<html>bad gateway</html>", {}), (503, b"{}", {"Retry-After": "0"}),
    (408, b"", {}),
    (529, b"", {}), (524, b"", {}), b"", b"HTTP/1.1 banana\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"choices\"",
    (200, b"", {}), (200, b"not json", {}), (200, b"[" * 100_000, {}), (200, b"\xff\xfe\x00", {}), (200, b"null", {}),
    (200, b"{\"choices\": []}", {}), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
])  # fmt: skip
def test_what_may_pass_is_tried_again(failure: Any) -> None:
    with endpoint(lambda body, n: failure if n < 2 else "Hola") as stub:
        assert Endpoint(stub.url).chat(BODY) == Reply("Hola", "stop")
    assert len(stub.requests) == 2


@pytest.mark.parametrize(("failure", "kind", "said", "tries"), [
    ((500, b"", {}), "no answer from the endpoint", "HTTP 500: Internal Server Error", 5),
    ((503, b'{"error": {"message": "Loading\\nmodel"}}', {}), "no answer from the endpoint", "HTTP 503: Loading model", 5),
    (b"", "broken answer", "RemoteDisconnected", 2),
    (b"HTTP/1.1 banana\r\n\r\n", "broken answer", "BadStatusLine", 2),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{", "broken answer", "IncompleteRead", 2),
    ((200, b"<html>Welcome</html>", {}), "broken answer", "<html>Welcome</html>", 2),
    ((200, b"[" * 100_000, {}), "broken answer", "too deeply nested", 2),
    ((200, b"", {}), "broken answer", "an empty body", 2),
])  # fmt: skip
def test_what_fails_every_time_fails_alone(failure: Any, kind: str, said: str, tries: int) -> None:
    with endpoint(lambda body, n: failure) as stub, pytest.raises(RequestFailed) as found:
        Endpoint(stub.url).chat(BODY)
    assert (found.value.kind, found.value.passing) == (kind, True)
    assert said in str(found.value) and len(stub.requests) == tries


@pytest.mark.parametrize(("status", "body", "said"), [
    (400, b'{"error": {"code": "content_filter", "message": "The response was filtered."}}',
    "HTTP 400: The response was filtered. (content_filter)"),
    (400, b'{"object": "error", "message": "too long", "code": 400}', "HTTP 400: too long"),
    (413, b"Payload Too Large", "HTTP 413: Payload Too Large"),
    (422, b'{"detail": [{"loc": ["body"], "msg": "bad"}]}', '"msg": "bad"'),
    (400, b'{"error": "no"}', "HTTP 400: no"), (451, b"", "HTTP 451"),
    (403, b"<html>blocked</html>", "HTTP 403: <html>blocked</html>"),
    (400, b"\xff\xfe", "HTTP 400"), (400, b"x" * 5000, "x" * 199 + "…"), (400, b"[" * 10_000, "[[["),
])  # fmt: skip
def test_a_request_that_is_refused_is_not_sent_again(status: int, body: bytes, said: str) -> None:
    with endpoint(lambda _, n: (status, body, {})) as stub, pytest.raises(RequestFailed) as found:
        Endpoint(stub.url).chat(BODY)
    assert (found.value.kind, found.value.passing) == ("refused by the endpoint", False)
    assert said in str(found.value) and len(str(found.value)) < 300 and len(stub.requests) == 1


@pytest.mark.parametrize(("answer", "said"), [
    ((401, b'{"error": {"message": "bad key"}}', {}), "HTTP 401: bad key; check the key"),
    ((402, b"", {}), "check the account"),
    ((404, b'{"error": {"message": "The model m does not exist"}}', {}), "The model m does not exist; check the address"),
    ((307, b"", {"Location": "http://other/v1"}), "that it has moved to, http://other/v1"),
    ((302, b"", {"Location": "http://other/v1"}), "has moved to"),
    ((429, b'{"error": {"message": "Pay", "code": "insufficient_quota"}}', {}), "check the account"),
])  # fmt: skip
def test_what_fails_for_all_stops_at_once(answer: Any, said: str) -> None:
    with endpoint(lambda body, n: answer) as stub, pytest.raises(InputError, match=r"127\.0\.0\.1") as found:
        Endpoint(stub.url).chat(BODY)
    assert said in str(found.value) and len(stub.requests) == 1


def test_a_server_that_asks_to_wait_for_a_day_is_not_waited_for() -> None:
    day = (503, b"", {"Retry-After": "86400"})
    with (
        endpoint(lambda body, n: day) as stub,
        pytest.raises(RemoteError, match=r"127\.0\.0\.1.* wait for 1440 minutes"),
    ):
        Endpoint(stub.url).chat(BODY)
    assert len(stub.requests) == 1


def test_an_error_that_comes_as_a_success() -> None:
    refused: tuple[int, bytes, dict[str, str]] = (200, b'{"error": {"message": "Prompt too long"}}', {})
    with (
        endpoint(lambda body, n: refused) as stub,
        pytest.raises(RequestFailed, match="by the endpoint: Prompt too long"),
    ):
        Endpoint(stub.url).chat(BODY)
    assert len(stub.requests) == 1


@pytest.mark.parametrize(("header", "least", "most"), [
    ("1", 1, 2.1), ("0.5", 0.5, 1.6), ("Sat, 01 Nov 2025 00:00:00 GMT", 0, 1),
    ("soon", 0, 1), ("-5", 0, 1), ("nan", 0, 1), ("", 0, 1),
])  # fmt: skip
def test_retry_after(header: str, least: float, most: float) -> None:
    with endpoint(lambda body, n: (429, b"", {"Retry-After": header}) if n == 1 else "Hola") as stub:
        started = time.monotonic()
        assert Endpoint(stub.url).chat(BODY).text == "Hola"
    assert least <= time.monotonic() - started < most


def test_retry_after_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 95 < (module._retry_after(date) or 0) <= 100
    assert module._retry_after("Fri, 99 Foo") is None and module._retry_after("120") == 120


def test_waits_have_jitter() -> None:
    waits = {module._seconds(4.0, None) for _ in range(200)}
    assert min(waits) >= 2 and max(waits) <= 6 and max(waits) - min(waits) > 2
    asked = {module._seconds(4.0, 7.0) for _ in range(200)}
    assert min(asked) >= 7 and max(asked) <= 8 and len(asked) > 100


def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(RemoteError, match=r"cannot be reached: .*refused.*run the same command again later"):
        Endpoint(f"http://127.0.0.1:{port}/v1").chat(BODY)
    with pytest.raises(RemoteError, match="cannot be reached"):
        Endpoint("http://nobody.invalid/v1").chat(BODY)


def test_an_endpoint_that_is_down_stops_the_run_and_one_bad_request_does_not() -> None:
    with endpoint(lambda body, n: (503, b"down", {})) as stub:
        client = Endpoint(stub.url)
        for _ in range(9):
            with pytest.raises(RequestFailed):
                client.chat(BODY)
        with pytest.raises(
            RemoteError, match=r"failed 10 times in a row.*HTTP 503: down.*run the same command again later"
        ):
            client.chat(BODY)
    with endpoint(lambda body, n: (500, b"", {}) if body["model"] == "bad" else "Hola") as stub:
        client = Endpoint(stub.url)
        for _ in range(12):
            with pytest.raises(RequestFailed):
                client.chat({**BODY, "model": "bad"})
            client.chat(BODY)


def test_a_server_that_hangs_or_drips() -> None:
    def slow(body: dict[str, Any], number: int) -> Any:
        time.sleep(0.6)
        return "late"

    with endpoint(slow) as stub, pytest.raises(RequestFailed, match=r"nothing within 0\.2 s"):
        Endpoint(stub.url, timeout=0.2).chat(BODY)
    assert len(stub.requests) == 2


def test_closing_ends_the_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAITS", (30.0,))
    with endpoint(lambda body, n: (503, b"", {})) as stub:
        client = Endpoint(stub.url)
        client.close()
        started = time.monotonic()
        with pytest.raises(RequestFailed):
            client.chat(BODY)
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(("arguments", "said"), [
    ({"base": "localhost:8000"}, "must be an http"), ({"base": "ftp://x/v1"}, "must be an http"),
    ({"key_variable": "MBLIP_NO_SUCH"}, "MBLIP_NO_SUCH"), ({"extra_body": {"messages": []}}, "may not set 'messages'"),
    ({"extra_body": {"stream": True}}, "may not set 'stream'"),
])  # fmt: skip
def test_settings_that_cannot_be(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Endpoint(**{"base": "http://localhost:1/v1", **arguments})


def test_extra_fields_that_are_no_json() -> None:
    with pytest.raises(InputError, match="cannot be written as JSON"):
        Endpoint("http://localhost:1/v1", extra_body={"temperature": float("nan")}).chat(BODY)


def test_words_are_shortened() -> None:
    assert one_line("a\n b\t c") == "a b c" and len(one_line("x" * 10**6)) == 200
    assert json.loads(completion("a"))["choices"][0]["message"]["content"] == "a"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "localhost:8000/v1",
        "ftp://localhost/v1",
        "http://",
        "http://[::1/v1",
        "http://localhost:port/v1",
        "http://localhost:99999/v1",
        "http://exa mple/v1",
        "http://a..b/v1",
        f"http://{'a' * 300}.org/v1",
        "http://a\n/v1",
    ],
)
def test_an_address_that_nobody_can_ask_is_refused_before_anything_is_sent(address: str) -> None:
    with pytest.raises(InputError, match="must be an http") as caught:
        Endpoint(address)
    assert len(str(caught.value)) < 400


def test_a_path_may_hold_any_letters() -> None:
    with endpoint(lambda body, n: "Hola") as stub:
        assert Endpoint(stub.url + "/Übung%20b").chat(BODY).text == "Hola"
    assert stub.requests[0]["path"] == "/v1/%C3%9Cbung%20b/chat/completions"


@pytest.mark.parametrize("key", ["schlüssel", "geheim–1", "one\ntwo"])
def test_a_key_that_no_header_holds_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(InputError, match="key in MY_KEY may only have ASCII") as caught:
        Endpoint("http://localhost:9/v1", "MY_KEY")
    assert key not in str(caught.value)
