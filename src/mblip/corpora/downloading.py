"""Download the images of a corpus that lists addresses: politely, in complete shards, with checksums.

The images of a list are split into shards of a fixed number. A shard is fetched by several threads, never more than one
at a time from the same host. It becomes one WebDataset tar (or a part of one folder), and a log ``NAME.jsonl`` with one
line per image: its SHA-256, or the reason of the failure. A shard with a log is never fetched again.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

from mblip.catalogue.answers import retry_after
from mblip.errors import InputError
from mblip.progress import Progress, silent
from mblip.storage import JsonlWriter, UnreadableImage, atomic_path, atomic_write, decode_image, read_jsonl

AGENT = f"mblip/{metadata.version('mblip')} (research; images of a training set)"
# Opt-out tags of sites against collecting images for training, which are respected.
_OPT_OUT = {"noai", "noimageai", "noindex", "noimageindex"}
_WAITS = (1.0, 4.0)  # seconds before the second and third try


@dataclass(frozen=True)
class DownloadLimits:
    """Limits of downloads.

    Attributes:
        threads: Number of parallel downloads.
        delay: Seconds between two requests to one host.
        timeout: Maximum seconds without a byte.
        most_bytes: Largest accepted file.
    """

    threads: int = 16
    delay: float = 0.2
    timeout: float = 20.0
    most_bytes: int = 20 << 20


@dataclass
class Fetched:
    """The result for one address: ``sha256`` and ``bytes``, or a ``problem``."""

    key: str
    url: str
    sha256: str = ""
    bytes: int = 0
    problem: str = ""


def download_images(
    images: Iterable[tuple[str, str]],
    folder: Path,
    *,
    tar: bool = True,
    per_shard: int = 1000,
    limits: DownloadLimits | None = None,
    progress: Progress = silent,
) -> dict[str, int]:
    """Fetch (key, address) pairs into a folder; returns the counts of successes and of failures by reason.

    Args:
        images: The pairs, always in the same order; repeated keys are skipped.
        folder: Folder for ``00000.tar`` and ``00000.jsonl``, ...; without ``tar`` for the images themselves, by key.
        tar: Write WebDataset tars instead of files.
        per_shard: Number of images per shard.
        limits: Limits of downloads.
        progress: Called with the progress.

    Raises:
        InputError: The folder cannot be written, or has shards of another list.
    """
    fetcher = _Fetcher(limits or DownloadLimits())
    counts: dict[str, int] = {}
    done = 0
    for number, shard in enumerate(_shards(images, per_shard)):
        log = folder / f"{number:05d}.jsonl"
        if not log.exists():
            results = fetcher.fetch(shard)
            _store(folder, number, results, tar)
            with JsonlWriter(log) as writer:
                for result, _ in results:
                    writer.write(asdict(result))
        rows = list(read_jsonl(log))
        if [row["key"] for row in rows] != [key for key, _ in shard]:
            raise InputError(f"{log} belongs to another list of images; name another folder")
        for row in rows:
            reason = row["problem"].partition(":")[0] or "fetched"
            counts[reason] = counts.get(reason, 0) + 1
        done += len(shard)
        progress("fetching images", done, None)
    return counts


def _shards(images: Iterable[tuple[str, str]], size: int) -> Iterator[list[tuple[str, str]]]:
    seen: set[int] = set()  # hashes of keys, to save memory

    def unique() -> Iterator[tuple[str, str]]:
        for key, url in images:
            number = hash(key)
            if number not in seen:
                seen.add(number)
                yield key, url

    source = unique()
    while shard := list(islice(source, size)):
        yield shard


def _store(folder: Path, number: int, results: list[tuple[Fetched, bytes]], tar: bool) -> None:
    if not tar:
        for result, data in results:
            if data:
                with atomic_write(folder / result.key) as file:
                    file.write(data)
        return
    with atomic_path(folder / f"{number:05d}.tar") as temporary, tarfile.open(temporary, "w") as archive:
        for result, data in results:
            if data:
                member = tarfile.TarInfo(result.key)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


class _Fetcher:
    def __init__(self, limits: DownloadLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._hosts: dict[str, tuple[threading.Lock, list[float]]] = {}

    def fetch(self, images: list[tuple[str, str]]) -> list[tuple[Fetched, bytes]]:
        with ThreadPoolExecutor(self._limits.threads) as pool:
            return list(pool.map(lambda image: self._one(*image), images))

    def _one(self, key: str, url: str) -> tuple[Fetched, bytes]:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return Fetched(key, url, problem="not an http address"), b""
        with self._lock:
            turn, last = self._hosts.setdefault(parts.hostname, (threading.Lock(), [0.0]))
        problem = ""
        for wait in (*_WAITS, None):
            with turn:
                time.sleep(max(0.0, last[0] + self._limits.delay - time.monotonic()))
                try:
                    data = self._get(url)
                    decode_image(data, key, at_least=1)
                    return Fetched(key, url, hashlib.sha256(data).hexdigest(), len(data)), data
                except UnreadableImage as error:
                    return Fetched(key, url, problem=f"not an image: {error.reason}"), b""
                except _Refused as error:
                    return Fetched(key, url, problem=str(error)), b""
                except urllib.error.HTTPError as error:
                    problem = f"HTTP {error.code}"
                    if error.code not in (429, 500, 502, 503, 504):
                        return Fetched(key, url, problem=problem), b""
                    wait = _wait_asked_for(error, wait)
                except (OSError, ValueError) as error:
                    problem = f"no connection: {error}"
                finally:
                    last[0] = time.monotonic()
            if wait is not None:
                time.sleep(wait)
        return Fetched(key, url, problem=problem), b""

    def _get(self, url: str) -> bytes:
        request = urllib.request.Request(url, headers={"User-Agent": AGENT})
        with urllib.request.urlopen(request, timeout=self._limits.timeout) as response:
            said = ",".join(response.headers.get_all("X-Robots-Tag") or []).lower()
            if _OPT_OUT & {word.strip() for word in said.replace(":", ",").split(",")}:
                raise _Refused("opted out: X-Robots-Tag")
            data: bytes = response.read(self._limits.most_bytes + 1)
        if len(data) > self._limits.most_bytes:
            raise _Refused("too large")
        return data


class _Refused(Exception):
    """An image that must not be taken."""


def _wait_asked_for(error: urllib.error.HTTPError, wait: float | None) -> float | None:
    asked = retry_after(error.headers.get("Retry-After", "")) if error.headers else None
    return wait if wait is None or asked is None else min(60.0, asked)
