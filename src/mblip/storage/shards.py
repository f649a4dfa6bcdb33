"""Records in zstd Parquet shards: written shard by shard, read as a stream or by row number.

The same records give the same bytes: row groups have a fixed size, and neither time nor machine is stored. Images are
never inside; records have keys into an image store.
"""

from __future__ import annotations

import dataclasses
import typing
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from mblip.errors import InputError, check_readable
from mblip.storage.files import atomic_path

T = TypeVar("T")

# A random access decodes one row group; a write makes one shard visible.
ROWS_PER_GROUP = 1024
ROWS_PER_SHARD = 102_400
GROUPS_KEPT = 8

_TYPES = {
    str: pa.string(),
    tuple[str, ...]: pa.list_(pa.string()),
    dict[str, str]: pa.map_(pa.string(), pa.string()),
}


class ShardWriter(Generic[T]):
    """Writes ``STEM-00000.parquet``, ``STEM-00001.parquet``, ... into a folder, holding one row group in memory.

    Each shard appears complete or not at all. Parallel writers of one folder need different stems; shards are read in
    the order of their names. Leaving the ``with`` block by an exception keeps complete shards and drops the open one.
    """

    def __init__(self, folder: str | Path, kind: type[T], *, stem: str = "shard") -> None:
        self.folder = Path(folder)
        self.kind = kind
        self.stem = stem
        self.rows = 0
        self._buffer: list[T] = []
        self._shards = 0
        self._open: ExitStack | None = None
        self._rows_in_shard = 0

    def write(self, record: T) -> None:
        """Add one record.

        Raises:
            InputError: A field cannot be stored (a text with a lone surrogate), or the disk refuses.
        """
        self._buffer.append(record)
        if len(self._buffer) == ROWS_PER_GROUP:
            self._flush()

    def extend(self, records: Iterable[T]) -> None:
        """Add many records."""
        for record in records:
            self.write(record)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._flush()
            self._close_shard()
        elif self._open is not None:
            self._open.__exit__(kind, error, trace)

    def _flush(self) -> None:
        if not self._buffer:
            return
        table = to_table(self._buffer, self.kind)
        if self._open is None:
            path = self.folder / f"{self.stem}-{self._shards:05d}.parquet"
            self._open = ExitStack()
            temporary = self._open.enter_context(atomic_path(path))
            self._parquet = self._open.enter_context(
                pq.ParquetWriter(temporary, table.schema, compression="zstd", write_statistics=False)
            )
        self._parquet.write_table(table, row_group_size=ROWS_PER_GROUP)
        self.rows += len(self._buffer)
        self._rows_in_shard += len(self._buffer)
        self._buffer.clear()
        if self._rows_in_shard >= ROWS_PER_SHARD:
            self._close_shard()

    def _close_shard(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None
            self._shards += 1
            self._rows_in_shard = 0


class ShardReader(Generic[T]):
    """The records of a folder of shards, in order; ``len``, iteration, and access by row number.

    Memory holds the number of rows of each row group, and the row groups read last. It can be pickled, so that
        data-loading workers share it.

    Raises:
        InputError: There are no shards, or one is damaged or has another kind of record.
    """

    def __init__(self, folder: str | Path, kind: type[T]) -> None:
        self.folder = Path(folder)
        self.kind = kind
        self.paths = sorted(self.folder.glob("*.parquet"))
        if not self.paths:
            raise InputError(f"{self.folder} holds no Parquet shards; name a folder written by mblip data")
        self._recent: dict[int, pa.Table] = {}
        self._groups: list[tuple[Path, int]] = []
        self._starts = [0]
        expected = _schema(kind)
        for path in self.paths:
            file = open_shard(path)
            if not file.schema_arrow.equals(expected):
                raise InputError(
                    f"{path} holds the columns {', '.join(file.schema_arrow.names)}, "
                    f"not those of {kind.__name__}: {', '.join(expected.names)}"
                )
            for group in range(file.num_row_groups):
                self._groups.append((path, group))
                self._starts.append(self._starts[-1] + file.metadata.row_group(group).num_rows)

    def __len__(self) -> int:
        return self._starts[-1]

    def __iter__(self) -> Iterator[T]:
        for table in self._tables():
            yield from _to_records(table, self.kind)

    def __getitem__(self, row: int) -> T:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        group = bisect_right(self._starts, row) - 1
        table = self._group(group)
        return _to_records(table.slice(row - self._starts[group], 1), self.kind)[0]

    def take(self, rows: Sequence[int]) -> list[T]:
        """The records at ``rows``, in that order; each row group is read once."""
        found = {row: self[row] for row in sorted(set(rows))}
        return [found[row] for row in rows]

    def rows(self, start: int, stop: int) -> Iterator[T]:
        """Yield the records from row ``start`` up to ``stop``."""
        begin = bisect_right(self._starts, start) - 1
        end = bisect_left(self._starts, stop, hi=len(self._groups))
        for group, table in enumerate(self._tables(begin, end), start=begin):
            first = max(0, start - self._starts[group])
            yield from _to_records(table.slice(first, stop - self._starts[group] - first), self.kind)

    def _tables(self, begin: int = 0, end: int | None = None, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The row groups from one number up to another; each shard is opened once."""
        for path, groups in groupby(self._groups[begin:end], key=itemgetter(0)):
            file = open_shard(path)
            for _, group in groups:
                yield _read_group(file, path, group, columns)

    def _group(self, group: int) -> pa.Table:
        # A row group decodes in about a millisecond; neighbouring rows are usually read together.
        if group not in self._recent:
            if len(self._recent) == GROUPS_KEPT:
                self._recent.pop(next(iter(self._recent)))
            path, number = self._groups[group]
            self._recent[group] = _read_group(open_shard(path), path, number)
        return self._recent[group]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_recent": {}}

    def columns(self, *names: str) -> Iterator[tuple[list[Any], ...]]:
        """Yield the values of some fields, a row group at a time; other fields are not read."""
        for table in self._tables(columns=list(names)):
            yield tuple(_column(table, name, self.kind) for name in names)


_schemas: dict[type, pa.Schema] = {}


def _schema(kind: type) -> pa.Schema:
    if kind not in _schemas:
        hints = typing.get_type_hints(kind)
        names = [field.name for field in dataclasses.fields(kind)]
        _schemas[kind] = pa.schema([pa.field(name, _TYPES[hints[name]], nullable=False) for name in names])
    return _schemas[kind]


def write_shard(path: str | Path, table: pa.Table, kind: type) -> None:
    """Write records in Arrow form as one complete shard, like :class:`ShardWriter`.

    Raises:
        InputError: The shard cannot be written.
    """
    table = table.cast(_schema(kind))
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, table.schema, compression="zstd", write_statistics=False) as file,
    ):
        file.write_table(table, row_group_size=ROWS_PER_GROUP)


def to_table(records: list[T], kind: type[T]) -> pa.Table:
    """Records as an Arrow table with one column per field.

    Raises:
        InputError: A field cannot be stored, such as a text with a lone surrogate.
    """
    arrays = []
    for column in _schema(kind):
        values: list[Any] = [getattr(record, column.name) for record in records]
        try:
            array = _map_array(values) if pa.types.is_map(column.type) else pa.array(values, column.type)
        except (AttributeError, UnicodeEncodeError, pa.ArrowException, TypeError) as error:
            raise _unstorable(records, column) from error
        if _null_count(array):
            raise _unstorable(records, column)
        arrays.append(array)
    return pa.table(arrays, schema=_schema(kind))


def _null_count(array: pa.Array) -> int:
    inside = 0
    if pa.types.is_map(array.type):
        inside = array.items.null_count
    elif pa.types.is_list(array.type):
        inside = array.flatten().null_count
    return int(array.null_count + inside)


def _map_array(values: list[dict[str, str]]) -> pa.Array:
    # Flat keys and items: forty times faster than lists of pairs.
    offsets: list[int] = [0]
    keys: list[str] = []
    items: list[str] = []
    for value in values:
        keys.extend(value)
        items.extend(value.values())
        offsets.append(len(keys))
    parts = (pa.array(offsets, pa.int32()), pa.array(keys, pa.string()), pa.array(items, pa.string()))
    return pa.MapArray.from_arrays(*parts)


def _unstorable(records: list[Any], column: pa.Field) -> InputError:
    for record in records:
        value = getattr(record, column.name)
        if isinstance(value, dict):
            value = list(value.items())
        try:
            if _null_count(pa.array([value], column.type)) == 0:
                continue
        except (UnicodeEncodeError, pa.ArrowException, TypeError):
            pass
        return InputError(f"record {record.id!r}: {column.name!r} cannot be stored as text: {value!a}")
    return InputError(f"the field {column.name!r} of a row group cannot be stored")


def _to_records(table: pa.Table, kind: type[T]) -> list[T]:
    columns = [_column(table, name, kind) for name in _schema(kind).names]
    return [kind(*values) for values in zip(*columns, strict=True)]


def _column(table: pa.Table, name: str, kind: type) -> list[Any]:
    values: list[Any] = table.column(name).to_pylist()
    column = _schema(kind).field(name).type
    if pa.types.is_list(column):
        return [tuple(value) for value in values]
    if pa.types.is_map(column):
        return [dict(value) for value in values]
    return values


def count_rows(path: Path) -> int:
    """The number of rows in a shard, from its footer.

    Raises:
        MblipError: The shard is damaged or cannot be read.
    """
    return int(open_shard(path).metadata.num_rows)


def open_shard(path: Path) -> pq.ParquetFile:
    """Open a Parquet shard.

    Raises:
        MblipError: It is damaged or cannot be read.
    """
    try:
        return pq.ParquetFile(path, memory_map=True)
    except (OSError, pa.ArrowException) as error:
        check_readable(path)
        raise InputError(f"{path} is damaged or not a Parquet file ({_first_line(error)}); write it again") from error


def _read_group(file: pq.ParquetFile, path: Path, group: int, columns: list[str] | None = None) -> pa.Table:
    try:
        return file.read_row_group(group, columns, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        check_readable(path)
        raise InputError(f"{path}, row group {group} is damaged ({_first_line(error)}); write it again") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].strip().rstrip(".")
