"""Files of captions that grow row by row, survive a kill at any byte, and can be continued."""

from __future__ import annotations

import codecs
import csv
import io
import json
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mblip.corpora.json_stream import hash_text
from mblip.errors import InputError, MblipError, cannot_read, check_readable
from mblip.storage import Appender, JsonlAppender, atomic_path, encode_record, not_utf8

ENDINGS = (".jsonl", ".csv", ".parquet")
ENCODINGS = ("utf-8", "utf-8-sig")
_BATCH = 1 << 14  # rows
_TORN = 1 << 20  # bytes: more than the rows of one picture, the most that a kill can leave unfinished


@dataclass(frozen=True, slots=True)
class Caption:
    """One row of the result; ``language`` is the mC4 code."""

    image: str
    language: str
    caption: str
    model: str


_COLUMNS = tuple(Caption.__slots__)
_HEADER = ",".join(_COLUMNS).encode()


class Done:
    """A set of finished pairs of picture and language, in eight bytes each."""

    def __init__(self, hashes: array[int]) -> None:
        self._hashes = np.sort(np.array(hashes, np.uint64))

    def __contains__(self, pair: object) -> bool:
        if not isinstance(pair, tuple):
            return False
        wanted = np.uint64(_hash(*pair))
        place = int(np.searchsorted(self._hashes, wanted))
        return place < len(self._hashes) and bool(self._hashes[place] == wanted)

    def __len__(self) -> int:
        return len(self._hashes)


