"""Files that are either complete or absent, and their hashes."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from mblip.errors import MblipError, cannot_read, cannot_write, of_system


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; on success it is synced to disk and replaces ``path``.

    For libraries that write by path. After any failure inside (an exception, Ctrl-C, a full disk), ``path`` keeps its
    content and the temporary file is removed; one left by a killed process is removed at the next write.

    Raises:
        ResourceError: The disk is full.
        InputError: The operating system refuses to write there; the message names the file and the reason.
    """
    path = Path(path)
    with _temporary(path) as temporary:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give a new, empty folder beside ``path``; on success its files are synced and it replaces ``path``.

    Like :func:`atomic_path`, for checkpoints and exports. A replaced folder is renamed first, so both are never mixed.

    Raises:
        InputError: As in :func:`atomic_path`.
    """
    path = Path(path)
    with _temporary(path) as temporary, _temporary(path) as old:
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():  # safetensors writes files that nobody else may read
                file.chmod(stat.S_IMODE(file.stat().st_mode) | (temporary.stat().st_mode & 0o666))
            _sync(file)
        if path.is_dir():
            path.rename(old)
        temporary.rename(path)
        _sync(path.parent)


@contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open ``path`` for writing (``"wb"``, or ``"w"`` for UTF-8 text); it changes only if the block succeeds.

    Raises:
        InputError: As in :func:`atomic_path`.
    """
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    with atomic_path(path) as temporary, temporary.open(mode, **text) as file:
        yield file


class Appender:
    """Appends pieces to a file; each is handed to the system at once.

    A killed process loses no earlier piece, and leaves at most the beginning of one piece.

    Args:
        path: The file; it and its parent folders are created.
        end: Length in bytes to cut the file to first, such as the end of its last complete line; None to keep all of
            it.

    Raises:
        InputError: The file cannot be written.
    """

    def __init__(self, path: str | Path, end: int | None = None) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file: int | None = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            self.size = os.fstat(self._file).st_size if end is None else end
            os.ftruncate(self._file, self.size)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def append(self, data: bytes) -> None:
        """Add a piece.

        Raises:
            ResourceError: The disk is full or missing; earlier pieces are kept.
        """
        if self._file is None:
            raise ValueError(f"{self.path} is closed")
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file, self.size)
            raise self._refused(error) from error
        self.size += len(data)

    def close(self) -> None:
        """Sync to disk and close.

        Raises:
            ResourceError: The disk is full or missing.
        """
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            os.fsync(file)
        except OSError as error:
            raise self._refused(error) from error
        finally:
            os.close(file)

    def _refused(self, error: OSError) -> MblipError:
        return of_system(error, f"cannot write {self.path}: {error.strerror}; everything before is kept")


@contextmanager
def no_empty_folders(folder: Path) -> Iterator[None]:
    """After a failure in the block, remove the empty folders on the way to ``folder`` that the block has made."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        if made and all(path.is_dir() for path in made[-1].rglob("*")):
            shutil.rmtree(made[-1], ignore_errors=True)
        raise


def write_json(path: str | Path, data: Any) -> None:
    """Write ``data`` as indented JSON, atomically. NaN and infinity, which JSON lacks, raise ValueError."""
    text = json.dumps(data, ensure_ascii=False, indent=2, allow_nan=False)
    with atomic_write(path, "w") as file:
        file.write(text + "\n")


def cache_folder(name: str) -> Path:
    """The folder for files that can be made again: ``mblip/NAME`` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mblip" / name


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise cannot_read(path, error) from error


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, removed in the end; errors name ``path``."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        yield temporary
    except OSError as error:
        # An OSError inside the caller's block may be about another path, and is then not changed.
        named = Path(os.fsdecode(error.filename)) if error.filename is not None else temporary
        if named not in (path, *path.parents) and temporary not in (named, *named.parents):
            raise
        raise cannot_write(path, error) from error
    finally:
        _remove(temporary)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _remove_stale(path: Path) -> None:
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*.*.tmp"):
        process = stale.name.split(".")[-3]
        if process.isdigit() and not _alive(int(process)):
            _remove(stale)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
