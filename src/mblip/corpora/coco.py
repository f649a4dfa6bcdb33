"""MSCOCO captions in Karpathy's split, or in COCO's own files.

Licence: captions CC BY 4.0; the photos are their authors' on Flickr. Download: ``caption_datasets.zip`` of Karpathy
(https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip), images and the official captions from
https://cocodataset.org.

Raw record, in ``images`` of ``dataset_coco.json``::

    {"filepath": "train2014", "filename": "COCO_train2014_000000057870.jpg", "split": "train", "cocoid": 57870,
     "sentences": [{"raw": "A restaurant has modern wooden tables and chairs.", "sentid": 787980, ...}, ...], ...}

or in ``annotations`` of ``captions_train2014.json``, with the file's name in its ``images``::

    {"image_id": 57870, "id": 787980, "caption": "A restaurant has modern wooden tables and chairs."}

or in BLIP's list, such as ``coco_karpathy_train.json``, with one caption or several::

    {"image": "val2014/COCO_val2014_000000522418.jpg", "caption": "A woman cuts a cake.", "image_id": "coco_522418"}

becomes one ``caption`` example per sentence, with the image key ``train2014/COCO_train2014_000000057870.jpg`` (a name
of 2017, ``000000057870.jpg``, is kept).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from mblip.corpora.json_stream import (
    BadRow,
    Row,
    Text,
    first_character,
    make_examples,
    stream_json,
    take,
    take_id,
    take_key,
    take_text,
    take_texts,
)
from mblip.errors import InputError
from mblip.schema import Drop, Example

Split = Literal["train", "val", "test"]

LICENCE = "CC-BY-4.0"
_SPLITS = ("train", "restval", "val", "test")


def read(source: str, path: Path, split: Split = "train", restval: bool = False) -> Iterator[Example | Drop]:
    """Yield the captions of a split.

    Args:
        source: First part of the ids.
        path: ``dataset_coco.json``, or an official file such as ``captions_train2014.json``.
        split: Karpathy's split. An official file, or a list of BLIP, is a split by itself and is read completely.
        restval: With ``train``, also read the 30,504 images of val2014 that are in neither test nor val. They belong to
            train only; the original wrongly counted them as val.
    """
    if first_character(path) == "[":
        return _read_blip(source, path)
    first = next(stream_json(path, "images"), None)
    if isinstance(first, dict) and "sentences" not in first and "file_name" in first:
        return _read_official(source, path)
    return read_karpathy(source, LICENCE, path, {split, "restval"} if restval and split == "train" else {split})


def read_karpathy(source: str, licence: str, path: Path, splits: set[str]) -> Iterator[Example | Drop]:
    """Yield the captions of some splits of a file in Karpathy's layout, also of Flickr30K."""

    def make(row: Row) -> Iterator[Text]:
        split = take_text(row, "split")
        if split not in _SPLITS:
            raise BadRow(f"'split' must be one of {', '.join(_SPLITS)}, not {split!r}"[:200])
        if split not in splits:
            return
        key = take_text(row, "filename")
        if "filepath" in row:
            key = f"{take_text(row, 'filepath')}/{key}"
        sentences = take(row, "sentences", list)
        if not sentences:
            raise BadRow("'sentences' is empty")
        for sentence in sentences:
            yield Text(take_id(sentence, "sentid"), "caption", (key,), {"caption": take_text(sentence, "raw")})

    return make_examples(source, licence, path, stream_json(path, "images"), make)


def image_numbers(path: Path, split: Split) -> frozenset[int]:
    """COCO's numbers of the photos in a split of Karpathy's file, or of all photos in an official file.

    Raises:
        InputError: The file cannot be read, or has no such photo.
    """
    rows = (row for row in stream_json(path, "images") if isinstance(row, dict) and row.get("split", split) == split)
    found = frozenset(number for row in rows if isinstance(number := row.get("cocoid", row.get("id")), int))
    if not found:
        raise InputError(f"{path} has no photo of COCO in split {split!r}; name dataset_coco.json or an official file")
    return found


def _read_official(source: str, path: Path) -> Iterator[Example | Drop]:
    images = (row for row in stream_json(path, "images") if isinstance(row, dict))
    names = {row["id"]: row.get("file_name") for row in images if isinstance(row.get("id"), int | str)}

    def make(row: Row) -> Iterator[Text]:
        image = take_key(row, "image_id")
        name = names.get(image)
        if not isinstance(name, str) or not name:
            raise BadRow(f"'image_id' {image!r} is not the id of an image in 'images'")
        folder = re.match(r"COCO_(\w+\d{4})_", name)
        key = f"{folder[1]}/{name}" if folder else name
        yield Text(take_id(row, "id"), "caption", (key,), {"caption": take_text(row, "caption")})

    return make_examples(source, LICENCE, path, stream_json(path, "annotations"), make)


def _read_blip(source: str, path: Path) -> Iterator[Example | Drop]:
    def make(numbered: tuple[int, Row]) -> Iterator[Text]:
        number, row = numbered
        image = take_text(row, "image")
        several = isinstance(row["caption"], list) if "caption" in row else False
        captions = take_texts(row, "caption") if several else [take_text(row, "caption")]
        for place, caption in enumerate(captions):  # several rows may have the same image, so its id is not unique
            yield Text(f"{number}-{place}" if several else str(number), "caption", (image,), {"caption": caption})

    return make_examples(source, LICENCE, path, enumerate(stream_json(path), start=1), make)
