"""Keep images of the evaluation out of the training mix, under any of their names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mblip.corpora.json_stream import first_character, stream_members, stream_rows
from mblip.errors import InputError
from mblip.storage import read_jsonl, reading_text

_LONGEST_LINE = 1 << 20
_COCO = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?(\d{12})")


def image_identity(key: str) -> str:
    """The normalised name of an image: COCO's number without year and split, else the file name.

    ``val2014/COCO_val2014_000000391895.jpg`` and ``train2017/000000391895.jpg`` are the same photo.
    """
    stem = PurePosixPath(key).name.partition(".")[0]
    match = _COCO.fullmatch(stem)
    return f"coco {int(match[1])}" if match else stem


def evaluation_images(paths: tuple[str, ...]) -> frozenset[str]:
    """The normalised names of the images in lists.

    A list is a file with one name per line (``.txt``), Karpathy's ``dataset_coco.json`` (its val and test), COCO's own
    annotations
    (``images``), GQA's questions in either layout, or JSON lines (``.jsonl``, or ``.json`` as POPE calls them) with
    ``img_path``, ``image`` or ``Flikr30kID``.

    Raises:
        InputError: A file cannot be read or lists no image.
    """
    found: set[str] = set()
    for path in map(Path, paths):
        before = len(found)
        found.update(image_identity(name) for name in _names(path))
        if len(found) == before:
            raise InputError(
                f"{path} lists no image that could be excluded; see mblip.mixture.exclusion for the layouts"
            )
    return frozenset(found)


def _names(path: Path) -> Iterator[str]:
    if path.suffix == ".txt":
        with reading_text(path):
            yield from (line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    elif path.suffix == ".jsonl":
        yield from _of_rows(read_jsonl(path))
    elif first_character(path) == "[" or _is_lines(path):
        yield from _of_rows(stream_rows(path))
    else:
        for name, value in stream_members(path):
            if name != "images" or not isinstance(value, dict) or value.get("split", "test") in ("val", "test"):
                yield from _of_rows([value])


def _is_lines(path: Path) -> bool:
    """Whether a ``.json`` file has JSON lines, like NLVR2's and POPE's: its first line is a complete object."""
    with path.open("rb") as file:
        line, more = file.readline(_LONGEST_LINE), file.readline(2)
    try:
        return bool(more.strip()) and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _of_rows(rows: Any) -> Iterator[str]:
    for row in rows:
        for field in ("img_path", "filename", "file_name", "image", "imageId", "img_id", "Flikr30kID"):
            if isinstance(row, dict) and isinstance(row.get(field), str):
                yield row[field]
                break
