"""Requests to an OpenAI-compatible endpoint (``/v1/chat/completions``), with retries where they can help.

Translation and evaluation both use :class:`Endpoint`. A failure of one request (:class:`RequestFailed`) does not affect
others. A failure that affects every request is an InputError if the address, the key or the model must be corrected,
else a RemoteError.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from mblip.errors import InputError, RemoteError
from mblip.replies import Reply, read_completion

SHOWN = 200
"""Maximum characters of a server's message in an error."""

_WAITS = (1.0, 4.0, 15.0, 30.0)
_WAIT_AT_MOST = 600.0
_BYTES_AT_MOST = 1 << 26
_IN_A_ROW = 10
# Errors that affect every request: the key, the account, the address, the model.
_FOR_ALL = {
    401: "check the key", 402: "check the account", 404: "check the address and the name of the model",
    405: "check the address", 407: "check the proxy",
}  # fmt: skip
_AGAIN = frozenset({408, 409, 425, 429, *range(500, 600)}) - {501, 505}


class RequestFailed(RemoteError):
    """One request got no usable answer; others may succeed.

    Attributes:
        kind: The kind for counting: ``refused by the endpoint``, ``no answer from the endpoint`` or ``broken answer``.
        said: The server's message, or the technical reason, shortened.
        passing: Whether it may succeed later (an overload, a broken connection).
    """

    def __init__(self, kind: str, said: str, *, passing: bool) -> None:
        super().__init__(f"{kind}: {said}")
        self.kind, self.said, self.passing = kind, said, passing


class Endpoint:
    """A chat endpoint; may be used by several threads.

    Args:
        base: Its address, such as ``http://localhost:8000/v1``.
        key_variable: Environment variable with its key; empty for none.
        key_required: Whether an unset variable is an error.
        extra_body: Fields that are added to every request.
        timeout: Maximum seconds of one try.

    Raises:
        InputError: The address is not http(s), the key is missing or cannot be sent, or ``extra_body`` sets a field
            that is set here.
    """

    def __init__(
        self,
        base: str,
        key_variable: str = "",
        *,
        key_required: bool = True,
        extra_body: Mapping[str, Any] | None = None,
        timeout: float = 300.0,
    ) -> None:
        self.url = _address(base).rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self.extra_body = dict(extra_body or {})
        for name in {"messages", "stream", "n"} & self.extra_body.keys():
            raise InputError(f"the extra request fields may not set {name!r}")
        self._timeout = timeout
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key_variable:
            key = os.environ.get(key_variable, "").strip()
            if not (key.isascii() and key.isprintable()):  # invalid in a header; the key itself is not shown
                raise InputError(f"the endpoint's key in {key_variable} may only have ASCII letters, digits and signs")
            if key:
                self._headers["Authorization"] = f"Bearer {key}"
            elif key_required:
                raise InputError(f"the environment variable {key_variable} with the endpoint's key is not set")
        self._lock = threading.Lock()
        self._failed_in_a_row = 0
        self._closed = threading.Event()
        self._opener = urllib.request.build_opener(_NoRedirect)

    def chat(self, body: Mapping[str, Any]) -> Reply:
        """Send one request and return its reply; waits and tries again if the failure may pass.

        ``Retry-After`` is honoured, in seconds or as a date; other waits grow, each with jitter.

        Raises:
            RequestFailed: This request is refused, or failed at every try.
            InputError: Every request fails: the key, the account, the address or the model is wrong.
            RemoteError: There is no connection, or 10 requests in a row failed at every try.
        """
        try:
            data = json.dumps({**body, **self.extra_body}, allow_nan=False).encode()
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f"the request to {self.url} cannot be written as JSON: {error}") from error
        for tried in range(1, len(_WAITS) + 2):
            try:
                reply = self._once(data)
            except RequestFailed:
                self._answered()
                raise
            except _Again as failure:
                again = tried < min(failure.tries, len(_WAITS) + 1)
                if again and not self._closed.wait(_seconds(_WAITS[tried - 1], failure.after)):
                    continue
                if failure.unconnected:
                    raise RemoteError(f"{failure}; run the same command again later") from failure
                self._count_failure(failure)
                raise RequestFailed(failure.kind, str(failure), passing=True) from failure
            self._answered()
            return reply
        raise AssertionError("the last try returns or raises")

    def close(self) -> None:
        """Stop all waits: until :meth:`open`, requests fail at once instead of being tried again."""
        self._closed.set()

    def open(self) -> None:
        """Try again as usual, after :meth:`close`."""
        self._closed.clear()

    def _once(self, data: bytes) -> Reply:
        request = urllib.request.Request(self.url, data, self._headers)
        deadline = time.monotonic() + self._timeout
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                content = self._read(response, deadline)
        except urllib.error.HTTPError as error:
            raise self._failure(error) from error
        except urllib.error.URLError as error:
            reason = error.reason
            if isinstance(reason, TimeoutError):
                raise _Again("no answer from the endpoint", f"nothing within {self._timeout:g} s", tries=2) from error
            raise _Again(
                "no answer from the endpoint", f"{self.url} cannot be reached: {reason}", unconnected=True
            ) from error
        except TimeoutError as error:
            raise _Again("no answer from the endpoint", f"nothing within {self._timeout:g} s", tries=2) from error
        except (OSError, http.client.HTTPException) as error:
            raise _Again("broken answer", f"{type(error).__name__}: {error}", tries=2) from error
        return self._parse(content)

    def _read(self, response: Any, deadline: float) -> bytes:
        parts, size = [], 0
        while part := response.read1(1 << 16):
            parts.append(part)
            size += len(part)
            if size > _BYTES_AT_MOST:
                raise _Again("broken answer", f"more than {_BYTES_AT_MOST >> 20} MiB", tries=1)
            if time.monotonic() > deadline:
                raise TimeoutError
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
        return b"".join(parts)

    def _parse(self, content: bytes) -> Reply:
        try:
            completion = json.loads(content)
        except (ValueError, RecursionError) as error:
            said = (
                "JSON too deeply nested"
                if isinstance(error, RecursionError)
                else one_line(content.decode("utf-8", "replace"))
            )
            raise _Again("broken answer", said or "an empty body", tries=2) from error
        try:
            return read_completion(completion)
        except ValueError as error:
            if isinstance(completion, dict) and completion.get("error"):
                raise RequestFailed("refused by the endpoint", _words(content), passing=False) from error
            raise _Again("broken answer", one_line(content.decode("utf-8", "replace")), tries=2) from error

    def _failure(self, error: urllib.error.HTTPError) -> Exception:
        try:
            said = _words(error.read(1 << 14)) or str(error.reason)
        except (OSError, http.client.HTTPException):
            said = str(error.reason)
        answer = f"HTTP {error.code}: {said}"
        if error.code in _FOR_ALL or 300 <= error.code < 400 or "insufficient_quota" in said:
            remedy = _FOR_ALL.get(error.code, "check the account")
            if error.code < 400:
                place = one_line(error.headers.get("Location") or "which it does not give")
                remedy = f"use the address that it has moved to, {place}"
            return InputError(f"{self.url} answered {answer}; {remedy}")
        if error.code not in _AGAIN:
            return RequestFailed("refused by the endpoint", answer, passing=False)
        after = _retry_after(error.headers.get("Retry-After", ""))
        if after is not None and after > _WAIT_AT_MOST:
            return RemoteError(
                f"{self.url} asks to wait for {after / 60:.0f} minutes ({answer}); run the same command again later"
            )
        return _Again("no answer from the endpoint", answer, after=after)

    def _count_failure(self, failure: _Again) -> None:
        with self._lock:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= _IN_A_ROW:
                raise RemoteError(
                    f"{self.url} failed {self._failed_in_a_row} times in a row, in every attempt ({failure}); "
                    "run the same command again later"
                ) from failure

    def _answered(self) -> None:
        with self._lock:
            self._failed_in_a_row = 0


