"""Pictures in the cells of Parquet, in the form of the Hugging Face Hub: ``{bytes, path}``, or only the bytes."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from mblip.errors import InputError, check_readable, nearest

_ROWS = 16  # rows read at a time


def column_names(path: Path) -> list[str]:
    """The names of a Parquet file's columns.

    Raises:
        InputError: The file cannot be read.
    """
    return list(_open(path).schema_arrow.names)


def picture_columns(path: Path) -> list[str]:
    """The columns of a Parquet file with pictures in their cells.

    Raises:
        InputError: The file cannot be read.
    """
    import pyarrow as pa

    file = _open(path)

    def holds(column: Any) -> bool:
        kind, leaf = column.type, column.name
        if pa.types.is_struct(kind):
            kind = next((kind.field(n).type for n in range(kind.num_fields) if kind.field(n).name == "bytes"), None)
            leaf += ".bytes"
        return kind is not None and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)) and filled(leaf)

    def filled(leaf: str) -> bool:
        """Whether any cell has a value; a data set may have only paths."""
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        chunks = [group.column(n) for group in groups for n in range(group.num_columns)]
        return any(
            not chunk.statistics or chunk.statistics.null_count != chunk.num_values
            for chunk in chunks
            if chunk.path_in_schema == leaf
        )

    return [column.name for column in file.schema_arrow if holds(column)]


def picture_column(path: Path) -> str:
    """The column of a Parquet file with its pictures: ``image``, or the only one.

    Raises:
        InputError: There is none, or several without the name ``image``; or the file cannot be read.
    """
    columns = picture_columns(path)
    if "image" in columns or len(columns) == 1:
        return "image" if "image" in columns else columns[0]
    which = (
        f"several columns of pictures ({', '.join(columns)}); rename one to 'image'"
        if columns
        else "no column of pictures"
    )
    raise InputError(f"{path} has {which}: it is not an image store")


class PictureCells:
    """The pictures of a column, by row from 0; fast in sequence, and thread-safe.

    Raises:
        InputError: The file cannot be read, or has no such column.
    """

    def __init__(self, path: Path, column: str) -> None:
        self.path, self._column = path, column
        file = _open(path)
        if column not in file.schema_arrow.names:
            raise InputError(f"{path} has no column {column!r}{nearest(column, file.schema_arrow.names)}"[:500])
        counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        self._starts = [sum(counts[:group]) for group in range(len(counts))]
        self._rows: int = sum(counts)
        self._lock = threading.Lock()
        self._batches: Any = None
        self._group, self._begin, self._batch = -1, 0, list[Any]()

    def __len__(self) -> int:
        return self._rows

    def get(self, row: int) -> tuple[bytes | None, str]:
        """The picture's bytes, if its cell has them, and its path, if there is one.

        Raises:
            InputError: The file is damaged or missing.
        """
        import pyarrow as pa

        with self._lock:
            try:
                cell = self._cell(row)
            except (OSError, pa.ArrowException) as error:
                self._group = -1
                check_readable(self.path)
                raise InputError(f"{self.path} is damaged: {str(error).splitlines()[0][:200]}") from error
        if isinstance(cell, dict):
            return cell.get("bytes") or None, cell.get("path") or ""
        return cell or None, ""

    def _cell(self, row: int) -> Any:
        group = max(number for number, start in enumerate(self._starts) if start <= row)
        if group != self._group or row < self._begin:
            self._group, self._begin, self._batch = group, self._starts[group], []
            # Without a buffer for the complete row group, which may have gigabytes.
            file = _open(self.path, pre_buffer=False, buffer_size=1 << 20)
            self._batches = file.iter_batches(batch_size=_ROWS, columns=[self._column], row_groups=[group])
        while row >= self._begin + len(self._batch):
            self._begin += len(self._batch)
            self._batch = next(self._batches).column(0).to_pylist()
        return self._batch[row - self._begin]


def _open(path: Path, **options: Any) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise InputError(f"cannot read {path}: there is no such file")
    try:
        return pq.ParquetFile(path, **options)
    except (OSError, pa.ArrowException) as error:
        check_readable(path)
        raise InputError(f"{path} is damaged or not a Parquet file: {str(error).splitlines()[0][:200]}") from error
