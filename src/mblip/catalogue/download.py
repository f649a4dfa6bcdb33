"""Plan and run downloads of data sets, several files at once."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mblip.catalogue.entries import DataSet, SetFile
from mblip.catalogue.receipts import look_at, receipt_of, write_receipt
from mblip.errors import InputError, counted
from mblip.progress import Progress, silent
from mblip.storage import exclusive_lock, has_content, sha256_file

Standing = Literal["complete", "missing", "damaged", "packed", "to ask for"]


@dataclass
class Item:
    """A file of a data set, and its state.

    Attributes:
        entry: The data set.
        file: The file.
        target: Its path; a checkpoint is in the Hub's cache.
        standing: ``packed`` is present but not unpacked; ``to ask for`` is missing and has no address.
        why: The damage, if there is any.
        size: Size in bytes from the catalogue or the server; None if it is unknown.
        have: Bytes from an earlier, stopped run.
    """

    entry: DataSet
    file: SetFile
    target: Path
    standing: Standing
    why: str = ""
    size: int | None = None
    have: int = 0

    @property
    def left(self) -> int | None:
        """Bytes that are still to be downloaded."""
        if self.standing in ("complete", "packed", "to ask for"):
            return 0
        return None if self.size is None else max(0, self.size - self.have)


@dataclass
class Plan:
    """A planned download.

    Attributes:
        folder: The data folder.
        items: All files, each once.
    """

    folder: Path
    items: list[Item] = field(default_factory=list)

    @property
    def open(self) -> list[Item]:
        """The files to download or unpack."""
        return [item for item in self.items if item.standing in ("missing", "damaged", "packed")]

    @property
    def to_ask_for(self) -> list[Item]:
        """The files that the user must request."""
        return [item for item in self.items if item.standing == "to ask for"]

    @property
    def left(self) -> int:
        """Bytes to download, as far as the sizes are known."""
        return sum(item.left or 0 for item in self.open)

    @property
    def unknown(self) -> int:
        """Number of files of unknown size."""
        return sum(item.left is None for item in self.open)

    def check_space(self) -> None:
        """Check that the disk has room for the download and the unpacked files, as far as sizes are known.

        Raises:
            InputError: It has not.
        """
        unpacked = sum(item.file.unpacked_bytes or item.size or 0 for item in self.open if item.file.folder is not None)
        local = sum(item.left or 0 for item in self.open if not item.file.is_checkpoint)
        existing = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(existing).free
        if local + unpacked > free:
            raise InputError(
                f"{existing} has {free:,} bytes free, but {local:,} must be downloaded and about {unpacked:,} "
                "unpacked; free some space, or name a folder on another disk with --to"
            )


def make_plan(
    sets: Iterable[DataSet], folder: Path, *, keep: bool = False, say: Callable[[str], None] = lambda text: None
) -> Plan:
    """The state of each file of some data sets below a folder; uses no network.

    Args:
        sets: The data sets.
        folder: The data folder.
        keep: Save the results of checks for the next plan.
        say: Called before a large file is checked.

    Raises:
        InputError: Two data sets have different files for one path, or a file cannot be read.
    """
    plan, seen = Plan(folder), dict[str, SetFile]()
    for entry in sets:
        for file in entry.files:
            key = file.url if file.is_checkpoint else file.target
            if key in seen:
                if seen[key].url != file.url:
                    raise InputError(
                        f"two data sets have different files for {folder / file.target}; download them into different "
                        "folders"
                    )
                continue
            seen[key] = file
            plan.items.append(_item(entry, file, folder, keep, say))
    return plan


def ask_sizes(plan: Plan, jobs: int = 8) -> None:
    """Ask the servers for unknown sizes, each once and for a few seconds."""
    unknown = [item for item in plan.open if item.size is None]
    if not unknown:
        return
    from mblip.catalogue.answers import Patience, open_client
    from mblip.catalogue.fetching import ask_size

    patience = Patience(timeout=5.0)
    with open_client(patience) as client, ThreadPoolExecutor(jobs) as pool:

        def ask(item: Item) -> int | None:
            if item.file.hub:
                from mblip.catalogue.hub import hub_size

                return hub_size(item.file.hub)
            return ask_size(client, item.file.url, patience)

        for item, size in zip(unknown, pool.map(ask, unknown), strict=True):
            item.size = size


def run_plan(
    plan: Plan,
    *,
    jobs: int = 4,
    remove_archives: bool = False,
    patience: Any = None,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Download and unpack all open files, several at once; a failure does not stop the others.

    Args:
        plan: A plan of :func:`make_plan`.
        jobs: Number of files at once.
        remove_archives: Delete archives after unpacking.
        patience: Limits of tries (:class:`~mblip.catalogue.answers.Patience`).
        progress: Called with the progress over all files.
        say: Called with a message for each finished file, and for each wait.

    Raises:
        InputError: Files have failed; the message gives the first reason.
    """
    from mblip.catalogue.answers import Patience, open_client

    patience = patience or Patience()
    stop, tally = threading.Event(), _Tally(plan, progress)
    with open_client(patience) as client:
        work = _Work(client, patience, stop, tally, say, remove_archives)
        pool = ThreadPoolExecutor(jobs, thread_name_prefix="download")
        try:
            futures = {pool.submit(work.do, item): item for item in plan.open}
            wait(futures)
        except BaseException:
            stop.set()  # partial files can be continued at any time
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        pool.shutdown()
    problems = []
    for future, item in futures.items():
        error = future.exception()
        if isinstance(error, InputError):
            problems.append(str(error))
            say(f"{item.file.target or item.file.url}: {error}")
        elif error is not None:
            raise error
    if problems:
        others = f" {len(problems) - 1} more failed, as said above." if len(problems) > 1 else ""
        raise InputError(f"{len(problems)} of {len(futures)} files could not be downloaded: {problems[0]}.{others}")


