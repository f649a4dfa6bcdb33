"""One request and its answer: follow allowed redirects, and read the headers of an answer."""

from __future__ import annotations

import contextlib
import email.utils
import re
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from urllib.parse import unquote, urljoin, urlsplit

import httpx

from mblip.catalogue.names import shown
from mblip.errors import InputError

AGENT = f"mblip/{metadata.version('mblip')} (research data)"
_LOCAL = ("localhost", "127.0.0.1", "[::1]")
_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)", re.ASCII)


@dataclass(frozen=True)
class Patience:
    """Limits of tries and waits.

    Attributes:
        tries: Tries in a row without progress; a hundredth of the file, or 64 KiB, counts as progress.
        first_wait: Seconds before the second try; doubled each time, with a random factor of 0.5 to 1.
        longest_wait: Longest of these waits, in seconds.
        longest_retry_after: Longest wait in seconds that a server may request; for more, the file is given up for now.
        timeout: Seconds without a byte, or for a connection.
        redirects: Maximum number of redirects in a row.
    """

    tries: int = 8
    first_wait: float = 0.5
    longest_wait: float = 60.0
    longest_retry_after: float = 600.0
    timeout: float = 30.0
    redirects: int = 10


def open_client(patience: Patience) -> httpx.Client:
    """A client for :func:`fetch`; it uses the system's proxies, except for this machine itself."""
    mounts: dict[str, httpx.BaseTransport | None] = {f"all://{host}": None for host in _LOCAL}
    return httpx.Client(
        headers={"User-Agent": AGENT, "Accept": "*/*", "Accept-Encoding": "identity"},
        timeout=httpx.Timeout(patience.timeout), mounts=mounts,
    )  # fmt: skip


@contextlib.contextmanager
def open_answer(
    client: httpx.Client, method: str, url: str, headers: dict[str, str], patience: Patience
) -> Iterator[httpx.Response]:
    """The answer after all redirects; user name and password of the address are sent only to its own host."""
    parts = urlsplit(url)
    auth = httpx.BasicAuth(unquote(parts.username or ""), unquote(parts.password or "")) if parts.username else None
    origin, here = (parts.scheme, parts.hostname, parts.port), _without_login(url)
    for _ in range(patience.redirects + 1):
        parts = urlsplit(here)
        own = auth if (parts.scheme, parts.hostname, parts.port) == origin else None
        request = client.build_request(method, here, headers=headers)
        answer = client.send(request, stream=True, auth=own, follow_redirects=False)
        try:
            if answer.status_code not in (301, 302, 303, 307, 308) or "Location" not in answer.headers:
                yield answer
                return
            here = _next(here, answer.headers["Location"], url)
        finally:
            answer.close()
    raise InputError(f"{shown(url)} redirects more than {patience.redirects} times; correct the address")


def _next(here: str, location: str, url: str) -> str:
    try:
        target = _without_login(urljoin(here, location))
        parts = urlsplit(target)
        scheme, host, _ = parts.scheme, parts.hostname, parts.port  # each of which may raise
    except ValueError:
        scheme, host, target = "", None, ""
    if scheme not in ("http", "https") or not host:
        raise InputError(f"{shown(url)} redirects to something that is not a web address; correct the address")
    if urlsplit(here).scheme == "https" and scheme == "http":
        raise InputError(
            f"{shown(url)} redirects from https to {shown(target)}, which others could tamper with; it is not "
            "downloaded"
        )
    return target


def _without_login(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()


def length_of(answer: httpx.Response) -> int | None:
    """The length of the file in an answer's headers; None if it is missing, or the content is compressed."""
    text = answer.headers.get("Content-Length", "")
    return int(text) if re.fullmatch(r"\d{1,18}", text, re.ASCII) and not encoding_of(answer) else None


def encoding_of(answer: httpx.Response) -> str:
    """The compression of an answer, although none was asked for; mostly empty."""
    text = str(answer.headers.get("Content-Encoding", "")).strip().lower()
    return {"identity": "", "x-gzip": "gzip"}.get(text, text)


class Gunzip:
    """Unpacks the gzip of an answer piece by piece, and knows whether it came to its end."""

    def __init__(self) -> None:
        self._inner, self.is_whole = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16), False

    def feed(self, block: bytes) -> bytes:
        """The content of the next piece.

        Raises:
            zlib.error: It is not gzip.
        """
        found = b""
        while block:
            found += self._inner.decompress(block)
            self.is_whole, block = self._inner.eof, self._inner.unused_data
            if self.is_whole and block:  # several streams, one after the other
                self._inner = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        return found


def range_of(answer: httpx.Response) -> tuple[int | None, int | None]:
    """First byte and total length in an answer's headers."""
    found = _RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
    if not found:
        return None, None
    return (int(found[1]) if found[1] else None), (int(found[3]) if found[3] != "*" else None)


def validator_of(answer: httpx.Response) -> str:
    """A strong ETag, or the modification date if it is old enough to identify a version (RFC 9110, 8.8.2.2)."""
    tag = str(answer.headers.get("ETag", ""))
    if tag.startswith('"') and tag.endswith('"') and len(tag) > 2:
        return tag
    changed, now = answer.headers.get("Last-Modified", ""), answer.headers.get("Date", "")
    try:
        old = email.utils.parsedate_to_datetime(now) - email.utils.parsedate_to_datetime(changed)
    except (ValueError, TypeError):
        return ""
    return changed if old.total_seconds() >= 1 else ""


def retry_after(text: str) -> float | None:
    """The seconds in a ``Retry-After`` header, a number or a date; None if it is neither."""
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
