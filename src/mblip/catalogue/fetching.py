"""Download one file by HTTP: resumed by range, never mixed from two versions, never incomplete under its name.

Bytes go into ``.NAME.part`` beside the file, with the validator (ETag or date) of their version. After an interruption
or a killed process, the rest is requested by range, on the condition that the version is still the same.
"""

from __future__ import annotations

import json
import os
import random
import threading
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from mblip.catalogue.answers import (
    Gunzip,
    Patience,
    encoding_of,
    length_of,
    open_answer,
    range_of,
    retry_after,
    validator_of,
)
from mblip.catalogue.names import shown
from mblip.errors import InputError
from mblip.storage import sha256_file, write_json

_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_UNREACHABLE = 4  # tries in a row of a host that does not answer


@dataclass
class _Part:
    """The state of ``.NAME.part``, stored in ``.NAME.part.json``.

    Attributes:
        validator: Strong ETag, or modification date, of the version; empty if the server gave none.
        total: Length of the file; None if the server gave none.
        joined: Whether it consists of several answers.
        packed: Whether its answer was compressed on the way, so that no range of the file continues it.
    """

    validator: str = ""
    total: int | None = None
    joined: bool = False
    packed: bool = False


_LASTING = 2  # tries with a wrong length before the error counts as permanent


class _Broken(Exception):
    """A failed try that may be repeated.

    Attributes:
        after: The wait that the server requested.
        remedy: Advice if a second try fails in the same way; empty if waiting may help.
    """

    def __init__(self, why: str, after: float | None = None, remedy: str = "") -> None:
        super().__init__(why)
        self.after, self.remedy = after, remedy


def ask_size(client: httpx.Client, url: str, patience: Patience) -> int | None:
    """The length that a server gives without sending the file; None if it gives none."""
    try:
        with open_answer(client, "HEAD", url, {}, patience) as answer:
            return length_of(answer) if answer.status_code == 200 else None
    except (httpx.HTTPError, httpx.InvalidURL, InputError):
        return None


