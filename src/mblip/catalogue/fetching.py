"""Fetching one file by HTTP: resumed by range, never a mixture of two versions, never half a file under its name.

Bytes go into ``.NAME.part`` beside the file, with the validator (ETag or date) of the version that they are of. After a
break, or a killed process, the rest is asked for by range, on the condition that the version is still the same.
"""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from mblip.catalogue.answers import (
    Patience,
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
_UNREACHABLE = 4  # tries in a row of a host that nobody answers at


@dataclass
class _Part:
    """What ``.NAME.part`` holds, as ``.NAME.part.json`` says.

    Attributes:
        validator: Strong ETag, or date of change, of the version; empty where the server gave none.
        total: Its length; None where the server named none.
        joined: Whether it was put together from several answers.
    """

    validator: str = ""
    total: int | None = None
    joined: bool = False


_LASTING = 2  # tries with another length than is stated, until that is no passing fault


class _Broken(Exception):
    """A try that failed, but another may do better.

    Attributes:
        after: The wait that the server asked for.
        remedy: What to do if a second try fails in the same way; empty where waiting may help.
    """

    def __init__(self, why: str, after: float | None = None, remedy: str = "") -> None:
        super().__init__(why)
        self.after, self.remedy = after, remedy


def ask_size(client: httpx.Client, url: str, patience: Patience) -> int | None:
    """The length that a server names without sending the file; None where it does not say."""
    try:
        with open_answer(client, "HEAD", url, {}, patience) as answer:
            return length_of(answer) if answer.status_code == 200 else None
    except (httpx.HTTPError, httpx.InvalidURL, InputError):
        return None


class Fetcher:
    """Fetches one file into its place; see :meth:`run`.

    Args:
        client: Of :func:`open_client`.
        url: http or https.
        target: Where the file is to lie.
        size: Its length, where a source states it.
        sha256: Likewise.
        patience: How often is tried.
        stop: Set by another thread to end soon.
        tell: Is told how many bytes are there, and of how many (None where nobody knows).
        say: Is told why there is a wait.
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
        """Fetch the file, or the rest of it; its SHA-256.

        Raises:
            InputError: The address is refused or gone, it cannot be reached for long, the file is not the one that is
                stated, or the disk is full. What came is kept for the next time, unless it proved wrong.
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
                f"cannot write {self._target}: {error.strerror or error}; what came is kept: free the space or choose a "
                "folder that can be written, then run the same command again"
            ) from error

    def _receive(self) -> None:
        useless, most = 0, self._have
        while not self._is_whole():
            try:
                self._try()
                return
            except (_Broken, httpx.RequestError) as error:
                if self._is_whole():  # the answer broke off, or lied about its length, but all bytes are there
                    return
                why = str(error) or type(error).__name__
                # Progress is what no try before had: a server that always sends the beginning makes none.
                gained, least = self._have - most, min(1 << 16, (self._total or 1 << 20) // 100)
                useless = 0 if gained >= max(1, least) else useless + 1
                most = max(most, self._have)
                remedy = getattr(error, "remedy", "")
                if remedy and useless >= _LASTING:
                    raise InputError(f"{shown(self._url)} is not the file that is stated: {why}; {remedy}") from error
                if useless >= (self._patience.tries if not isinstance(error, httpx.ConnectError) else _UNREACHABLE):
                    raise InputError(
                        f"{shown(self._url)} did not come in {useless} tries without progress ({why}); what came is "
                        "kept: run the same command again later"
                    ) from error
                self._wait(useless, why, getattr(error, "after", None))
            except httpx.InvalidURL as error:
                raise InputError(f"{shown(self._url)} is no valid address: {error}") from error

    @property
    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    @property
    def _total(self) -> int | None:
        return self._size if self._size is not None else self._state.total

    def _is_whole(self) -> bool:
        return self._total is not None and self._have == self._total and self.part.exists()

    def _recall(self) -> None:
        """Take up what an earlier process left, where it can still be told which version that is of."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            self._state = _Part(str(note["validator"]), note["total"], bool(note["joined"]))
        except (OSError, ValueError, TypeError, KeyError):
            self._state = _Part(joined=True)
        if self._total is not None and self._have > self._total:
            self._restart(_Part())

    def _try(self) -> None:
        """One request, to the end of its answer."""
        start = self._have if self._state.validator or self._sha256 else 0
        headers = {"Range": f"bytes={start}-"} if start else {}
        if start and self._state.validator:
            headers["If-Range"] = self._state.validator
        with open_answer(self._client, "GET", self._url, headers, self._patience) as answer:
            self._refuse_or_wait(answer)
            if answer.status_code == 416:
                if range_of(answer)[1] == start and self._size in (None, start):
                    self._state.total = start  # all of it had come, and the length before was wrong
                    return
                self._restart(_Part())
                raise _Broken("the server has no more of the file than came, though it is not whole")
            if answer.status_code == 206:
                self._join(answer, start)
            else:
                self._restart(_Part(validator_of(answer), length_of(answer)))
            self._check_length()
            self._read(answer)

    def _join(self, answer: httpx.Response, start: int) -> None:
        """Check that the rest is of the same version as what is there."""
        first, total = range_of(answer)
        if not start:  # nobody asked for a part
            self._restart(_Part(validator_of(answer), total))
        mark = self._state.validator
        field = "ETag" if mark.startswith('"') else "Last-Modified"
        changed = mark and answer.headers.get(field, mark) != mark
        known = self._total
        if changed or first != start or (total is not None and known is not None and total != known):
            self._restart(_Part())
            raise _Broken("the file has changed at its source, or the server sends another part of it")
        self._state = _Part(self._state.validator, total if total is not None else self._state.total, joined=True)
        write_json(self._note, asdict(self._state))

    def _check_length(self) -> None:
        told = self._state.total
        if self._size is not None and told is not None and told != self._size and not self._sha256:
            self._restart(_Part())
            raise _Broken(
                f"its server says {told:,} bytes where {self._size:,} are stated",
                remedy="correct 'bytes' in the catalogue, or leave it out",
            )

    def _read(self, answer: httpx.Response) -> None:
        raw = answer.headers.get("Content-Encoding", "identity").lower() in ("identity", "")
        packed = self._target.name.lower().endswith(
            (".gz", ".tgz")
        )  # as it lies there: some servers call that an encoding
        have, most = self._have, self._total
        with self.part.open("ab", buffering=0) as file:
            # In pieces as they come: what a buffer holds is lost when the connection breaks.
            for block in answer.iter_raw() if raw or packed else answer.iter_bytes():
                if self._stop.is_set():
                    raise InputError(f"{shown(self._url)} was stopped; run the same command again to go on")
                if most is not None and raw and have + len(block) > most:
                    block = block[: most - have]
                    self._append(file.fileno(), block)
                    self._tell(most, most)
                    return
                self._append(file.fileno(), block)
                have += len(block)
                self._tell(have, most)
                if have == self._size and self._sha256:
                    return  # whatever length the server told: the checksum says whether this is all of it
        if not raw and not packed:
            self._state.total = None if self._size is None else self._size
        if self._total is not None and have < self._total:
            raise _Broken(f"the answer ended after {have:,} of {self._total:,} bytes")
        if self._total is None:
            self._state.total = have

    @staticmethod
    def _append(file: int, block: bytes) -> None:
        left = memoryview(block)
        while left:
            left = left[os.write(file, left) :]

    def _restart(self, state: _Part) -> None:
        """Forget what is there; the order matters where the process is killed in between."""
        with self.part.open("wb"):
            pass
        self._state = state
        write_json(self._note, asdict(state))

    def _checked(self, another: bool) -> str:
        """The SHA-256 of the whole file, which then lies in its place; empty where it has to be fetched once more."""
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
        if joined and another:  # two versions may have been joined where a server names no version
            self._say(f"{self._target.name} was put together wrongly; it is fetched again")
            return ""
        self.part.unlink()
        self._note.unlink(missing_ok=True)
        raise InputError(
            f"{shown(self._url)} {problem}; it has changed at its source, or its server sends something else. Nothing was "
            "kept; run the same command again, or mend the catalogue"
        )

    def _refuse_or_wait(self, answer: httpx.Response) -> None:
        status = answer.status_code
        if status in (200, 206, 416):
            return
        if status in _AGAIN:
            after = retry_after(answer.headers.get("Retry-After", ""))
            if after is not None and after > self._patience.longest_retry_after:
                raise InputError(
                    f"{shown(self._url)} asks to come again in {after / 60:,.0f} minutes (HTTP {status}); what came is kept: "
                    "run the same command again then"
                )
            raise _Broken(f"HTTP {status}", after)
        what = {
            401: "wants you to log in", 403: "may not be fetched by everybody", 404: "is not there", 410: "is gone",
        }.get(status, f"was refused with HTTP {status}")  # fmt: skip
        raise InputError(
            f"{shown(self._url)} {what} (HTTP {status}); see the page of the data set for what must be asked for and where "
            "it lies today, or put the file at its path yourself"
        )

    def _wait(self, useless: int, why: str, after: float | None) -> None:
        longest = min(self._patience.longest_wait, self._patience.first_wait * 2 ** max(0, useless - 1))
        seconds = random.uniform(longest / 2, longest) if after is None else after + random.uniform(0, longest)
        if seconds > 2:
            self._say(f"{self._target.name}: {why}; trying again in {seconds:.0f} s")
        if self._stop.wait(seconds):
            raise InputError(f"{shown(self._url)} was stopped; run the same command again to go on")
