"""Read tables in any common form: JSON, JSON lines, CSV with any separator, TSV, Parquet; for all commands."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from mblip.corpora.json_stream import BadRow, first_character, stream_json
from mblip.errors import InputError, check_readable, counted, quoted
from mblip.storage import parse_value, reading_text

TABLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
PACKED = (".gz", ".tgz", ".zip", ".zst", ".bz2", ".xz", ".7z", ".rar")
SHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
REFUSED = (*PACKED, *SHEETS)
"""Endings of files that hold tables in a form that is not read; the error says how to save them."""


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[Any]:
    """Yield the rows of a table, usually objects; JSON may also have texts, such as paths.

    An unusable row is yielded as a :class:`~mblip.corpora.json_stream.BadRow` with the reason. Columns without a name
    and empty rows, as spreadsheets leave them, are skipped.

    Args:
        path: ``.jsonl`` or ``.json`` (lines, or a list), ``.csv`` (with commas, semicolons or tabs), ``.tsv`` or
            ``.parquet``; texts in UTF-8; the first line of ``.csv`` and ``.tsv`` names the columns.
        columns: Columns of a Parquet file to read; a field of a structured column is ``column.field``.

    Raises:
        InputError: The file is of another kind, cannot be read, is empty, or has two columns of the same name.
    """
    match path.suffix.lower():
        case ".jsonl" | ".ndjson" | ".json":
            return _read_json(path)
        case ".csv":
            return _read_lines(path, _csv_cells)
        case ".tsv":
            return _read_lines(path, _tsv_cells)
        case ".parquet":
            return _read_parquet(path, columns)
        case ending if ending in SHEETS:
            raise InputError(f"{path} is a spreadsheet: save it as CSV in UTF-8 (in Excel 'CSV UTF-8')")
        case ending:
            unpack = "; unpack it" if ending in PACKED else ""
            raise InputError(f"{path}: a table must be {', '.join(TABLES[:-1])} or {TABLES[-1]}{unpack}")


def _read_json(path: Path) -> Iterator[Any]:
    # An empty .json is an error, because a list has at least brackets; an empty .jsonl has no rows.
    if first_character(path) == "[" if path.suffix.lower() == ".json" else _begins_a_list(path):
        yield from stream_json(path)
        return
    with reading_text(path), path.open("rb") as file:
        lines = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
        for place, (number, line) in enumerate(lines):
            try:
                value = parse_value(line, f"line {number}")
            except InputError as error:
                if path.suffix.lower() == ".json" and not place:  # one object over many lines
                    raise InputError(
                        f"{path}, {error}; a table is a list of objects, or one object in each line"
                    ) from error
                yield BadRow(str(error))
                continue
            is_row = isinstance(value, dict | str)  # a text, as in a list of paths
            yield value if is_row else BadRow(f"line {number} is not a JSON object but {type(value).__name__}")


def _begins_a_list(path: Path) -> bool:
    with reading_text(path), path.open(encoding="utf-8-sig") as file:
        while block := file.read(1 << 10):
            if start := block.lstrip():
                return start[0] == "["
    return False


def _read_lines(path: Path, split: Callable[[IO[str]], Iterator[tuple[int, list[str]]]]) -> Iterator[Any]:
    csv.field_size_limit(sys.maxsize)
    line = 0
    try:
        with reading_text(path), path.open(encoding="utf-8-sig", newline="") as file:
            if file.read(2).lstrip()[:1] in ("[", "{") and path.suffix.lower() == ".csv":
                raise InputError(f"{path} is JSON, not CSV; name it .json, or .jsonl if each line is an object")
            file.seek(0)
            rows = split(file)
            line, header = next(rows, (0, []))
            header = [name.strip() for name in header]
            if not any(header):
                raise InputError(f"{path} is empty; its first line must name the columns")
            for name in filter(None, header):
                if header.count(name) > 1:
                    raise InputError(f"{path}, line 1: two columns have the name {quoted(name)}; rename one")
            for line, cells in rows:
                if not any(map(str.strip, cells)):
                    continue
                if len(cells) == len(header):
                    yield {name: cell for name, cell in zip(header, cells, strict=True) if name}
                else:
                    yield BadRow(
                        f"line {line} has {counted(len(cells), 'cell')}, but the header names {counted(len(header), 'column')}"
                    )
    except csv.Error as error:
        raise InputError(f"{path}, after line {line}: {error}; correct the quotes there") from error


def _csv_cells(file: IO[str]) -> Iterator[tuple[int, list[str]]]:
    first = file.readline()
    if first[:4].lower() == "sep=":  # Excel's declaration of the separator
        separator, passed = first[4:5], 1
    else:
        # The separator depends on the country: with decimal commas, Excel writes semicolons.
        counts = {separator: len(next(csv.reader([first], delimiter=separator), ())) for separator in ",;\t"}
        separator, passed = max(counts, key=lambda separator: counts[separator]), 0
        file.seek(0)
    reader = csv.reader(file, strict=True, delimiter=separator)
    for cells in reader:
        yield reader.line_num + passed, cells


def _tsv_cells(file: IO[str]) -> Iterator[tuple[int, list[str]]]:
    """One row per line; quotes enclose cells (spreadsheets) or begin texts (corpora), whichever fits the header."""
    width = 0
    for number, ending in enumerate(file, start=1):
        line = ending.rstrip("\r\n")
        cells = line.split("\t") if line else []
        if '"' in line:
            try:
                unquoted = next(csv.reader([line], delimiter="\t", strict=True))
            except csv.Error:
                unquoted = cells
            if len(unquoted) == (width or len(unquoted)):
                cells = unquoted
        width = width or len(cells)
        yield number, cells


def _read_parquet(path: Path, columns: Sequence[str] | None) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise InputError(f"cannot read {path}: there is no such file")
    try:
        # Row groups with pictures in cells have gigabytes, so they are read in pieces of few rows.
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            for batch in file.iter_batches(batch_size=256, columns=columns):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        check_readable(path)
        raise InputError(f"{path} is damaged or not a Parquet file: {str(error).splitlines()[0][:200]}") from error
