"""Captions of many pictures: which ones, each encoded once for all languages, and files that survive a kill."""

from __future__ import annotations

import csv
import glob
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from PIL import Image

from mblip.errors import InputError, nearest
from mblip.inference.predictor import GENERATION, Predictor
from mblip.languages import LANGUAGES
from mblip.models.generation import Generator, Request
from mblip.processing.images import open_picture
from mblip.storage import JsonlAppender, JsonlWriter, UnreadableImage, atomic_path, read_jsonl
from mblip.storage.images import EXTENSIONS

TABLES = (".jsonl", ".csv", ".parquet")
_READERS = 4


@dataclass(frozen=True, slots=True)
class Caption:
    """One row of the result; ``language`` is the mC4 code."""

    image: str
    language: str
    caption: str
    model: str


def find_pictures(places: Sequence[str], column: str = "image") -> list[str]:
    """The pictures that a person means, each once.

    Args:
        places: Picture files; folders, with all below them; patterns such as ``photos/*.jpg``; and tables (JSONL, CSV,
            Parquet) with a column of paths, relative to the table's folder.
        column: Of the tables.

    Raises:
        InputError: There is nothing at a place, or a table lacks the column.
    """
    found: dict[str, None] = {}
    for place in places:
        path = Path(place)
        if path.is_dir():
            inside = sorted(str(file) for file in path.rglob("*") if _is_picture(file))
            if not inside:
                raise InputError(f"the folder {place} holds no picture ({', '.join(EXTENSIONS)})")
        elif path.suffix.lower() in TABLES:
            inside = [str(path.parent / row) for row in _column(path, column)]
        elif path.exists():
            inside = [str(path)]  # ./a.jpg and a.jpg are one
        elif glob.has_magic(place):
            matching = map(Path, glob.glob(place, recursive=True))  # noqa: PTH207
            inside = sorted(str(file) for file in matching if _is_picture(file))
            if not inside:
                raise InputError(f"no picture matches {place!r}")
        else:
            raise InputError(f"there is no picture, folder or table {place!r}")
        found.update(dict.fromkeys(inside))
    return list(found)


