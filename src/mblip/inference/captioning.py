"""Captions of many pictures, each encoded once for all languages."""

from __future__ import annotations

import csv
import glob
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from mblip.errors import InputError, nearest
from mblip.inference.caption_file import Caption
from mblip.inference.predictor import GENERATION, Predictor
from mblip.languages import LANGUAGES
from mblip.models.generation import Generator, Request
from mblip.processing.images import open_picture
from mblip.storage import UnreadableImage, read_jsonl
from mblip.storage.images import EXTENSIONS

TABLES = (".jsonl", ".csv", ".parquet")
_READERS = 4
T = TypeVar("T")


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
    pictures: Iterable[str],
    languages: Sequence[str],
    done: Container[tuple[str, str]] = (),
    batch_size: int = 32,
    **generation: Any,
) -> Iterator[list[Caption] | UnreadableImage]:
    """Caption pictures in order; of each its captions, or what keeps it from being read.

    The next pictures are read while the model is at work.

    Args:
        model: The model.
        name: What rows call it.
        pictures: Paths, each once; taken as they are needed.
        languages: mC4 codes.
        done: Pairs of picture and language to leave out.
        batch_size: Captions that are generated together.
        **generation: As in :meth:`~mblip.inference.predictor.Predictor.caption`.
    """
    size = max(1, batch_size // len(languages))
    lacking = ((picture, [code for code in languages if (picture, code) not in done]) for picture in pictures)
    chunks = _batched(((picture, codes) for picture, codes in lacking if codes), size)
    opened: dict[str, Image.Image | UnreadableImage] = {}
    generator = Generator(
        model,
        lambda key: _usable(opened[key]),
        batch_size=batch_size,
        cached_images=size,
        **{**GENERATION, **generation},
    )
    with ThreadPoolExecutor(_READERS, "mblip-read") as readers:

        def read(chunk: Sequence[tuple[str, list[str]]]) -> Iterator[Image.Image | UnreadableImage]:
            return readers.map(lambda wanted: _open(wanted[0], model), chunk)

        chunk = next(chunks, ())
        coming = read(chunk)
        while chunk:
            opened = {picture: image for (picture, _), image in zip(chunk, coming, strict=True)}
            after = next(chunks, ())
            coming = read(after)
            prompts = [
                Request(code, (picture,), model.prompts.for_caption(LANGUAGES[code].name))
                for picture, codes in chunk
                if not isinstance(opened[picture], UnreadableImage)
                for code in codes
            ]
            texts = {(request.images[0], request.id): text for request, text in generator.answers(prompts)}
            for picture, codes in chunk:
                image = opened[picture]
                if isinstance(image, UnreadableImage):
                    yield image
                else:
                    yield [Caption(picture, code, texts[picture, code], name) for code in codes]
            chunk = after


# itertools.batched is of Python 3.12.
def _batched(items: Iterator[T], size: int) -> Iterator[tuple[T, ...]]:
    """Tuples of so many items; the last may be shorter."""
    while batch := tuple(islice(items, size)):
        yield batch


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
