"""Web CapFilt: BLIP's machine-made captions of web images, balanced by what they speak of.

Licence: captions BSD-3-Clause (BLIP); the images are their sites' own. Download:
https://storage.googleapis.com/sfr-vision-language-research/BLIP/datasets/ccs_synthetic_filtered_large.json.

Raw record::

    {"caption": "a woman in a red dress", "url": "https://example.org/a.jpg"}

becomes a ``caption`` example, if the balancing chooses it. Its image is keyed by a hash of the address, under which
``mblip data images`` stores it (or by ``jpg``, where the record has that).

Balancing (paper, appendix): of every noun phrase that occurs in at least ten captions, its stop words left out, thirty
of its captions are drawn. What thousands of captions say over and over is so cut down, and what few say stays.
"""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mblip.corpora.raw import BadRow, Row, Text, make_examples, stream_json, take_text
from mblip.errors import InputError
from mblip.schema import Drop, Example

LICENCE = "BSD-3-Clause"

# Pairs of phrase and caption are counted in so many parts, to hold a sixteenth of them in memory.
_PARTS = 16


def read(
    source: str,
    path: Path,
    pipeline: str = "en_core_web_sm",
    least: int = 10,
    most: int = 30,
    processes: int = 1,
    seed: int = 0,
) -> Iterator[Example | Drop]:
    """Yield the balanced captions; reads the file twice.

    Args:
        source: First part of the ids.
        path: ``ccs_synthetic_filtered_large.json``.
        pipeline: A spaCy pipeline with tagger and parser, installed or as a folder; 0 for ``most`` needs none.
        least: Captions that a noun phrase must occur in to count.
        most: Captions drawn for each phrase; 0 takes every caption.
        processes: Of spaCy.
        seed: Of the draw.

    Raises:
        InputError: The pipeline is not installed or finds no noun phrases.
    """
    chosen = balance(path, pipeline, least, most, processes, seed) if most else None

    def make(numbered: tuple[int, Row]) -> Iterator[Text]:
        number, row = numbered
        if chosen is not None and not chosen[number - 1]:
            return
        key = take_text(row, "jpg") if isinstance(row, dict) and "jpg" in row else url_key(take_text(row, "url"))
        yield Text(str(number), "caption", (key,), {"caption": take_text(row, "caption")})

    return make_examples(source, LICENCE, path, enumerate(stream_json(path), start=1), make)


def urls(path: Path, **_: Any) -> Iterator[tuple[str, str]]:
    """Image key and address of every record, for ``mblip data images``."""
    for row in stream_json(path):
        with suppress(BadRow):  # reading the source counts those
            url = take_text(row, "url")
            yield url_key(url), url


def url_key(url: str) -> str:
    """The image key of an address: 16 hexadecimal digits of its hash, in 256 folders."""
    digest = hashlib.blake2b(url.encode("utf-8", "replace"), digest_size=8).hexdigest()
    return f"{digest[:2]}/{digest}.jpg"


def balance(path: Path, pipeline: str, least: int, most: int, processes: int, seed: int) -> NDArray[np.bool_]:
    """True for each caption of a file that is kept."""
    nlp = load_pipeline(pipeline)
    captions = (str(row.get("caption", "")) if isinstance(row, dict) else "" for row in stream_json(path))
    count = 0
    with tempfile.TemporaryDirectory() as folder:
        parts = [Path(folder) / str(part) for part in range(_PARTS)]
        buffers = [array("Q") for _ in range(_PARTS)]
        for caption, document in enumerate(nlp.pipe(captions, n_process=processes, batch_size=1000)):
            count = caption + 1
            for phrase in noun_phrases(document):
                number = int.from_bytes(hashlib.blake2b(phrase.encode("utf-8", "replace"), digest_size=8).digest())
                buffers[number % _PARTS].extend((number, caption))
            if caption % 10_000 == 9_999:
                _spill(parts, buffers)
        _spill(parts, buffers)
        chosen = np.zeros(count, dtype=bool)
        for number, part in enumerate(parts):
            pairs = np.fromfile(part, np.uint64).reshape(-1, 2)
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
            f"there is no spaCy pipeline {name!r}; run python -m spacy download {name}, or name the folder of one"
        ) from error
    if "parser" not in nlp.pipe_names:
        raise InputError(f"the spaCy pipeline {name!r} has no parser, so it finds no noun phrases; name one that has")
    return nlp


def noun_phrases(document: Any) -> set[str]:
    """The noun phrases of a parsed text in small letters, without stop words and marks."""
    words = (
        [token.lower_ for token in chunk if not (token.is_stop or token.is_punct)] for chunk in document.noun_chunks
    )
    return {" ".join(chunk) for chunk in words if chunk}


def _spill(parts: list[Path], buffers: list[array[int]]) -> None:
    for part, buffer in zip(parts, buffers, strict=True):
        with part.open("ab") as file:
            buffer.tofile(file)
        del buffer[:]


def _draw(pairs: NDArray[np.uint64], least: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Captions drawn from [pairs, (phrase, caption)]: ``most`` at random for each phrase with ``least`` of them."""
    if not len(pairs):
        return np.empty(0, np.int64)
    pairs = pairs[np.lexsort((rng.random(len(pairs)), pairs[:, 0]))]
    _, starts, counts = np.unique(pairs[:, 0], return_index=True, return_counts=True)
    place = np.arange(len(pairs)) - np.repeat(starts, counts)
    drawn: NDArray[np.int64] = pairs[(place < most) & (np.repeat(counts, counts) >= least), 1].astype(np.int64)
    return drawn