class _Tally:
    """Sums up the progress of all files."""

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self._progress, self._lock = progress, threading.Lock()
        fetched = [item for item in plan.open if item.standing != "packed"]
        self._have = {id(item): item.have for item in fetched}
        self._sizes = {id(item): item.size for item in fetched}
        if fetched:
            self._tell()

    def update(self, item: Item, have: int, size: int | None) -> None:
        with self._lock:
            self._have[id(item)] = have
            if size is not None:
                self._sizes[id(item)] = size
            self._tell()

    def _tell(self) -> None:
        sizes = list(self._sizes.values())
        self._progress(
            "fetching", sum(self._have.values()), None if None in sizes else sum(size or 0 for size in sizes)
        )


@dataclass
class _Work:
    """State that the threads share."""

    client: Any
    patience: Any
    stop: threading.Event
    tally: _Tally
    say: Callable[[str], None]
    remove_archives: bool

    def do(self, item: Item) -> None:
        """Fetch and unpack one file."""
        if self.stop.is_set():
            return
        if item.file.is_checkpoint and item.file.hub:
            from mblip.catalogue.hub import fetch_checkpoint

            folder = fetch_checkpoint(item.file.hub)
            self.tally.update(item, item.size or 0, item.size or 0)
            self.say(f"{item.file.hub.repository}: in {folder}")
            return
        _check_place(item.target)
        with exclusive_lock(item.target, "downloading"):
            now = _item(item.entry, item.file, _root(item))
            if now.standing in ("missing", "damaged"):  # another process may have been faster
                self._fetch(item)
            if item.file.folder is not None and now.standing != "complete":
                self._unpack(item)

    def _fetch(self, item: Item) -> None:
        from mblip.catalogue.fetching import Fetcher

        file = item.file
        if file.hub:
            from mblip.catalogue.hub import fetch_hub_file

            item.target.parent.mkdir(parents=True, exist_ok=True)
            fetch_hub_file(file.hub, item.target, file.bytes, file.sha256)
            digest = sha256_file(item.target)
        else:
            digest = Fetcher(
                self.client, file.url, item.target, size=file.bytes, sha256=file.sha256, patience=self.patience,
                stop=self.stop, tell=lambda have, size: self.tally.update(item, have, size), say=self.say,
            ).run()  # fmt: skip
        receipt = write_receipt(item.target, digest)
        self.tally.update(item, receipt.bytes, receipt.bytes)
        checked = "size and checksum are as stated" if file.sha256 else "SHA-256 " + digest[:12]
        self.say(f"{item.target}: {receipt.bytes:,} bytes, {checked}")

    def _unpack(self, item: Item) -> None:
        from mblip.catalogue.unpacking import unpack

        folder = _root(item) / (item.file.folder or "")
        found = unpack(item.target, folder, most_bytes=item.file.unpacked_bytes, inner=item.file.inner)
        receipt = receipt_of(item.target)
        digest = receipt.sha256 if receipt else sha256_file(item.target)
        kept = {"files": found.files, "bytes": found.bytes, "first": list(found.first)}
        write_receipt(item.target, digest, kept)
        self.say(f"{item.target}: {counted(found.files, 'file')} unpacked into {folder}")
        if self.remove_archives:
            item.target.unlink()


def _check_place(target: Path) -> None:
    if target.is_dir():
        raise InputError(
            f"{target} is a folder, where a file must be put; move it away, and run the same command again"
        )
    above = next(path for path in target.absolute().parents if path.exists())
    if not above.is_dir():
        raise InputError(
            f"{above} is a file, where a folder must be made; move it away, and run the same command again"
        )


def _root(item: Item) -> Path:
    """The data folder."""
    return item.target.parents[len(Path(item.file.target).parts) - 1]


def _item(
    entry: DataSet, file: SetFile, folder: Path, keep: bool = False, say: Callable[[str], None] = lambda text: None
) -> Item:
    size = file.bytes if file.bytes is not None else file.about_bytes
    if file.is_checkpoint and file.hub:
        from mblip.catalogue.hub import cached_checkpoint

        return Item(entry, file, folder, "complete" if cached_checkpoint(file.hub) else "missing", size=size)
    target = folder / file.target
    if not file.url and target.is_dir():  # pictures that the user has requested and put there
        return Item(entry, file, target, "complete" if has_content(target) else "to ask for")
    state, why = look_at(target, file.bytes, file.sha256, keep=keep, say=say)
    standing: Standing = state
    if file.folder is not None and state != "damaged":
        receipt = receipt_of(target)
        unpacked = receipt.unpacked if receipt else None
        there = unpacked is not None and all((folder / file.folder / name).exists() for name in unpacked["first"])
        if there and (state == "complete" or not target.exists()):  # the archive may have been removed
            standing = "complete"
        elif state == "complete":
            standing = "packed"
    if standing != "complete" and state != "complete" and not file.url:
        standing = "to ask for"
    part = target.with_name(f".{target.name}.part")
    have = part.stat().st_size if part.is_file() else 0
    return Item(entry, file, target, standing, why, size, have)