class _Again(Exception):
    """A failure that may pass, with the wait in seconds that the server requests, and the maximum number of tries."""

    def __init__(
        self, kind: str, said: str, *, after: float | None = None, tries: int = 99, unconnected: bool = False
    ) -> None:
        super().__init__(said)
        self.kind, self.after, self.tries, self.unconnected = kind, after, tries, unconnected


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET, and the key would go wherever the answer says."""

    def redirect_request(self, *_: Any) -> None:
        """Return None, so that the answer is an error like others."""
        return


def _address(base: str) -> str:
    """A valid address, with non-ASCII characters of its path escaped."""
    try:
        parts = urllib.parse.urlsplit(base)
        host, port = parts.hostname or "", parts.port
        fits = parts.scheme in ("http", "https") and bool(host.encode("idna")) and port != 0
    except ValueError:  # an open bracket, a port in letters, a name that is too long
        fits = False
    if not fits or not base.isprintable() or " " in base:
        raise InputError(f"the endpoint must be an http(s) address such as http://localhost:8000/v1, not {base!r}")
    return parts._replace(path=urllib.parse.quote(parts.path, safe="%/:@!$&'()*+,;=~")).geturl()


def _seconds(wait: float, after: float | None) -> float:
    if after is not None:  # never earlier; with jitter, so that not all clients return at the same moment
        return after + random.uniform(0, min(1.0, wait))
    return wait * random.uniform(0.5, 1.5)


def one_line(text: str, characters: int = SHOWN) -> str:
    """A text on one line, cut off if it is longer."""
    line = " ".join(text[: 8 * characters].split())
    return line if len(line) <= characters else line[: characters - 1] + "…"


def _words(content: bytes) -> str:
    """A server's error message, from its JSON or its text."""
    text = content.decode("utf-8", "replace")
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return one_line(text)
    error = parsed.get("error", parsed) if isinstance(parsed, dict) else parsed
    if isinstance(error, dict):
        message = error.get("message") or error.get("detail") or error
        code = error.get("code") or error.get("type")
        if isinstance(message, str):
            named = f"{message} ({code})" if isinstance(code, str) and code not in message else message
            return one_line(named) if len(named) <= SHOWN else one_line(message)
        error = message
    return one_line(error if isinstance(error, str) else json.dumps(error, ensure_ascii=False))


def _retry_after(header: str) -> float | None:
    """Seconds to wait, from a header with seconds or a date; None if it has neither."""
    header = header.strip()
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
        except (ValueError, TypeError, OverflowError):
            return None
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        seconds = (date - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if seconds == seconds else None