def caption_pictures(
    model: Predictor,
    name: str,
    pictures: Sequence[str],
    languages: Sequence[str],
    done: Collection[tuple[str, str]] = (),
    batch_size: int = 32,
    **generation: Any,
) -> Iterator[list[Caption] | UnreadableImage]:
    """Caption pictures in order; of each its captions, or what keeps it from being read.

    The next pictures are read while the model is at work.

    Args:
        model: The model.
        name: What rows call it.
        pictures: Paths.
        languages: mC4 codes.
        done: Pairs of picture and language to leave out.
        batch_size: Captions that are generated together.
        **generation: As in :meth:`~mblip.inference.predictor.Predictor.caption`.
    """
    lacking = {p: [code for code in languages if (p, code) not in done] for p in pictures}
    wanted = [picture for picture, codes in lacking.items() if codes]
    size = max(1, batch_size // len(languages))
    chunks = [wanted[start : start + size] for start in range(0, len(wanted), size)]
    opened: dict[str, Image.Image | UnreadableImage] = {}
    generator = Generator(
        model,
        lambda key: _usable(opened[key]),
        batch_size=batch_size,
        cached_images=size,
        **{**GENERATION, **generation},
    )
    with ThreadPoolExecutor(_READERS, "mblip-read") as readers:

        def read(paths: Sequence[str]) -> Iterator[Image.Image | UnreadableImage]:
            return readers.map(lambda path: _open(path, model), paths)

        coming = read(chunks[0] if chunks else [])
        for chunk, after in zip_longest(chunks, chunks[1:], fillvalue=()):
            opened = dict(zip(chunk, coming, strict=True))
            coming = read(after)
            prompts = [
                Request(code, (picture,), model.prompts.for_caption(LANGUAGES[code].name))
                for picture in chunk
                if not isinstance(opened[picture], UnreadableImage)
                for code in lacking[picture]
            ]
            texts = {(request.images[0], request.id): text for request, text in generator.answers(prompts)}
            for picture in chunk:
                image = opened[picture]
                if isinstance(image, UnreadableImage):
                    yield image
                else:
                    yield [Caption(picture, code, texts[picture, code], name) for code in lacking[picture]]


class CaptionFile:
    """A file of captions in JSONL, CSV or Parquet.

    Rows are kept in ``FILE.partial.jsonl`` as they come, and the file itself is written, whole, at the end.

    Args:
        path: The file.
        model: Name of the model that the rows are of.
        resume: Go on from what a stopped run, or a finished one with fewer pictures or languages, has left.

    Raises:
        InputError: Of another ending, there already, or made by another model.
    """

    def __init__(self, path: Path, model: str, resume: bool) -> None:
        self.path = path
        self._journal = path.with_name(path.name + ".partial.jsonl")
        if path.suffix.lower() not in TABLES:
            raise InputError(f"--to {path}: the ending must be one of {', '.join(TABLES)}")
        kept = [file for file in (path, self._journal) if file.exists()]
        if kept and not resume:
            raise InputError(f"{kept[0]} exists already: add --resume to go on with it, or name another file")
        self._rows: dict[tuple[str, str], Caption] = {}
        if path.exists():
            self._take(path, model)
        # Opening removes a last line that was cut off by the kill.
        self._appender = JsonlAppender(self._journal)
        self._take(self._journal, model)

    @property
    def done(self) -> Collection[tuple[str, str]]:
        """Pairs of picture and language that are there."""
        return self._rows.keys()

    def add(self, captions: Sequence[Caption]) -> None:
        """Keep the captions of one picture."""
        for caption in captions:
            self._appender.append(caption)
            self._rows[caption.image, caption.language] = caption

    def finish(self, pictures: Sequence[str], languages: Sequence[str]) -> None:
        """Write the file: the rows of these pictures and languages in this order, then any that were there before."""
        order = [(picture, code) for picture in pictures for code in languages]
        keys = dict.fromkeys([*(key for key in order if key in self._rows), *self._rows])
        _write(self.path, [self._rows[key] for key in keys])
        self.close()
        self._journal.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave everything for a run that goes on, and nothing where there is nothing to go on from."""
        self._appender.close()
        if not self._journal.stat().st_size:
            self._journal.unlink()

    def _take(self, file: Path, model: str) -> None:
        for number, row in enumerate(_rows(file), start=1):
            if row.keys() != set(Caption.__slots__) or not all(isinstance(value, str) for value in row.values()):
                columns = ", ".join(Caption.__slots__)
                raise InputError(f"{file}, row {number}, lacks one of {columns}: no file of captions, name another")
            caption = Caption(**row)
            if caption.model != model:
                raise InputError(f"{file} holds captions of {caption.model}, not of {model}: name another file")
            self._rows[caption.image, caption.language] = caption


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and path.is_file()


def _open(path: str, model: Predictor) -> Image.Image | UnreadableImage:
    try:
        path.encode()
        return model.shrink(open_picture(path))
    except UnicodeEncodeError:  # no table could hold it
        return UnreadableImage(path, "its name is not UTF-8: rename it")
    except UnreadableImage as error:
        return error


def _usable(image: Image.Image | UnreadableImage) -> Image.Image:
    if isinstance(image, UnreadableImage):
        raise image
    return image


def _column(table: Path, column: str) -> Iterator[str]:
    for number, row in enumerate(_rows(table), start=1):
        if column not in row:
            hint = nearest(column, map(str, row))
            raise InputError(f"{table}, row {number} has no column {column!r}{hint}; name it with --column")
        if not isinstance(row[column], str) or not row[column]:
            raise InputError(f"{table}, row {number}: {column!r} must be the path of a picture, not {row[column]!r}")
        yield row[column]


def _rows(table: Path) -> Iterator[dict[str, Any]]:
    if table.suffix.lower() == ".jsonl":
        yield from read_jsonl(table)
        return
    try:
        if table.suffix.lower() == ".csv":
            with table.open(encoding="utf-8-sig", newline="") as file:
                yield from csv.DictReader(file)
        else:
            import pyarrow.parquet as pq

            yield from pq.read_table(table).to_pylist()
    # pyarrow's own errors are ValueErrors
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise InputError(f"cannot read {table}: {' '.join(str(error).split())}") from error


def _write(path: Path, captions: Sequence[Caption]) -> None:
    ending = path.suffix.lower()
    if ending == ".jsonl":
        with JsonlWriter(path) as writer:
            for caption in captions:
                writer.write(caption)
        return
    with atomic_path(path) as temporary:
        if ending == ".csv":
            with temporary.open("w", encoding="utf-8", newline="") as file:
                table = csv.DictWriter(file, Caption.__slots__)
                table.writeheader()
                table.writerows(map(asdict, captions))
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq

            columns = {name: pa.array([getattr(c, name) for c in captions], pa.string()) for name in Caption.__slots__}
            pq.write_table(pa.table(columns), temporary)