class CaptionFile:
    """A file of captions in JSONL, CSV or Parquet.

    Each row is in the file as soon as it is added. Parquet cannot grow, so its rows are kept in ``FILE.partial.jsonl``
    until the end. Memory does not grow with the rows.

    Args:
        path: The file.
        model: Name of the model that makes the captions.
        resume: Continue a file from a stopped run, or from a finished one with fewer pictures or languages; an
            unfinished last row is cut off.
        encoding: Encoding of CSV; ``utf-8-sig`` begins with the byte-order mark by which Excel recognises UTF-8.

    Attributes:
        done: Pairs of picture and language that were in the file when it was opened.

    Raises:
        InputError: The file has another ending, exists already, or was made by another model. Nothing is changed then.
    """

    def __init__(self, path: Path, model: str, resume: bool, encoding: str = "utf-8") -> None:
        self.path, self._model = path, model
        self._ending = path.suffix.lower()
        if self._ending not in ENDINGS:
            raise InputError(f"--to {path}: the ending must be one of {', '.join(ENDINGS)}")
        if encoding not in ENCODINGS:
            raise InputError(f"--encoding is one of {', '.join(ENCODINGS)}, not {encoding!r}")
        if encoding != "utf-8" and self._ending != ".csv":
            raise InputError(f"--encoding {encoding} is for .csv; {path} is always in UTF-8 without a mark")
        self._encoding = encoding
        # For Parquet, which cannot grow, and for files of earlier versions, which kept all rows here.
        self._journal = path.with_name(path.name + ".partial.jsonl")
        kept = [file for file in (path, self._journal) if file.exists()]
        if kept and not resume:
            raise InputError(f"{kept[0]} already exists: add --resume to continue it, or name another file")
        self._grown = self._journal if self._ending == ".parquet" else path
        self._made = self._grown not in kept
        hashes, end = array("Q"), 0
        for row in self._parquet_rows() if self._ending == ".parquet" else ():
            hashes.append(_hash(row.image, row.language))
        self._finished = Done(hashes)
        for row, after in self._rows(self._grown):
            hashes.append(_hash(row.image, row.language))
            end = after
        self.done = Done(hashes)
        earlier = [row for row, _ in self._rows(self._journal)] if self._grown != self._journal else []
        self._file = Appender(self._grown, end)
        for row in earlier:
            if (row.image, row.language) not in self.done:
                self.add([row])
                hashes.append(_hash(row.image, row.language))
        if earlier:
            self.done = Done(hashes)
            self._journal.unlink()

    def add(self, captions: Sequence[Caption]) -> None:
        """Write the captions of one picture.

        Raises:
            ResourceError: The disk is full or missing; all earlier rows are kept.
        """
        data = b"".join(map(encode_record, captions)) if self._grown.suffix == ".jsonl" else self._csv(captions)
        self._append(data)

    def finish(self) -> None:
        """Sync the file; write a Parquet file from its earlier rows and those of the journal.

        Raises:
            ResourceError: The disk is full or missing; all rows are kept.
        """
        if self._ending == ".csv" and not self._file.size:
            self._append(self._csv(()))  # the header alone
        self._made = False
        self.close()
        if self._ending == ".parquet":
            if self._file.size or not self.path.exists():
                try:
                    self._write_parquet()
                except MblipError as error:
                    raise error.reworded(
                        f"{error}; all rows are kept in {self._journal}: continue with --resume"
                    ) from error
            self._journal.unlink()

    def close(self) -> None:
        """Close the file for a later run to continue, and remove it if it has no rows."""
        self._file.close()
        if self._made and not self._file.size:
            self._grown.unlink(missing_ok=True)

    def _append(self, data: bytes) -> None:
        try:
            self._file.append(data)
        except MblipError as error:
            raise error.reworded(f"{error}: free the space, then continue with --resume") from error

    def _csv(self, captions: Sequence[Caption]) -> bytes:
        text = io.StringIO(newline="")
        table = csv.writer(text)
        if not self._file.size:
            table.writerow(_COLUMNS)
        table.writerows(asdict(caption).values() for caption in captions)
        # UTF-8 cannot encode half of a surrogate pair.
        return text.getvalue().encode("utf-8" if self._file.size else self._encoding, "backslashreplace")

    def _rows(self, file: Path) -> Iterator[tuple[Caption, int]]:
        """Yield the complete rows of a growing file, each with its end in bytes; none if there is no file.

        Raises:
            InputError: The file does not hold captions, or those of another model.
        """
        if not file.exists():
            return
        lines = _Lines(file)
        cells = _json_cells(lines) if file.suffix.lower() == ".jsonl" else _csv_cells(lines)
        for number, row in enumerate(cells, start=1):
            yield self._check(row, file, number), lines.end
        if not _is_torn_row(file, lines.end):
            raise InputError(f"{file} does not end with a row of captions: repair it, or name another file")

    def _parquet_rows(self) -> Iterator[Caption]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self.path.exists():
            return
        number = 0
        try:
            for batch in pq.ParquetFile(self.path).iter_batches(batch_size=_BATCH):
                for number, row in enumerate(batch.to_pylist(), start=number + 1):  # noqa: B020
                    yield self._check(row, self.path, number)
        except (OSError, pa.ArrowException) as error:
            check_readable(self.path)
            raise InputError(f"{self.path} is damaged or not a Parquet file: {str(error).splitlines()[0]}") from error

    def _check(self, row: Any, file: Path, number: int) -> Caption:
        texts = row.values() if isinstance(row, dict) and row.keys() == set(_COLUMNS) else (None,)
        if not all(isinstance(value, str) for value in texts):
            columns = ", ".join(_COLUMNS)
            raise InputError(
                f"{file}, row {number}, lacks one of {columns}, so it is not a file of captions: name another"
            )
        caption = Caption(**row)
        if caption.model != self._model:
            raise InputError(f"{file} holds captions of {caption.model}, not of {self._model}: name another file")
        return caption

    def _write_parquet(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema([(name, pa.string()) for name in _COLUMNS])
        with atomic_path(self.path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
            rows = self._all_rows()
            while True:
                batch = [asdict(row) for row in islice(rows, _BATCH)]
                writer.write_table(pa.Table.from_pylist(batch, schema))
                if len(batch) < _BATCH:
                    break

    def _all_rows(self) -> Iterator[Caption]:
        yield from self._parquet_rows()
        for row, _ in self._rows(self._journal):
            # After a kill between writing the file and removing the journal, both have the rows.
            if (row.image, row.language) not in self._finished:
                yield row


class SkippedList:
    """The pictures without captions, with reasons, in ``FILE.skipped.jsonl`` beside a file of captions.

    The list covers only the last run. If that could read all pictures, there is no list.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(path.name + ".skipped.jsonl")
        self._file: JsonlAppender | None = None

    def add(self, image: str, reason: str) -> None:
        """Add a picture.

        Raises:
            ResourceError: The disk is full or missing.
        """
        if self._file is None:
            self.path.unlink(missing_ok=True)
            self._file = JsonlAppender(self.path)
        self._file.append({"image": image, "reason": reason})

    def close(self) -> None:
        """Close the list, if it is open."""
        if self._file:
            self._file.close()

    def finish(self) -> bool:
        """Close the list, or remove that of an earlier run if this one skipped nothing; whether there is a list."""
        self.close()
        if not self._file:
            self.path.unlink(missing_ok=True)
        return self._file is not None


class _Lines:
    """The complete lines of a file as text; ``end`` is the end in bytes of the last row taken."""

    def __init__(self, path: Path) -> None:
        self.path, self.end, self.ended = path, 0, False
        self._read = 0

    def __iter__(self) -> Iterator[str]:
        try:
            with self.path.open("rb") as file:
                for line in file:
                    if line.endswith(b"\n"):  # else a kill has cut it off
                        self._read += len(line)
                        yield line.decode("utf-8-sig" if self._read == len(line) else "utf-8")
        except UnicodeDecodeError as error:
            raise not_utf8(self.path) from error
        except OSError as error:
            raise cannot_read(self.path, error) from error
        self.ended = True

    def take(self) -> None:
        """Mark the last line read as the end of a row."""
        self.end = self._read


def _json_cells(lines: _Lines) -> Iterator[Any]:
    for number, line in enumerate(lines, start=1):
        lines.take()
        try:
            if line.strip():
                yield json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{lines.path}, line {number} is not valid JSON: {error}") from error


def _csv_cells(lines: _Lines) -> Iterator[Any]:
    csv.field_size_limit(sys.maxsize)
    table = csv.reader(iter(lines), strict=True)
    try:
        for number, cells in enumerate(table):
            if number == 0 and tuple(cells) != _COLUMNS:
                columns = ", ".join(_COLUMNS)
                raise InputError(
                    f"{lines.path} has other columns than {columns}, so it is not a file of captions: name another"
                )
            lines.take()
            if number and cells:
                yield dict(zip(_COLUMNS, cells, strict=False)) if len(cells) <= len(_COLUMNS) else cells
    except csv.Error as error:
        if not lines.ended:  # at the end, a kill has cut it off inside a cell
            raise InputError(f"{lines.path}, line {table.line_num}: {error}; correct the quotes there") from error


def _is_torn_row(path: Path, end: int) -> bool:
    """Whether the bytes after the last complete row are nothing, or may be a row that a kill has cut off."""
    with path.open("rb") as file:
        file.seek(end)
        rest = file.read(_TORN + 1)
    if end:
        return len(rest) <= _TORN
    begins = (b'{"image": "', codecs.BOM_UTF8 + _HEADER, _HEADER)
    return any(rest.startswith(begin) or begin.startswith(rest) for begin in begins)


def _hash(picture: str, language: str) -> int:
    return hash_text(f"{picture}\0{language}")
