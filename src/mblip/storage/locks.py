"""One process at a time on what is written."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mblip.errors import InputError, of_system


class BusyError(InputError):
    """Another process holds what was to be written."""


@contextmanager
def exclusive_lock(path: str | Path, doing: str) -> Iterator[None]:
    """Hold a folder, or a file that is to be written, against every other process. A process that dies lets go.

    A folder is held itself. A file may be replaced meanwhile, so that ``.NAME.lock`` beside it is held instead, which goes
    in the end. Where the file system has no locks, nothing is held.

    Args:
        path: The folder, which must exist, or the file.
        doing: What the other process does there, such as ``training``.

    Raises:
        BusyError: Another process holds it.
        InputError: It cannot be opened.
    """
    path = Path(os.path.realpath(path))  # one file has one lock, whatever links lead to it
    lock = path if path.is_dir() else path.with_name(f".{path.name}.lock")
    held = _open(lock)
    try:
        while not _take(held, path, doing):
            os.close(held)  # the process before removed the file that was opened here
            held = _open(lock)
        try:
            yield
        finally:
            if lock != path:
                with suppress(OSError):
                    lock.unlink()
    finally:
        os.close(held)


def _open(lock: Path) -> int:
    try:
        if lock.is_dir():
            return os.open(lock, os.O_RDONLY)
        lock.parent.mkdir(parents=True, exist_ok=True)
        return os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise of_system(
            error,
            f"cannot write {lock}: {error.strerror or error}; choose a folder that can be written",
        ) from error


def _take(held: int, path: Path, doing: str) -> bool:
    """Lock an open file; whether it still has a name, and so is the one that the next process will find."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        kind = "directory" if path.is_dir() else "file"
        raise BusyError(f"{path}: another process is {doing} there; wait for it, or name another {kind}") from None
    except OSError:  # a file system without locks
        return True
    return os.fstat(held).st_nlink > 0
