"""Caption many pictures, each encoded once for all languages."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from mblip.errors import InputError
from mblip.inference.caption_file import Caption
from mblip.inference.finding import Place
from mblip.inference.predictor import Predictor, for_people
from mblip.languages import LANGUAGES
from mblip.models.generation import Generator, Request
from mblip.processing.images import open_picture
from mblip.storage import UnreadableImage, decode_image
from mblip.storage.cells import PictureCells
from mblip.storage.tars import Member

_READERS = 4
T = TypeVar("T")


def caption_pictures(
    model: Predictor,
    name: str,
    pictures: Iterable[Place],
    languages: Sequence[str],
    done: Container[tuple[str, str]] = (),
    batch_size: int = 32,
    **generation: Any,
) -> Iterator[list[Caption] | UnreadableImage]:
    """Caption pictures in order; yields the captions of each, or the error that keeps it from being read.

    The next pictures are read while the model works.

    Args:
        model: The model.
        name: Name of the model in rows.
        pictures: The pictures, each once; consumed as needed.
        languages: mC4 codes.
        done: Pairs of picture and language to skip.
        batch_size: Number of captions generated together.
        **generation: As in :meth:`~mblip.inference.predictor.Predictor.caption`.
    """
    size = max(1, batch_size // len(languages))
    lacking = ((picture, [code for code in languages if (str(picture), code) not in done]) for picture in pictures)
    chunks = _batched(((picture, codes) for picture, codes in lacking if codes), size)
    cells = _Cells()
    opened: dict[str, Image.Image | UnreadableImage] = {}
    generator = Generator(
        model.vlm,
        lambda key: _usable(opened[key]),
        batch_size=batch_size,
        cached_images=size,
        **for_people(generation),
    )
    with ThreadPoolExecutor(_READERS, "mblip-read") as readers:

        def read(chunk: Sequence[tuple[Place, list[str]]]) -> Iterator[Image.Image | UnreadableImage]:
            # Cells are read from their file one by one; only decoding runs in parallel.
            return readers.map(
                lambda source: _open(source[0], source[1], model), [cells.source(picture) for picture, _ in chunk]
            )

        chunk = next(chunks, ())
        coming = read(chunk)
        while chunk:
            opened = {str(picture): image for (picture, _), image in zip(chunk, coming, strict=True)}
            after = next(chunks, ())
            coming = read(after)
            wanted = [(str(picture), codes) for picture, codes in chunk]
            prompts = [
                Request(code, (picture,), model.prompts.for_caption(LANGUAGES[code].name))
                for picture, codes in wanted
                if not isinstance(opened[picture], UnreadableImage)
                for code in codes
            ]
            texts = {(request.images[0], request.id): text for request, text in generator.answers(prompts)}
            for picture, codes in wanted:
                image = opened[picture]
                if isinstance(image, UnreadableImage):
                    yield image
                else:
                    yield [Caption(picture, code, texts[picture, code], name) for code in codes]
            chunk = after


class _Cells:
    """The Parquet files that cells are read from, each opened once."""

    def __init__(self) -> None:
        self._files: dict[tuple[str, str], PictureCells] = {}

    def source(self, picture: Place) -> tuple[str, str | bytes | UnreadableImage]:
        """The name of a picture, and what to open: a path or the bytes of a file."""
        if isinstance(picture, str):
            return picture, picture
        name = str(picture)
        if isinstance(picture, Member):
            try:
                return name, picture.read()
            except UnreadableImage as error:
                return name, error
        key = picture.table, picture.column
        try:
            if key not in self._files:
                self._files[key] = PictureCells(Path(picture.table), picture.column)
            data, path = self._files[key].get(picture.row)
        except InputError as error:
            return name, UnreadableImage(name, str(error))
        if data is not None:
            return name, data
        return name, str(Path(picture.table).parent / path) if path else UnreadableImage(name, "its cell is empty")


# itertools.batched needs Python 3.12.
def _batched(items: Iterator[T], size: int) -> Iterator[tuple[T, ...]]:
    """Tuples of ``size`` items; the last may be shorter."""
    while batch := tuple(islice(items, size)):
        yield batch


def _open(name: str, source: str | bytes | UnreadableImage, model: Predictor) -> Image.Image | UnreadableImage:
    try:
        name.encode()
        if isinstance(source, UnreadableImage):
            return source
        return model.shrink(decode_image(source, name) if isinstance(source, bytes) else open_picture(source))
    except UnicodeEncodeError:  # no table could hold the name
        return UnreadableImage(name, "its name is not UTF-8: rename it")
    except UnreadableImage as error:
        return error if error.key == name else UnreadableImage(name, error.reason)


def _usable(image: Image.Image | UnreadableImage) -> Image.Image:
    if isinstance(image, UnreadableImage):
        raise image
    return image
