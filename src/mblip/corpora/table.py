"""A person's own data: JSON lines, a JSON list, CSV, TSV or Parquet, with a map of its columns.

Licence: the person's to say. A raw record is whatever the columns are; with ``columns: {image: file, caption: text}``
the row ``{"file": "a.jpg", "text": "A red boat."}`` becomes a ``caption`` example with the image ``a.jpg``.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from mblip.corpora.raw import BadRow, Row, Text, make_examples, stream_rows, take_text
from mblip.errors import InputError
from mblip.languages import LANGUAGES, find_language
from mblip.schema import Drop, Example
from mblip.storage import read_jsonl, reading_text

IMAGES = ("image", "second_image")


def read(
    source: str,
    path: Path,
    columns: dict[str, str],
    task: str,
    licence: str,
    language: str = "en",
    language_column: str = "",
) -> Iterator[Example | Drop]:
    """Yield the rows of a table.

    Args:
        source: First part of the ids; the second is the column mapped to ``id``, or the row's number.
        path: ``.jsonl``, ``.json`` (a list, or lines), ``.csv``, ``.tsv`` or ``.parquet``; texts in UTF-8, the first
            line of ``.csv`` and ``.tsv`` naming the columns.
        columns: Role -> column: ``image`` (and ``second_image``), and each text by the role that templates call it,
            such as caption, question, answer.
        task: The task of all rows, by which templates are chosen.
        licence: SPDX identifier or your own words.
        language: Of all texts, in any form that ``mblip languages`` lists. With another language than English set
            the source's ``translate`` to false.
        language_column: Column that holds each row's language instead.

    Raises:
        InputError: Another kind of file, or one that lacks a column.
    """
    if "image" not in columns:
        raise InputError(f"source {source!r}: columns must map 'image' to a column of {path}")
    roles = {role: column for role, column in columns.items() if role not in (*IMAGES, "id")}
    if not roles:
        raise InputError(f"source {source!r}: columns map no text of {path}, such as caption, question or answer")
    code = _language(language)

    def make(numbered: tuple[int, Row | str]) -> Iterator[Text]:
        number, row = numbered
        if isinstance(row, str):
            raise BadRow(row)
        images = tuple(take_text(row, columns[role]) for role in IMAGES if role in columns)
        texts = {role: take_text(row, column) for role, column in roles.items()}
        own = code
        if language_column:
            try:
                own = _language(take_text(row, language_column))
            except InputError as error:
                raise BadRow(str(error)) from error
        name = str(number)
        if "id" in columns:
            given = row.get(columns["id"]) if isinstance(row, dict) else None
            name = "" if given is None else str(given).strip()
        if not name:
            raise BadRow(f"{columns['id']!r} is missing or blank")
        yield Text(name, task, images, texts, own)

    return make_examples(source, licence, path, enumerate(read_rows(path), start=1), make)


def _language(text: str) -> str:
    code = find_language(text).code
    if code not in LANGUAGES:
        raise InputError(f"{text!r} is none of the {len(LANGUAGES)} languages that mixes hold")
    return code


def read_rows(path: Path) -> Iterator[Row | str]:
    """The rows of a table; a text for one that is none, which says why.

    Raises:
        InputError: Another kind of file, or one that cannot be read.
    """
    match path.suffix.lower():
        case ".jsonl" | ".ndjson":
            return read_jsonl(path)
        case ".json":
            return stream_rows(path)
        case ".csv":
            return _read_lines(path, _csv_cells)
        case ".tsv":
            return _read_lines(path, _tsv_cells)
        case ".parquet":
            return _read_parquet(path)
    unpack = "; unpack it" if path.suffix.lower() in (".gz", ".zip", ".zst", ".bz2", ".xz") else ""
    raise InputError(f"{path}: a table must be .jsonl, .json, .csv, .tsv or .parquet{unpack}")


def _read_lines(path: Path, split: Callable[[IO[str]], Iterator[tuple[int, list[str]]]]) -> Iterator[Row | str]:
    csv.field_size_limit(sys.maxsize)
    line = 0
    try:
        with reading_text(path), path.open(encoding="utf-8-sig", newline="") as file:
            rows = split(file)
            line, header = next(rows, (0, []))
            if not header:
                raise InputError(f"{path} is empty; its first line must name the columns")
            for name in header:
                if header.count(name) > 1:
                    raise InputError(f"{path}, line 1: two columns are called {name!r}; rename one")
            for line, cells in rows:
                if len(cells) == len(header):
                    yield dict(zip(header, cells, strict=True))
                elif cells:
                    yield f"line {line} has {len(cells)} cells, but the header names {len(header)} columns"
    except csv.Error as error:
        raise InputError(f"{path}, after line {line}: {error}; mend the quotes there") from error


def _csv_cells(file: IO[str]) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(file, strict=True)
    for cells in reader:
        yield reader.line_num, cells


def _tsv_cells(file: IO[str]) -> Iterator[tuple[int, list[str]]]:
    """One row a line. Spreadsheets put cells in quotes, corpora have texts that begin with one: what fits the header wins."""
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


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise InputError(f"cannot read {path}: there is no such file")
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=1024):
            yield from batch.to_pylist()
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged or not a Parquet file: {str(error).splitlines()[0]}") from error
