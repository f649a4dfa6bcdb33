"""Image-text matching made from captions: does this sentence fit the picture?

Licence: that of the captions. No download is needed: the raw records are the caption examples of another source in a
work folder, and the neighbours that ``mblip data match`` finds among them.

A caption example becomes a ``matching`` example of the same image: half of the time with its own caption and yes, else
with a wrong caption and no. The wrong one is drawn with equal chance from a random one and those at some ranks (3rd,
10th, 30th, 100th, 300th in the paper) among the captions nearest to the image. An equal caption is never used as wrong.

With ``draw: original`` it is as in the original: true and wrong captions alternate in blocks of 125 rows, and the wrong
one is any caption at that rank or at random, even the image's own caption. The number of such false "no" depends on the
neighbours: ``mblip data match --original`` finds the original's.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mblip.errors import InputError, check_readable, counted
from mblip.schema import Drop, Example
from mblip.storage import ShardReader, read_manifest

Ranks = NDArray[np.int32]
BLOCK = 125  # rows that are all true, or all wrong, in the original


def read(
    source: str,
    captions: Path,
    neighbours: Path | None = None,
    start: int = 0,
    count: int = 0,
    seed: int = 0,
    draw: Literal["fair", "original"] = "fair",
) -> Iterator[Example | Drop]:
    """Yield a matching example for each caption of a range.

    Args:
        source: First part of the ids.
        captions: Folder of caption examples, such as ``work/english/web_capfilt``.
        neighbours: File of ``mblip data match`` for the same range; without it all wrong captions are random.
        start: Index of the first caption (1,000 in the paper).
        count: Number of captions (600,000 in the paper); 0 for all that follow.
        seed: Seed of the draws.
        draw: ``fair``, or ``original``: see the module.

    Raises:
        InputError: There are no captions, or the neighbours are of another range.
    """
    rows = caption_rows(captions, start, count)
    ranks = _load_neighbours(neighbours, len(rows)) if neighbours else np.empty((len(rows), 0), np.int32)
    licence = "; ".join(sorted(set(read_manifest(captions).licences.values())))
    make = _examples if draw == "fair" else _original
    return make(source, rows, ranks, licence, random.Random(f"{source} {seed}"))


def caption_rows(folder: Path, start: int, count: int) -> list[tuple[str, str]]:
    """Image and caption of a range of caption examples.

    Raises:
        InputError: The folder has no captions, or too few.
    """
    read_manifest(folder)
    reader = ShardReader(folder, Example)
    stop = start + count if count else len(reader)
    if not 0 <= start < stop <= len(reader):
        raise InputError(
            f"{folder} holds {counted(len(reader), 'example')}, not {start:,} to {stop:,}; choose another range"
        )
    rows = [(row.images[0], row.texts["caption"]) for row in reader.rows(start, stop) if row.task == "caption"]
    if len(rows) < stop - start:
        raise InputError(
            f"{folder} also holds examples of other tasks than caption; name a source that has only captions"
        )
    return rows


def _examples(
    source: str, rows: list[tuple[str, str]], ranks: Ranks, licence: str, draw: random.Random
) -> Iterator[Example | Drop]:
    for number, (image, caption) in enumerate(rows):
        answer = "yes"
        if draw.random() < 0.5:
            wrong = _wrong(draw, rows, number, ranks[number])
            if wrong is None:
                yield Drop(f"{source}/{number}", source, "no other caption", caption, "matching")
                continue
            caption, answer = wrong, "no"
        yield _example(source, number, image, caption, answer, licence)


def _original(
    source: str, rows: list[tuple[str, str]], ranks: Ranks, licence: str, draw: random.Random
) -> Iterator[Example | Drop]:
    for number, (image, caption) in enumerate(rows):
        if number // BLOCK % 2 == 0:
            yield _example(source, number, image, caption, "yes", licence)
            continue
        choices = [draw.randrange(len(rows)), *(int(rank) for rank in ranks[number] if rank >= 0)]
        yield _example(source, number, image, rows[draw.choice(choices)][1], "no", licence)


def _example(source: str, number: int, image: str, caption: str, answer: str, licence: str) -> Example:
    texts, languages = {"caption": caption, "answer": answer}, {"caption": "en", "answer": "en"}
    return Example(f"{source}/{number}", source, "matching", (image,), texts, languages, licence)


def _wrong(draw: random.Random, rows: list[tuple[str, str]], number: int, ranks: NDArray[np.int32]) -> str | None:
    own = rows[number][1]
    place = draw.randrange(len(ranks) + 1)
    if place < len(ranks) and ranks[place] >= 0:
        return rows[int(ranks[place])][1]
    for _ in range(1000):
        other = rows[draw.randrange(len(rows))][1]
        if other != own:
            return other
    return None


def _load_neighbours(path: Path, rows: int) -> Ranks:
    if not path.exists():
        raise InputError(f"there is no {path}; run mblip data match FOLDER_OF_CAPTIONS --to {path} with the same range")
    try:
        ranks: Ranks = np.load(path)
    except (OSError, ValueError) as error:
        check_readable(path)
        raise InputError(f"{path} is not readable as neighbours ({error}); run mblip data match again") from error
    if ranks.ndim != 2 or len(ranks) != rows or ranks.max(initial=-1) >= rows:
        raise InputError(
            f"{path} holds neighbours {ranks.shape} for another range than these {rows:,} captions; run mblip data match "
            "again"
        )
    return ranks