class Fetcher:
    """Fetches one file into its place; see :meth:`run`.

    Args:
        client: A client of :func:`open_client`.
        url: An http or https address.
        target: Path of the file.
        size: Its length, if it is known.
        sha256: Its SHA-256, if it is known.
        patience: Limits of tries.
        stop: Set by another thread to end soon.
        tell: Called with the bytes received and the total (None if it is unknown).
        say: Called with the reason for a wait.
    """

    def __init__(
        self,
        client: httpx.Client,
        url: str,
        target: Path,
        *,
        size: int | None = None,
        sha256: str = "",
        patience: Patience | None = None,
        stop: threading.Event | None = None,
        tell: Callable[[int, int | None], None] = lambda done, total: None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._client, self._url, self._target = client, url, target
        self._size, self._sha256 = size, sha256.lower()
        self._patience, self._stop = patience or Patience(), stop or threading.Event()
        self._tell, self._say = tell, say
        self.part = target.with_name(f".{target.name}.part")
        self._note = target.with_name(f".{target.name}.part.json")
        self._state = _Part()

    def run(self) -> str:
        """Download the file, or the rest of it; returns its SHA-256.

        Raises:
            InputError: The address is refused or gone, it is unreachable for long, the file differs from the catalogue,
                or the disk is full. Received bytes are kept for the next time, unless they are wrong.
        """
        try:
            self.part.parent.mkdir(parents=True, exist_ok=True)
            self._recall()
            for another in (True, False):
                self._receive()
                if found := self._checked(another):
                    return found
            raise AssertionError("the second check raises")
        except OSError as error:
            raise InputError(
                f"cannot write {self._target}: {error.strerror or error}; the received part is kept: free the space or "
                "choose a folder that can be written, then run the same command again"
            ) from error

    def _receive(self) -> None:
        useless, most = 0, self._have
        while not self._is_whole():
            try:
                self._try()
                return
            except (_Broken, httpx.RequestError) as error:
                if self._is_whole():  # the answer broke off, or gave a wrong length, but all bytes are there
                    return
                why = str(error) or type(error).__name__
                # Progress is more than any earlier try had, so a server that always sends the beginning makes none.
                gained, least = self._have - most, min(1 << 16, (self._total or 1 << 20) // 100)
                useless = 0 if gained >= max(1, least) else useless + 1
                most = max(most, self._have)
                remedy = getattr(error, "remedy", "")
                if remedy and useless >= _LASTING:
                    raise InputError(f"{shown(self._url)} is not the file in the catalogue: {why}; {remedy}") from error
                if useless >= (self._patience.tries if not isinstance(error, httpx.ConnectError) else _UNREACHABLE):
                    raise InputError(
                        f"{shown(self._url)} failed after {useless} tries without progress ({why}); the received part "
                        "is kept: run the same command again later"
                    ) from error
                self._wait(useless, why, getattr(error, "after", None))
            except httpx.InvalidURL as error:
                raise InputError(f"{shown(self._url)} is not a valid address: {error}") from error

    @property
    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    @property
    def _total(self) -> int | None:
        return self._size if self._size is not None else self._state.total

    def _is_whole(self) -> bool:
        return self._total is not None and self._have == self._total and self.part.exists()

    def _recall(self) -> None:
        """Continue with the part of an earlier process, if its version is known."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            self._state = _Part(str(note["validator"]), note["total"], bool(note["joined"]), bool(note.get("packed")))
        except (OSError, ValueError, TypeError, KeyError):
            self._state = _Part(joined=True)
        if self._total is not None and self._have > self._total:
            self._restart(_Part())

    def _try(self) -> None:
        """One request, to the end of its answer."""
        start = self._have if (self._state.validator or self._sha256) and not self._state.packed else 0
        headers = {"Range": f"bytes={start}-"} if start else {}
        if start and self._state.validator:
            headers["If-Range"] = self._state.validator
        with open_answer(self._client, "GET", self._url, headers, self._patience) as answer:
            self._refuse_or_wait(answer)
            if answer.status_code == 416:
                if range_of(answer)[1] == start and self._size in (None, start):
                    self._state.total = start  # all of it was received, and the length before was wrong
                    return
                self._restart(_Part())
                raise _Broken("the server has no more of the file, although it is incomplete")
            packing = self._packing_of(answer)
            if answer.status_code == 206:
                self._join(answer, start, packing)
            else:
                self._restart(_Part(validator_of(answer), length_of(answer), packed=bool(packing)))
            self._check_length()
            self._read(answer, Gunzip() if packing else None)

    def _packing_of(self, answer: httpx.Response) -> str:
        """The compression that must be taken off an answer; mostly empty."""
        packing = encoding_of(answer)
        if packing == "gzip" and self._target.name.lower().endswith((".gz", ".tgz")):
            return ""  # some servers report the file's own compression as an encoding
        if packing not in ("", "gzip"):
            raise InputError(
                f"{shown(self._url)} comes compressed as {packing!r}, although it was requested uncompressed; download it with "
                f"another program to {self._target}"
            )
        return packing

    def _join(self, answer: httpx.Response, start: int, packing: str) -> None:
        """Check that the rest is of the same version as the received part."""
        first, total = range_of(answer)
        if not start:  # no part was requested
            self._restart(_Part(validator_of(answer), total))
        mark = self._state.validator
        field = "ETag" if mark.startswith('"') else "Last-Modified"
        changed = mark and answer.headers.get(field, mark) != mark
        known = self._total
        if changed or packing or first != start or (total is not None and known is not None and total != known):
            self._restart(_Part())
            raise _Broken("the file has changed at its source, or the server sends another part of it")
        self._state = _Part(self._state.validator, total if total is not None else self._state.total, joined=True)
        write_json(self._note, asdict(self._state))

    def _check_length(self) -> None:
        stated = self._state.total
        if self._size is not None and stated is not None and stated != self._size and not self._sha256:
            self._restart(_Part())
            raise _Broken(
                f"its server gives {stated:,} bytes, but the catalogue {self._size:,}",
                remedy="correct 'bytes' in the catalogue, or leave it out",
            )

    def _read(self, answer: httpx.Response, gunzip: Gunzip | None) -> None:
        have, most = self._have, self._total
        with self.part.open("ab", buffering=0) as file:
            # In pieces as they come, because a buffer is lost when the connection breaks.
            for block in answer.iter_raw():
                if self._stop.is_set():
                    raise InputError(f"{shown(self._url)} was stopped; run the same command again to continue")
                if gunzip:
                    block = self._unpacked(gunzip, block)
                if most is not None and have + len(block) > most:
                    block = block[: most - have]
                    self._append(file.fileno(), block)
                    self._tell(most, most)
                    return
                self._append(file.fileno(), block)
                have += len(block)
                self._tell(have, most)
                if have == self._size and self._sha256:
                    return  # whatever length the server gave: the checksum decides whether this is complete
        if gunzip and not gunzip.is_whole:
            raise _Broken(f"the compressed response ended after {have:,} bytes of the file")
        if self._total is not None and have < self._total:
            raise _Broken(f"the response ended after {have:,} of {self._total:,} bytes")
        if self._total is None:
            if not gunzip and "chunked" not in answer.headers.get("Transfer-Encoding", "").lower():
                self._check_end(have)
            self._state.total = have

    def _check_end(self, have: int) -> None:
        """Ask for what follows an answer without a length, because its end cannot be told from a broken connection."""
        headers = {"Range": f"bytes={have}-"}
        if self._state.validator:
            headers["If-Range"] = self._state.validator
        try:
            with open_answer(self._client, "GET", self._url, headers, self._patience) as answer:
                status = answer.status_code
        except httpx.RequestError:
            status = 0
        if status == 206:
            raise _Broken(f"the response ended after {have:,} bytes, but the server has more")
        if status != 416:
            self._say(
                f"{self._target.name}: its server gives no length and no range, so nothing shows whether all of it came; "
                "check the file"
            )

    @staticmethod
    def _unpacked(gunzip: Gunzip, block: bytes) -> bytes:
        try:
            return gunzip.feed(block)
        except zlib.error as error:
            raise _Broken(f"the response is not the gzip that the server announced ({error})") from error

    @staticmethod
    def _append(file: int, block: bytes) -> None:
        left = memoryview(block)
        while left:
            left = left[os.write(file, left) :]

    def _restart(self, state: _Part) -> None:
        """Discard the received part; the order matters if the process is killed in between."""
        with self.part.open("wb"):
            pass
        self._state = state
        write_json(self._note, asdict(state))

    def _checked(self, another: bool) -> str:
        """Move the checked file to its place; returns its SHA-256, or empty if it must be downloaded again."""
        if not self.part.exists():
            self.part.touch()
        have = self._have
        found = sha256_file(self.part)
        problem = ""
        if self._size is not None and have != self._size:
            problem = f"has {have:,} bytes instead of {self._size:,}"
        elif self._sha256 and found != self._sha256:
            problem = f"has the SHA-256 {found} instead of {self._sha256}"
        if not problem:
            with self.part.open("rb+") as file:
                os.fsync(file.fileno())
            self.part.replace(self._target)
            self._note.unlink(missing_ok=True)
            return found
        joined = self._state.joined
        self._restart(_Part())
        if joined and another:  # without a validator, two versions may have been joined
            self._say(f"{self._target.name} was joined from different versions; it is downloaded again")
            return ""
        self.part.unlink()
        self._note.unlink(missing_ok=True)
        raise InputError(
            f"{shown(self._url)} {problem}; the file has changed at its source, or the server sends another one. Nothing "
            "was kept; run the same command again, or correct the catalogue"
        )

    def _refuse_or_wait(self, answer: httpx.Response) -> None:
        status = answer.status_code
        if status in (200, 206, 416):
            return
        if status in _AGAIN:
            after = retry_after(answer.headers.get("Retry-After", ""))
            if after is not None and after > self._patience.longest_retry_after:
                raise InputError(
                    f"{shown(self._url)} asks you to wait {after / 60:,.0f} minutes (HTTP {status}); the received part is "
                    "kept: run the same command again after that"
                )
            raise _Broken(f"HTTP {status}", after)
        what = {
            401: "requires a login", 403: "is not open to everybody", 404: "is not there", 410: "is gone",
        }.get(status, f"was refused with HTTP {status}")  # fmt: skip
        raise InputError(
            f"{shown(self._url)} {what} (HTTP {status}); see on the page of the data set whether the file has moved or "
            "must be requested, or put the file at its path yourself"
        )

    def _wait(self, useless: int, why: str, after: float | None) -> None:
        longest = min(self._patience.longest_wait, self._patience.first_wait * 2 ** max(0, useless - 1))
        seconds = random.uniform(longest / 2, longest) if after is None else after + random.uniform(0, longest)
        if seconds > 2:
            self._say(f"{self._target.name}: {why}; trying again in {seconds:.0f} s")
        if self._stop.wait(seconds):
            raise InputError(f"{shown(self._url)} was stopped; run the same command again to continue")
