"""Web CapFilt: BLIP's machine-made captions of web images, balanced by their noun phrases.

Licence: captions BSD-3-Clause (BLIP); the images belong to their sites. Download:
https://storage.googleapis.com/sfr-vision-language-research/BLIP/datasets/ccs_synthetic_filtered_large.json.

Raw record::

    {"caption": "a woman in a red dress", "url": "https://example.org/a.jpg"}

becomes a ``caption`` example, if the balancing chooses it. Its image key is a hash of the address, under which ``mblip
    data images`` stores the image; or ``jpg``, if the record has that; or img2dataset's number.

Balancing (paper, appendix): for every noun phrase without stop words that occurs in at least ten captions, thirty of
its captions are drawn. This reduces phrases of thousands of captions, and keeps rare ones.
"""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mblip.corpora.img2dataset import FetchedImages
from mblip.corpora.json_stream import BadRow, Row, Text, hash_text, make_examples, stream_json, take_text
from mblip.errors import InputError
from mblip.schema import Drop, Example
from mblip.storage import atomic_write

LICENCE = "BSD-3-Clause"

# Number of parts in which pairs of phrase and caption are processed, so that a sixteenth is in memory.
_PARTS = 16
_BLOCK = 100_000  # captions that are parsed between two saves


def read(
    source: str,
    path: Path,
    pipeline: str = "en_core_web_sm",
    least: int = 10,
    most: int = 30,
    processes: int = 1,
    fetched: Path | None = None,
    seed: int = 0,
    scratch: Path | None = None,
) -> Iterator[Example | Drop]:
    """Yield the balanced captions; reads the file twice.

    Args:
        source: First part of the ids.
        path: ``ccs_synthetic_filtered_large.json``.
        pipeline: A spaCy pipeline with tagger and parser, installed or as a folder; not needed if ``most`` is 0.
        least: Minimum number of captions with a noun phrase.
        most: Number of captions drawn per phrase; 0 takes every caption.
        processes: Number of spaCy's processes.
        fetched: Output folder of img2dataset, for its image keys; captions without an image are left out.
        seed: Seed of the draw.
        scratch: Folder for the phrases found so far, for a run that is stopped; set by the stage.

    Raises:
        InputError: The pipeline is not installed or finds no noun phrases.
    """
    chosen = balance(path, pipeline, least, most, processes, seed, scratch) if most else None

    images = FetchedImages(fetched) if fetched else None

    def make(numbered: tuple[int, Row]) -> Iterator[Text | Drop]:
        number, row = numbered
        if chosen is not None and not chosen[number - 1]:
            return
        caption = take_text(row, "caption")
        if "jpg" in row and not images:
            key = take_text(row, "jpg")
        else:
            url = take_text(row, "url")
            key = images.key(url) if images else url_key(url)
            if not key:
                yield Drop(f"{source}/{number}", source, "not fetched", url, "caption")
                return
        yield Text(str(number), "caption", (key,), {"caption": caption})

    return make_examples(source, LICENCE, path, enumerate(stream_json(path), start=1), make)


def urls(path: Path, **_: Any) -> Iterator[tuple[str, str]]:
    """Image keys and addresses of all records, for ``mblip data images``."""
    for row in stream_json(path):
        with suppress(BadRow):  # reading the source reports bad rows
            url = take_text(row, "url")
            yield url_key(url), url


def url_key(url: str) -> str:
    """The image key of an address: 16 hexadecimal digits of its hash, in one of 256 folders."""
    digest = hashlib.blake2b(url.encode("utf-8", "replace"), digest_size=8).hexdigest()
    return f"{digest[:2]}/{digest}.jpg"


def balance(
    path: Path, pipeline: str, least: int, most: int, processes: int, seed: int, scratch: Path | None = None
) -> NDArray[np.bool_]:
    """Mask of the captions in a file that are kept."""
    nlp = load_pipeline(pipeline)
    captions = (str(row.get("caption", "")) if isinstance(row, dict) else "" for row in stream_json(path))
    blocks: list[Path] = []
    count = 0
    with tempfile.TemporaryDirectory() as temporary:
        while block := list(islice(captions, _BLOCK)):
            blocks.append((scratch or Path(temporary)) / f"phrases-{len(blocks):05d}.npy")
            if not blocks[-1].exists():
                pairs = _phrases(nlp.pipe(block, n_process=processes, batch_size=1000), count)
                with atomic_write(blocks[-1]) as file:
                    np.save(file, pairs)
            count += len(block)
        chosen = np.zeros(count, dtype=bool)
        for number in range(_PARTS if blocks else 0):
            pairs = np.concatenate([_part(np.load(file), number) for file in blocks])
            chosen[_draw(pairs, least, most, np.random.default_rng([seed, number]))] = True
    return chosen


def load_pipeline(name: str) -> Any:
    """A spaCy pipeline that finds noun phrases.

    Raises:
        InputError: spaCy or the pipeline is missing, or it has no parser.
    """
    try:
        import spacy
    except ImportError as error:
        raise InputError("balancing needs spaCy; pip install 'mblip[translate]'") from error
    try:
        nlp = spacy.load(name)
    except OSError as error:
        raise InputError(
            f"there is no spaCy pipeline {name!r}; run python -m spacy download {name}, or name a folder"
        ) from error
    if "parser" not in nlp.pipe_names:
        raise InputError(f"the spaCy pipeline {name!r} has no parser to find noun phrases; name one with a parser")
    return nlp


def noun_phrases(document: Any) -> set[str]:
    """The noun phrases of a parsed text in lower case, without stop words and punctuation."""
    words = (
        [token.lower_ for token in chunk if not (token.is_stop or token.is_punct)] for chunk in document.noun_chunks
    )
    return {" ".join(chunk) for chunk in words if chunk}


def _phrases(documents: Iterable[Any], first: int) -> NDArray[np.uint64]:
    """Pairs [pairs, (hash of a phrase, number of its caption)], with captions counted from ``first``."""
    pairs = array("Q")
    for caption, document in enumerate(documents, start=first):
        for phrase in sorted(noun_phrases(document)):  # the order of a set differs between runs
            pairs.append(hash_text(phrase))
            pairs.append(caption)
    return np.frombuffer(pairs, np.uint64).reshape(-1, 2)


def _part(pairs: NDArray[np.uint64], number: int) -> NDArray[np.uint64]:
    inside: NDArray[np.bool_] = pairs[:, 0] % np.uint64(_PARTS) == number
    return pairs[inside]


def _draw(pairs: NDArray[np.uint64], least: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw captions from [pairs, (phrase, caption)]: ``most`` at random for each phrase with at least ``least``."""
    if not len(pairs):
        return np.empty(0, np.int64)
    pairs = pairs[np.lexsort((rng.random(len(pairs)), pairs[:, 0]))]
    _, starts, counts = np.unique(pairs[:, 0], return_index=True, return_counts=True)
    place = np.arange(len(pairs)) - np.repeat(starts, counts)
    drawn: NDArray[np.int64] = pairs[(place < most) & (np.repeat(counts, counts) >= least), 1].astype(np.int64)
    return drawn
