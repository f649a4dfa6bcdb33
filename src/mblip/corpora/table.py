"""A person's own data: JSON lines, a JSON list, CSV, TSV or Parquet, with a map of its columns.

Licence: the person's to say. A raw record is whatever the columns are; with ``columns: {image: file, caption: text}``
the row ``{"file": "a.jpg", "text": "A red boat."}`` becomes a ``caption`` example with the image ``a.jpg``.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from mblip.corpora.raw import BadRow, Row, Text, make_examples, stream_json, take_text
from mblip.errors import InputError
from mblip.languages import find_language
from mblip.schema import Drop, Example
from mblip.storage import read_jsonl

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
        path: ``.jsonl``, ``.json`` (a list), ``.csv``, ``.tsv`` or ``.parquet``.
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
    code = find_language(language).code

    def make(numbered: tuple[int, Row]) -> Iterator[Text]:
        number, row = numbered
        images = tuple(take_text(row, columns[role]) for role in IMAGES if role in columns)
        texts = {role: take_text(row, column) for role, column in roles.items()}
        own = code
        if language_column:
            try:
                own = find_language(take_text(row, language_column)).code
            except InputError as error:
                raise BadRow(str(error)) from error
        name = str(row.get(columns["id"], "")).strip() if "id" in columns else str(number)
        if not name:
            raise BadRow(f"{columns['id']!r} is missing or blank")
        yield Text(name, task, images, texts, own)

    return make_examples(source, licence, path, enumerate(_rows(path), start=1), make)


def _rows(path: Path) -> Iterator[Row]:
    match path.suffix.lower():
        case ".jsonl" | ".ndjson":
            return read_jsonl(path)
        case ".json":
            return stream_json(path)
        case ".csv":
            return _read_csv(path, ",")
        case ".tsv":
            return _read_csv(path, "\t")
        case ".parquet":
            return _read_parquet(path)
    raise InputError(f"{path}: a table must be .jsonl, .json, .csv, .tsv or .parquet")


def _read_csv(path: Path, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            for row in reader:
                if None in row or None in row.values():
                    raise InputError(f"{path}, line {reader.line_num}: not as many cells as the header has columns")
                yield dict(row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not readable as UTF-8 {path.suffix[1:].upper()}: {error}") from error


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=1024):
            yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} is damaged or not a Parquet file: {str(error).splitlines()[0]}") from error
