"""Check hosts, origins, keys and sizes before a request is read, and count the outcome of every request."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import logging
import re
import time
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mblip.errors import InputError
from mblip.inference.server.connections import LATE
from mblip.inference.server.errors import CLIENT_GONE, error_response

CHAT = "/v1/chat/completions"
ANY = "*"
_log = logging.getLogger(__name__)
_NO_CHANGE = ("GET", "HEAD", "OPTIONS")
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9_.-]+))(?::(\d{1,5}))?", re.ASCII)
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
# Pages that this machine serves.
LOOPBACK_ORIGINS = r"https?://(localhost|[a-z0-9_.-]+\.localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?"


class Metrics:
    """The figures of ``/metrics``."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "mblip_requests", "Chat requests, and refused requests of every other kind", ["status"],
            registry=self.registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "mblip_request_seconds", "From a chat request to the last byte of its answer", registry=self.registry,
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
        )  # fmt: skip
        self.batch = Histogram(
            "mblip_batch_size", "Texts in a batch", registry=self.registry, buckets=(1, 2, 4, 8, 16, 32, 64, 128)
        )
        self.waiting = Gauge("mblip_waiting", "Texts that wait", registry=self.registry)

    def refused(self, status: int) -> None:
        """Count a refusal."""
        self.requests.labels(str(status)).inc()


def host_name(host: str) -> str | None:
    """The normalised name or address in a ``Host`` header, without port; None if it is malformed."""
    found = _HOST.fullmatch(host.lower())
    if not found or int(found[3] or 0) > 65535:
        return None
    return _spelled(found[1] or found[2].removesuffix("."))


def is_loopback(name: str) -> bool:
    """Whether a name from :func:`host_name` always means this machine."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def listed_hosts(values: Sequence[str]) -> list[str]:
    """The names in options such as ``--allowed-hosts a.example,b.example``; ``*`` stands for any.

    Raises:
        InputError: A value is not a host name.
    """
    names = [name for value in values for name in re.split(r"[,\s]+", value) if name]
    for name in names:
        if name != ANY and host_name(name) is None:
            raise InputError(
                f"--allowed-hosts: {name[:100]!r} is not a host name; write models.example.org, an address, or *"
            )
    return [name if name == ANY else host_name(name) or name for name in names]


def listed_origins(values: Sequence[str]) -> list[str]:
    """The origins in options such as ``--allowed-origins https://a.example``; ``*`` stands for any.

    Raises:
        InputError: A value is not an origin.
    """
    origins = [origin.lower().rstrip("/") for value in values for origin in re.split(r"[,\s]+", value) if origin]
    for origin in origins:
        parts = urlsplit(origin)
        bare = parts.scheme and parts.netloc and not (parts.path or parts.query or parts.fragment)
        if origin != ANY and not (bare and host_name(parts.netloc)):
            raise InputError(
                f"--allowed-origins: {origin[:100]!r} is not an origin; write https://pages.example.org, or with "
                ":PORT, or *"
            )
    return origins


class Front:
    """The outermost layer: checks hosts and origins, counts every answer, and logs clients that left.

    Args:
        app: The layers inside.
        metrics: The counters.
        hosts: Host names that are answered, besides the loopback names and the address that a connection came to.
        origins: Origins whose pages may use the server, besides its own; ``*`` for any.
        loopback_pages: Whether pages of this machine may use it.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, hosts: Sequence[str], origins: Sequence[str], loopback_pages: bool
    ) -> None:
        self.app, self.metrics = app, metrics
        self.hosts, self.origins = frozenset(hosts), frozenset(origins)
        self.own_pages = re.compile(LOOPBACK_ORIGINS) if loopback_pages else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status, whole = time.monotonic(), 0, False

        async def send_and_watch(message: Message) -> None:
            nonlocal status, whole
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                whole = not message.get("more_body", False)
            await send(message)

        try:
            await (self._refusal(scope) or self.app)(scope, receive, send_and_watch)
        except ClientDisconnect:
            pass  # logged below
        except Exception:
            status, whole = 500, True
            raise
        finally:
            if scope.get(LATE):
                status = 408
            elif not whole or status == CLIENT_GONE:
                status = CLIENT_GONE
                _log.warning(
                    "a client hung up: %s %s", scope["method"], scope["path"][:100].encode("unicode_escape").decode()
                )
            self._count(scope, status, time.monotonic() - begun)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        chat = scope["path"] == CHAT and scope["method"] == "POST"
        if chat:
            self.metrics.seconds.observe(seconds)
        if chat or status >= 400:
            self.metrics.refused(status)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = dict(reversed(scope["headers"]))
        if b"transfer-encoding" in headers and b"content-length" in headers:
            # Servers may disagree about where such a request ends.
            why = "a request has either Content-Length or Transfer-Encoding"
            return error_response(400, why, headers={"Connection": "close"})
        host = _shown(headers.get(b"host", b""))
        absolute = _ABSOLUTE.fullmatch(scope["raw_path"])
        if absolute:  # as for a proxy: the host in the address counts
            host = _shown(absolute[1])
            scope["raw_path"] = absolute[2] or b"/"
            scope["path"] = unquote(_shown(scope["raw_path"]))
            rest = [pair for pair in scope["headers"] if pair[0] != b"host"]
            scope["headers"] = [(b"host", absolute[1]), *rest]  # inner layers must not see the other
        name = host_name(host)
        if name is None:
            return error_response(400, f"the Host header is missing or malformed: {host[:100]!r}", param="Host")
        here = scope.get("server")
        if not (
            ANY in self.hosts or name in self.hosts or is_loopback(name) or (here and name == _spelled(str(here[0])))
        ):
            why = f"this server does not answer to the name {name[:100]!r}; its operator can allow it with --allowed-hosts"
            return error_response(403, why, param="Host")
        # Headers of proxies are kept only if they name an allowed host.
        scope["headers"] = [
            pair for pair in scope["headers"] if pair[0] != b"x-forwarded-host" or self._is_named(pair[1])
        ]
        origin = headers.get(b"origin")
        preflight = scope["method"] == "OPTIONS" and b"access-control-request-method" in headers
        if origin is None:
            foreign = headers.get(b"sec-fetch-site", b"").lower() == b"cross-site"
        else:
            foreign = not self.is_allowed(_shown(origin), host)
        if foreign and (preflight or scope["method"] not in _NO_CHANGE):
            shown = _shown(origin or b"another site")[:100]
            why = f"pages of {shown!r} may not use this server; its operator can allow it with --allowed-origins"
            return error_response(403, why, param="Origin")
        return None

    def _is_named(self, forwarded: bytes) -> bool:
        name = host_name(_shown(forwarded).partition(",")[0].strip())
        return name is not None and (ANY in self.hosts or name in self.hosts or is_loopback(name))

    def is_allowed(self, origin: str, host: str) -> bool:
        """Whether a page of this origin may send requests to the server at ``host``; its own pages always may."""
        origin = origin.lower()
        scheme, _, place = origin.partition("://")
        own = scheme in ("http", "https") and _with_port(place, scheme) == _with_port(host.lower(), scheme)
        named = ANY in self.origins or origin in self.origins
        return own or named or bool(self.own_pages and self.own_pages.fullmatch(origin))


