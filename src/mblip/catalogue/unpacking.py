"""Unpack untrusted archives safely: no paths outside the folder, no links, devices or bombs, and nothing half done.

An archive is read twice. First its complete list of members is checked, so that a hostile archive writes nothing. Then
it is unpacked into a hidden folder, from which complete files move to their places.
"""

from __future__ import annotations

import bz2
import filecmp
import gzip
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from mblip.catalogue.names import unsafe
from mblip.errors import InputError, quoted

SHARE, LEAST = 100, 16 << 20
"""Default limits of unpacked bytes: a multiple of the archive's size, and a minimum."""

_MOST_MEMBERS = 5_000_000
_BLOCK = 1 << 20
_LONGEST_READ = 4 << 20  # bytes of names and attributes of one member of a tar
_LONGEST_END = 64 << 20  # bytes that a compressed tar may have after its last member
_DAMAGED = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, NotImplementedError,
    ValueError,
)  # fmt: skip
_OPENERS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}


@dataclass(frozen=True)
class Unpacked:
    """The result of unpacking.

    Attributes:
        files: Number of files.
        bytes: Their total size.
        first: At most 100 names at the top of the archive.
    """

    files: int
    bytes: int
    first: tuple[str, ...]


@dataclass(frozen=True)
class _Member:
    """A file or folder of an archive."""

    name: str
    size: int
    is_folder: bool
    raw: Any


class _Hostile(Exception):
    """An archive that must not be unpacked, and why."""


