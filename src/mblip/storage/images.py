"""Image stores: a folder, WebDataset tars, Parquet with pictures in its cells, or a plug-in's store, read by key.

An unreadable image raises an error with its key and the reason. It never becomes a blank picture.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from PIL import Image

from mblip import plugins
from mblip.errors import InputError, MblipError, cannot_read, quoted, refusal
from mblip.storage.cells import PictureCells, picture_column
from mblip.storage.decoding import UnreadableImage, decode_image
from mblip.storage.files import atomic_write
from mblip.storage.folders import closed_folder, find_file, is_junk, is_picture, spellings
from mblip.storage.tars import Member, walk_tar


class ImageStore(Protocol):
    """Images by key."""

    def get(self, key: str, at_least: int = 0) -> Image.Image:
        """The image, upright, in RGB; for ``at_least`` see :func:`decode_image`.

        Raises:
            UnreadableImage: It is missing, damaged or refused.
        """
        ...

    def __contains__(self, key: str) -> bool:
        """Whether the store has this key (the image may still be damaged)."""
        ...


class FolderStore:
    """The files below a folder; keys are relative paths, with or without the extension.

    Raises:
        InputError: There is no such folder, or it may not be searched.
    """

    def __init__(self, folder: str | Path, as_stored: bool = False) -> None:
        self.folder, self._as_stored = Path(folder), as_stored
        if closed := closed_folder(self.folder):
            raise closed
        if not self.folder.is_dir():
            raise InputError(f"{self.folder} is not a folder of images")

    def get(self, key: str, at_least: int = 0) -> Image.Image:
        """See :class:`ImageStore`."""
        path = self._find(key)
        if path is None:
            tars = "; but it holds tars: name them, as in " + str(self.folder / "*.tar")
            hint = tars if any(self.folder.glob("*.tar")) else ""
            raise UnreadableImage(key, f"{self.folder} holds no such file{hint}")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UnreadableImage(key, str(closed_folder(path) or f"{path}: {refusal(error)}")) from error
        return decode_image(data, key, at_least, self._as_stored)

    def __contains__(self, key: str) -> bool:
        try:
            return self._find(key) is not None
        except UnreadableImage:
            return False

    def _find(self, key: str) -> Path | None:
        if fault := fault_of_key(key):
            raise UnreadableImage(key, fault)
        return find_file(self.folder, key)


def fault_of_key(key: str) -> str:
    """Why no folder can have this key, whatever files it has; empty for others."""
    meant = PurePosixPath(key.replace("\\", "/"))
    if meant.is_absolute() or ".." in meant.parts or "\0" in key:
        return "the key leads out of the folder"
    return f"its path has a backslash: write {quoted(str(meant))}" if "\\" in key else ""


class TarStore:
    """The images inside one or more WebDataset tars; keys are member names, with or without the extension.

    Nothing is extracted, so member names and links cannot lead anywhere. The index (24 bytes per image) is built once
        and saved beside each tar as ``NAME.tar.index.npz``, if that folder can be written.

    Raises:
        InputError: A tar is missing, compressed or damaged, or a name occurs twice.
    """

    def __init__(self, paths: list[str | Path], as_stored: bool = False) -> None:
        self.paths, self._as_stored = [Path(path) for path in paths], as_stored
        parts = []
        for number, path in enumerate(self.paths):
            part = _tar_index(path)
            part["tar"] = number
            parts.append(part)
        index = np.concatenate(parts)
        self._index = index[np.argsort(index["name"], kind="stable")]
        twice = np.flatnonzero(self._index["name"][1:] == self._index["name"][:-1])
        if len(twice):
            first, second = (self.paths[self._index[twice[0] + step]["tar"]] for step in (0, 1))
            raise InputError(f"{first} and {second} hold an image of the same name; keys must be unique over all tars")

    def __len__(self) -> int:
        return len(self._index)

    def get(self, key: str, at_least: int = 0) -> Image.Image:
        """See :class:`ImageStore`."""
        row = self._find(key)
        if row is None:
            raise UnreadableImage(key, f"it is in none of the {len(self.paths)} tars, such as {self.paths[0]}")
        member = Member(str(self.paths[row["tar"]]), key, int(row["offset"]), int(row["size"]))
        return decode_image(member.read(key), key, at_least, self._as_stored)

    def __contains__(self, key: str) -> bool:
        return self._find(key) is not None

    def _find(self, key: str) -> Any:
        for name in spellings(key):
            wanted = _name_hash(name)
            row = int(np.searchsorted(self._index["name"], wanted))
            if row < len(self._index) and self._index["name"][row] == wanted:
                return self._index[row]
        return None


class ParquetStore:
    """The pictures in the cells of Parquet files, in the form of the Hugging Face Hub; keys are ``FILE#ROW``.

    ``FILE`` is the file's name and ``ROW`` counts from 0. A picture is found by reading its row group from the
    beginning, so groups of hundreds of rows (the Hub's have 100) are fast and groups of many thousands are slow.

    Raises:
        InputError: A file cannot be read, or has no column of pictures or several; or two files have the same name.
    """

    def __init__(self, paths: list[Path], as_stored: bool = False) -> None:
        self._as_stored = as_stored
        self._cells: dict[str, PictureCells] = {}
        for path in paths:
            if path.name in self._cells:
                raise InputError(f"two files have the name {path.name}; keys must be unique over all of them")
            self._cells[path.name] = PictureCells(path, picture_column(path))

    def get(self, key: str, at_least: int = 0) -> Image.Image:
        """See :class:`ImageStore`."""
        if key not in self:
            raise UnreadableImage(key, f"none of {len(self._cells)} Parquet files has this row; keys are FILE#ROW")
        name, _, row = key.rpartition("#")
        data, path = self._cells[name].get(int(row))
        if data is None:
            raise UnreadableImage(key, f"its cell has no picture{f', but the path {quoted(path)}' if path else ''}")
        return decode_image(data, key, at_least, self._as_stored)

    def __contains__(self, key: str) -> bool:
        name, _, row = key.rpartition("#")
        return name in self._cells and row.isdecimal() and int(row) < len(self._cells[name])


_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+")  # at least two characters, because C: is a drive


def image_scheme(uri: str) -> str:
    """The registered scheme in an image store's name, such as ``nano`` in ``nano:scenes``; empty if there is none."""
    scheme, colon, _ = uri.partition(":")
    return scheme if colon and _SCHEME.fullmatch(scheme) and scheme in plugins.image_schemes else ""


def open_images(uri: str | Path, as_stored: bool = False) -> ImageStore:
    """Open an image store.

    Args:
        uri: A folder; a ``.tar``, or several by glob (``data/*.tar``) or range (``data/{000..099}.tar``), or a folder
            with tars and no pictures; one or several ``.parquet`` files with pictures in their cells; or
            ``SCHEME:NAME`` with a registered scheme, such as ``nano:scenes``, emoji scenes that are drawn on demand.
        as_stored: Option of decoding, see :func:`~mblip.storage.decode_image`.

    Raises:
        InputError: There is no such store.
    """
    text = str(uri)
    if scheme := image_scheme(text):
        store: ImageStore = plugins.image_schemes[scheme](text.partition(":")[2], as_stored)
        return store
    if text.endswith((".tar", ".parquet")) and not Path(text).is_dir():
        # Path.glob needs a relative pattern.
        paths = [path for pattern in _expand_ranges(text) for path in sorted(glob.glob(pattern)) or [pattern]]  # noqa: PTH207
        found = [Path(path) for path in paths if not is_junk(Path(path).name)]
        return TarStore(list(found), as_stored) if text.endswith(".tar") else ParquetStore(found, as_stored)
    if text and (closed := closed_folder(text)):
        raise closed
    if text and Path(text).is_dir():
        tars = sorted(path for path in Path(text).glob("*.tar") if not is_junk(path.name))
        return TarStore(list(tars), as_stored) if tars and _holds_no_pictures(text) else FolderStore(text, as_stored)
    raise InputError(
        f"{quoted(text)} is not an image store: name a folder, a .tar, a .parquet or a pattern of them{other_stores()}"
    )


def other_stores() -> str:
    """The end of a sentence that lists image stores: those of plug-ins."""
    schemes = [f"{scheme}:NAME" for scheme in plugins.image_schemes]
    return f", or {', '.join(schemes)}{plugins.lacking()}" if schemes else plugins.lacking()


def _holds_no_pictures(folder: str) -> bool:
    """Whether a folder of tars has neither pictures nor folders; other files do not count."""
    with os.scandir(folder) as entries:  # the first picture ends the search
        return not any(
            is_picture(entry.name) or entry.is_dir()
            for entry in entries
            if not (entry.name.startswith(".") or is_junk(entry.name))
        )


_INDEX_TYPE = np.dtype([("name", "<u8"), ("offset", "<i8"), ("size", "<u4"), ("tar", "<u4")])


def _name_hash(name: str) -> int:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _tar_index(path: Path) -> np.ndarray[Any, Any]:
    try:
        status = path.stat()
    except OSError as error:
        raise cannot_read(path, error, "the tar ") from error
    stamp = np.array([status.st_size, status.st_mtime_ns], np.int64)
    saved = path.with_name(path.name + ".index.npz")
    with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile), np.load(saved) as file:
        if np.array_equal(file["stamp"], stamp) and file["index"].dtype == _INDEX_TYPE:
            return np.array(file["index"])
    rows = [(_name_hash(member.name), member.offset, member.size, 0) for member in walk_tar(path)]
    index = np.array(rows, _INDEX_TYPE)
    with suppress(MblipError), atomic_write(saved) as file:  # in a read-only folder it is rebuilt next time
        np.savez(file, stamp=stamp, index=index)
    return index


def _expand_ranges(pattern: str) -> Iterator[str]:
    """Expand ``{000..012}`` as a shell does, keeping the zeros."""
    before, brace, rest = pattern.partition("{")
    inside, closing, after = rest.partition("}")
    first, dots, last = inside.partition("..")
    if not (brace and closing and dots and first.isdigit() and last.isdigit()):
        yield pattern
        return
    for number in range(int(first), int(last) + 1):
        yield from _expand_ranges(f"{before}{number:0{len(first)}d}{after}")