class Guard:
    """The inner layer: checks the key, and the true size of the body.

    Args:
        app: The layers inside.
        max_bytes: Largest size of a body.
        keys: Valid keys; empty for an open server.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, keys: Sequence[str]) -> None:
        self.app, self.max_bytes = app, max_bytes
        self.keys = [_digest(key) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(reversed(scope["headers"]))
        length = headers.get(b"content-length", b"0")
        if self.keys and scope["path"] != "/health" and not self._known(headers.get(b"authorization", b"")):
            # Browsers ask for a user name, which does not matter, and a password, which is the key.
            why = "give a valid key: Authorization: Bearer KEY, or the key as the password in a browser"
            refusal = error_response(401, why, "invalid_api_key", headers={"WWW-Authenticate": 'Basic realm="mblip"'})
        elif length.isdigit() and int(length) > self.max_bytes:
            refusal = error_response(413, self._too_large(), "request_too_large")
        else:
            await self._limited(scope, receive, send)
            return
        await refusal(scope, receive, send)

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.max_bytes:
                raise HTTPException(413, self._too_large())
            return message

        await self.app(scope, counted, send)

    def _too_large(self) -> str:
        return f"the request is larger than {self.max_bytes:,} bytes"

    def _known(self, header: bytes) -> bool:
        kind, _, key = header.partition(b" ")
        key = key.strip()
        if kind.lower() == b"basic":
            try:
                key = base64.b64decode(key, validate=True).partition(b":")[2]
            except (binascii.Error, ValueError):
                return False
        elif kind.lower() != b"bearer":
            return False
        shown = _digest(key)
        # All keys are compared, each in constant time, so that the time reveals nothing.
        return any([hmac.compare_digest(shown, known) for known in self.keys])


def _spelled(name: str) -> str:
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return name
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _with_port(place: str, scheme: str) -> tuple[str | None, str]:
    port = place.rpartition(":")[2] if re.search(r":\d+$", place) else {"http": "80", "https": "443"}[scheme]
    return host_name(place), port


def _shown(value: bytes) -> str:
    return value.decode("latin-1")


def _digest(key: str | bytes) -> bytes:
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()
