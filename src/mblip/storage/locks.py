"""Locks, so that one process at a time writes to a path."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mblip.errors import InputError, cannot_write
from mblip.storage.files import no_empty_folders


class BusyError(InputError):
    """Another process holds the lock."""


@contextmanager
def exclusive_lock(path: str | Path, doing: str) -> Iterator[None]:
    """Lock a folder, or a file that is written, against all other processes; a process that dies releases it.

    A folder is locked itself. A file may be replaced, so ``.NAME.lock`` beside it is locked instead, and removed in the
    end. On a file system without locks, nothing is locked.

    Args:
        path: The folder, which must exist, or the file.
        doing: The activity of the other process, for the message, such as ``training``.

    Raises:
        BusyError: Another process holds the lock.
        InputError: The path cannot be opened.
    """
    path = Path(os.path.realpath(path))  # one lock per file, also through links
    lock = path if path.is_dir() else path.with_name(f".{path.name}.lock")
    held = _open(lock)
    try:
        while not _take(held, path, doing):
            os.close(held)  # the previous process has removed the opened file
            held = _open(lock)
        try:
            yield
        finally:
            if lock != path:
                with suppress(OSError):
                    lock.unlink()
    finally:
        os.close(held)


@contextmanager
def own_folder(folder: Path, doing: str) -> Iterator[None]:
    """Make a folder and lock it, see :func:`exclusive_lock`; after a failure, the empty folders made for it are removed.

    Raises:
        BusyError: Another process holds the lock.
        MblipError: The folder cannot be made.
    """
    with no_empty_folders(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(folder, error) from error
        with exclusive_lock(folder, doing):
            yield


def _open(lock: Path) -> int:
    try:
        if lock.is_dir():
            return os.open(lock, os.O_RDONLY)
        lock.parent.mkdir(parents=True, exist_ok=True)
        return os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise cannot_write(lock, error) from error


def _take(held: int, path: Path, doing: str) -> bool:
    """Lock an open file; returns whether it still has its name, so that other processes find it."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        kind = "directory" if path.is_dir() else "file"
        raise BusyError(f"{path}: another process is {doing} there; wait for it, or name another {kind}") from None
    except OSError:  # a file system without locks
        return True
    return os.fstat(held).st_nlink > 0
