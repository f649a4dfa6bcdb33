"""Pictures inside a table: in the cells of Parquet, or as base64 (VLMEvalKit's TSV)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from mblip.corpora.json_stream import BadRow
from mblip.errors import of_system
from mblip.storage import UnreadableImage, decode_image
from mblip.storage.cells import PictureCells
from mblip.storage.encoded import decode_picture


def cell_key(path: Path, row: int, column: str) -> str:
    """The key of a picture in a cell of Parquet, with rows from 0."""
    return f"{path.name}#{column}#{row}"


class CellPictures:
    """An image store (see :class:`mblip.storage.ImageStore`) of the pictures in some columns of Parquet files."""

    def __init__(self, as_stored: bool = False) -> None:
        self._as_stored = as_stored
        self._cells: dict[str, PictureCells] = {}

    def add(self, path: Path, columns: Sequence[str]) -> None:
        """Add the pictures of a file.

        Raises:
            InputError: The file cannot be read.
        """
        self._cells |= {cell_key(path, -1, column): PictureCells(path, column) for column in columns}

    def get(self, key: str, at_least: int = 0) -> Image.Image:
        """See :class:`mblip.storage.ImageStore`."""
        cells, row = self._find(key)
        if cells is None:
            raise UnreadableImage(key, "the table has no such cell")
        data, _ = cells.get(row)
        if data is None:
            raise UnreadableImage(key, "its cell has no picture")
        return decode_image(data, key, at_least, self._as_stored)

    def __contains__(self, key: str) -> bool:
        return self._find(key)[0] is not None

    def _find(self, key: str) -> tuple[PictureCells | None, int]:
        name, _, row = key.rpartition("#")
        cells = self._cells.get(f"{name}#-1")
        known = cells is not None and row.isdecimal() and int(row) < len(cells)
        return (cells, int(row)) if known else (None, 0)


class TablePictures:
    """An image store (see :class:`mblip.storage.ImageStore`) that is filled while a table is read.

    Pictures are stored decoded in one unnamed temporary file, which disappears when the process ends in any way.
    """

    def __init__(self, as_stored: bool = False) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the store exists
        self._places: dict[str, tuple[int, int]] = {}
        self._end, self._as_stored = 0, as_stored

    def add(self, key: str, picture: str | bytes) -> None:
        """Store the picture of a cell, base64 or the bytes of a file.

        Raises:
            BadRow: It is not base64.
            InputError: The disk is full.
        """
        try:
            data = picture if isinstance(picture, bytes) else decode_picture(picture)
        except ValueError as error:
            raise BadRow(f"the picture of {key!r} is {error}; it may be cut off") from error
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise of_system(
                error,
                f"the table's pictures cannot be stored in {tempfile.gettempdir()}: {error.strerror}; free space, or "
                "set TMPDIR",
            ) from error
        self._places[key] = (self._end, len(data))
        self._end += len(data)

    def get(self, key: str, at_least: int = 0) -> Image.Image:
        """See :class:`mblip.storage.ImageStore`."""
        if key not in self._places:
            raise UnreadableImage(key, "the table has no such picture")
        start, size = self._places[key]
        return decode_image(os.pread(self._file.fileno(), size, start), key, at_least, self._as_stored)

    def __contains__(self, key: str) -> bool:
        return key in self._places
