"""A user's own data: JSON lines, a JSON list, CSV, TSV or Parquet (also the Hub's), with a map of its columns.

Licence: given by the user. A raw record may have any columns; with ``columns: {image: file, caption: text}`` the row
``{"file": "a.jpg", "text": "A red boat."}`` becomes a ``caption`` example with the image ``a.jpg``.

Each text of a cell with a list (in CSV as JSON) becomes an example. Parquet files of the Hugging Face Hub have the
pictures in cells ``{bytes, path}``: their keys are ``FILE#ROW``, with rows from 0, and the same file is the source's
``images``.

Two tasks need no picture: ``text`` rows have a ``prompt`` and an ``answer``, used byte for byte; ``translation`` rows have a
``source`` and a ``target``. Such text-only rows keep what the language model knows of its languages (Pikabea et al. 2025,
arXiv 2503.22577).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from mblip.corpora.json_stream import (
    BadRow,
    Row,
    Text,
    common_language,
    make_examples,
    take_language,
    take_plain,
    take_text,
    take_texts,
)
from mblip.corpora.rows import read_rows
from mblip.errors import InputError, counted, quoted
from mblip.languages import find_trainable
from mblip.schema import Drop, Example
from mblip.storage.cells import column_names, picture_columns
from mblip.storage.encoded import NOT_READ, is_encoded
from mblip.storage.text import NO_ADDRESSES, is_address

IMAGES = ("image", "second_image")
TEXT_ONLY = {"text": ("prompt", "answer"), "translation": ("source", "target")}
"""The tasks without pictures, and the roles of their texts, which are also their default columns."""


def read(
    source: str,
    path: Path,
    task: str,
    licence: str,
    columns: dict[str, str] | None = None,
    language: str = "en",
    language_column: str = "",
    source_language: str = "en",
) -> Iterator[Example | Drop]:
    """Yield the rows of a table.

    Args:
        source: First part of the ids; the second is the column mapped to ``id``, or the row's number.
        path: See :func:`mblip.corpora.rows.read_rows`.
        task: The task of all rows, by which templates are chosen.
        licence: SPDX identifier or your own words.
        columns: Role -> column, in upper or lower case: ``image`` (and ``second_image``), and each text by its role in
            templates, such as caption, question, answer. The tasks :data:`TEXT_ONLY` have columns with their roles' names
            by default, and no picture if ``image`` is not mapped or a row's cell is empty.
        language: Language of all texts, in any form that ``mblip languages`` lists. If it is not English, set the
            source's ``translate`` to false.
        language_column: Column with each row's language, to use instead of ``language``, which may then be empty.
        source_language: Language of the ``source`` of translations, whose ``target`` is in ``language``.

    Raises:
        InputError: The file is of another kind, or lacks a column.
    """
    columns = columns or {role: role for role in TEXT_ONLY.get(task, ())}
    if "image" not in columns and task not in TEXT_ONLY:
        raise InputError(
            f"source {source!r}: columns must map 'image' to a column of {path}; tasks without pictures are "
            f"{' and '.join(TEXT_ONLY)}"
        )
    if lacking := [role for role in TEXT_ONLY.get(task, ()) if role not in columns]:
        raise InputError(f"source {source!r}: columns must map {lacking[0]!r}, which rows of the task {task!r} have")
    pictures: list[str] = []
    if path.suffix.lower() == ".parquet":  # of which only the columns that are wanted are read
        names = column_names(path)
        columns = {role: _spelled(column, names) for role, column in columns.items()}
        language_column = language_column and _spelled(language_column, names)
        pictures = picture_columns(path)
    roles = {role: column for role, column in columns.items() if role not in (*IMAGES, "id")}
    if not roles:
        raise InputError(f"source {source!r}: columns map no text of {path}, such as caption, question or answer")
    code, of_source = common_language(language, language_column), find_trainable(source_language)
    wanted = dict.fromkeys([*columns.values(), *([language_column] if language_column else [])])

    def make(numbered: tuple[int, Row | BadRow]) -> Iterator[Text]:
        number, row = numbered
        if isinstance(row, BadRow):
            raise row
        if isinstance(row, dict) and not row.keys() >= wanted.keys():
            row |= {name: row[found] for name in wanted if (found := _spelled(name, row)) in row}
        # Pictures in cells are read by row (mblip.storage.ParquetStore).
        images = tuple(
            f"{path.name}#{number - 1}" if columns[role] in pictures else _image(row, columns[role])
            for role in IMAGES
            if role in columns and not (task in TEXT_ONLY and _is_empty(row, columns[role]))
        )
        own = take_language(row, language_column) if language_column else code
        name = str(number)
        if "id" in columns:
            given = row.get(columns["id"]) if isinstance(row, dict) else None
            name = "" if given is None else str(given).strip()
        if not name:
            raise BadRow(f"{columns['id']!r} is missing or blank")
        several = {role: _texts(row, column, task == "text") for role, column in roles.items()}
        count = max(map(len, several.values()))
        if odd := next((role for role, texts in several.items() if len(texts) not in (1, count)), None):
            raise BadRow(f"{roles[odd]!r} has {counted(len(several[odd]), 'text')}, but another column has {count}")
        for place in range(count):
            texts = {role: texts[place if len(texts) > 1 else 0] for role, texts in several.items()}
            languages: str | dict[str, str] = own if task != "translation" else {"source": of_source, "target": own}
            yield Text(f"{name}-{place}" if count > 1 else name, task, images, texts, languages)

    # Of columns with pictures only their paths are read.
    rows = read_rows(path, [f"{name}.path" if name in pictures else name for name in wanted])
    return make_examples(source, licence, path, enumerate(rows, start=1), make)


def describe_row(name: str, columns: dict[str, str] | None = None) -> str:
    """The words for a row in messages, from the second part of an example's id and the option of :func:`read`."""
    if columns and "id" in columns:
        return f"row with {columns['id']}={name}"
    return f"record {name.partition('-')[0]}"


def _spelled(name: str, names: Collection[str]) -> str:
    """The name of a column as the table spells it, if only one differs from ``name`` in nothing but case."""
    alike = [name] if name in names else [other for other in names if other.casefold() == name.casefold()]
    return alike[0] if len(alike) == 1 else name


def _image(row: Row, column: str) -> str:
    """The key of a row's picture: the path in its cell."""
    cell = row.get(column) if isinstance(row, dict) else None
    key = take_text(cell, "path") if isinstance(cell, dict) else take_text(row, column)
    if is_encoded(key):
        raise BadRow(f"{column!r}: {NOT_READ}")
    if is_address(key):
        raise BadRow(f"{column!r} is {quoted(key)}: {NO_ADDRESSES}")
    return key


def _is_empty(row: Row, column: str) -> bool:
    cell = row.get(column) if isinstance(row, dict) else None
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _texts(row: Row, column: str, plain: bool = False) -> list[str]:
    """The texts of a cell, which may be a list, or in CSV a list as JSON; or the cell's text, byte for byte."""
    cell = row.get(column) if isinstance(row, dict) else None
    if plain and not isinstance(cell, list):
        return [take_plain(row, column)]
    if isinstance(cell, str) and cell.lstrip().startswith('["'):
        with suppress(ValueError):
            row = {column: json.loads(cell)}
    if isinstance(row.get(column) if isinstance(row, dict) else None, list):
        return take_texts(row, column)
    return [take_text(row, column)]