def unpack(
    archive: Path, folder: Path, *, most_bytes: int | None = None, inner: bool = False,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Unpacked:  # fmt: skip
    """Unpack a zip, or a tar, plain or compressed by gzip, bzip2 or xz.

    Args:
        archive: The file.
        folder: The destination; its files are kept, and a file of the same name must be equal.
        most_bytes: Maximal size of all members.
        inner: Unpack archives in the archive too, each into a folder of its name, like ImageNet's classes.
        tell: Called with the bytes written and the total.

    Raises:
        InputError: The archive is hostile, damaged or too large, a member would replace another file, or the disk is
            full. Then only complete files that were moved already are kept.
    """
    try:
        limit = most_bytes or max(LEAST, SHARE * archive.stat().st_size)
        with _open(archive) as opened:
            members = _checked(opened.members(), limit)
            total = sum(member.size for member in members)
            _check_space(folder, total * (2 if inner else 1), archive)
        staging = folder / f".{archive.name}.unpacking"
        shutil.rmtree(staging, ignore_errors=True)
        try:
            staging.mkdir(parents=True)
            with _open(archive) as opened:
                _write(opened, members, staging, lambda done: tell(done, total))
            if inner:
                members = _unpack_inner(staging, members, limit)
            _move(staging, folder, members, archive)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except _Hostile as error:
        raise InputError(
            f"{archive} is not unpacked: {error}; do not trust it: delete it, and get it from another place"
        ) from error
    except _DAMAGED as error:
        raise InputError(
            f"{archive} is damaged or not an archive ({error}); delete it and download it again"
        ) from error
    except RuntimeError as error:  # zipfile's error for a password
        raise InputError(f"{archive} cannot be unpacked: {error}") from error
    except OSError as error:
        raise InputError(
            f"cannot unpack {archive}: {error.strerror or error}; free the space or choose a folder that can be "
            "written, then run the same command again"
        ) from error
    files = [member for member in members if not member.is_folder]
    tops = dict.fromkeys(member.name.split("/")[0] for member in files)
    return Unpacked(len(files), sum(member.size for member in files), tuple(tops)[:100])


def _checked(members: Iterator[_Member], limit: int) -> list[_Member]:
    """All members, after a check that each may be written."""
    found: list[_Member] = []
    kinds: dict[str, bool] = {}
    total = 0
    for member in members:
        if len(found) >= _MOST_MEMBERS:
            raise _Hostile(f"it has more than {_MOST_MEMBERS:,} members")
        name = "/".join(part for part in member.name.split("/") if part not in ("", "."))
        if member.is_folder:
            if kinds.setdefault(name, True) is False:
                raise _Hostile(f"its member {quoted(name)} is both a file and a folder")
            if name:
                found.append(_Member(name, 0, True, member.raw))
            continue
        if not name:
            raise _Hostile("it has a file without a name")
        if name in kinds:
            raise _Hostile(f"it has two members called {quoted(name)}")
        kinds[name] = False
        total += member.size
        if member.size < 0 or total > limit:
            raise _Hostile(
                f"it unpacks to more than {limit:,} bytes, {SHARE} times its own size (unpacked_bytes of the catalogue "
                "allows more)"
            )
        found.append(_Member(name, member.size, False, member.raw))
    if False not in kinds.values():
        raise EOFError("it holds no file")
    for name in kinds:
        parents = name.split("/")[:-1]
        for depth in range(1, len(parents) + 1):
            if kinds.get("/".join(parents[:depth])) is False:
                raise _Hostile(f"its member {quoted(name)} is inside another member that is a file")
    return found


def _check_space(folder: Path, needed: int, archive: Path) -> None:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise InputError(
            f"{archive} unpacks to {needed:,} bytes, but {existing} has {free:,} bytes free; free some and run the "
            "same command again"
        )


def _write(opened: _Archive, members: list[_Member], staging: Path, tell: Callable[[int], None]) -> None:
    done = 0
    for member in members:
        path = staging / member.name
        if member.is_folder:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(opened.read(member)) as source, path.open("xb") as file:
            left = member.size
            while block := source.read(min(_BLOCK, left + 1)):
                left -= len(block)
                if left < 0:
                    raise _Hostile(f"its member {quoted(member.name)} is longer than the archive's list says")
                file.write(block)
                done += len(block)
                tell(done)
            if left:
                raise EOFError(f"member {member.name!r} is cut off")


def _unpack_inner(staging: Path, members: list[_Member], limit: int) -> list[_Member]:
    """Unpack each inner archive into a folder of its name, and leave the archive out."""
    found: list[_Member] = []
    for member in members:
        path = staging / member.name
        if member.is_folder or not member.name.lower().endswith((".tar", ".zip")):
            found.append(member)
            continue
        with _open(path) as opened:
            parts = _checked(opened.members(), limit)
            to = path.with_suffix("")
            to.mkdir(exist_ok=True)
            _write(opened, parts, to, lambda done: None)
        path.unlink()
        name = member.name.rpartition(".")[0]
        found += [_Member(f"{name}/{part.name}", part.size, part.is_folder, None) for part in parts]
        if sum(part.size for part in found) > limit:
            raise _Hostile(f"the archives in it unpack to more than {limit:,} bytes")
    return found


def _move(staging: Path, folder: Path, members: list[_Member], archive: Path) -> None:
    files = [member for member in members if not member.is_folder]
    for member in files:
        source, target = staging / member.name, folder / member.name
        if os.path.lexists(target) and not (target.is_file() and filecmp.cmp(source, target, shallow=False)):
            raise InputError(
                f"{archive} holds {member.name}, but {target} already exists and differs; move it away and run the "
                "same command again"
            )
    os.sync()  # the files must be on the disk before a receipt says so
    for member in members:
        target = folder / member.name
        if member.is_folder:
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            (staging / member.name).replace(target)
        except OSError:  # the user has linked this folder to another disk
            shutil.copyfile(staging / member.name, target.with_name(f".{target.name}.moving"))
            target.with_name(f".{target.name}.moving").replace(target)
    os.sync()


class _Archive:
    """An open archive."""

    def members(self) -> Iterator[_Member]:
        """Yield the members; refuses anything but files and folders, and unsafe names."""
        raise NotImplementedError

    def read(self, member: _Member) -> IO[bytes]:
        """The content of a file in it."""
        raise NotImplementedError


@contextmanager
def _open(path: Path) -> Iterator[_Archive]:
    with ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        if zipfile.is_zipfile(file):
            file.seek(0)
            yield _Zip(stack.enter_context(zipfile.ZipFile(file)))
            return
        file.seek(0)
        start = file.read(8)
        file.seek(0)
        opener = next((opener for mark, opener in _OPENERS.items() if start.startswith(mark)), None)
        content = stack.enter_context(opener(file)) if opener else file
        bounded = _Bounded(content)
        yield _Tar(stack.enter_context(tarfile.open(fileobj=cast("IO[bytes]", bounded), mode="r:")), bounded)


class _Zip(_Archive):
    def __init__(self, file: zipfile.ZipFile) -> None:
        self._file = file

    def members(self) -> Iterator[_Member]:
        for entry in self._file.infolist():
            # zipfile cuts a name at a NUL, and keeps the archive's name in orig_filename.
            name, mode = entry.orig_filename, entry.external_attr >> 16
            _check_name(name)
            kind = stat.S_IFMT(mode)
            if kind and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise _Hostile(f"its member {quoted(name)} is a link or a device")
            if entry.flag_bits & 1:
                raise RuntimeError("it is password-protected")
            yield _Member(name, entry.file_size, entry.is_dir() or stat.S_ISDIR(mode), entry)

    def read(self, member: _Member) -> IO[bytes]:
        return self._file.open(member.raw)


class _Tar(_Archive):
    def __init__(self, file: tarfile.TarFile, content: _Bounded) -> None:
        self._file, self._content = file, content

    def members(self) -> Iterator[_Member]:
        while (entry := self._file.next()) is not None:
            self._file.members = []  # type: ignore[attr-defined]  # tarfile keeps members, and a million take a gigabyte
            _check_name(entry.name)
            if not (entry.isreg() or entry.isdir()):
                raise _Hostile(f"its member {quoted(entry.name)} is a link or a device")
            if entry.isreg() and entry.issparse():
                raise _Hostile(f"its member {quoted(entry.name)} is a sparse file")
            yield _Member(entry.name, entry.size, entry.isdir(), entry)
        if self._content.last != bytes(tarfile.BLOCKSIZE):  # tarfile accepts any end
            raise EOFError("it is truncated: its end marker is missing")
        for _ in range(_LONGEST_END // _BLOCK):
            if not self._content.read(_BLOCK):  # gzip and others verify their checksum at the end
                return
        raise _Hostile("it has too much data after its last member")

    def read(self, member: _Member) -> IO[bytes]:
        source = self._file.extractfile(member.raw)
        if source is None:
            raise tarfile.ReadError(f"{member.name} has no content")
        return source


class _Bounded:
    """A file that is read only in blocks, so that a header cannot claim to be gigabytes long."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.last = file, b""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LONGEST_READ:
            raise _Hostile("it has a header of more than four megabytes")
        self.last = self._file.read(size)
        return self.last

    def seek(self, place: int, whence: int = 0) -> int:
        return self._file.seek(place, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _check_name(name: str) -> None:
    if name.strip("/.") == "" and ".." not in name and not name.startswith("/"):
        return  # the folder itself, "./"
    if problem := unsafe(name):
        raise _Hostile(f"its member {quoted(name)} {problem}")
