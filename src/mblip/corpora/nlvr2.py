"""NLVR2: is a sentence true of two images? Used in fine-tuning for MaRVL.

Licence: CC BY 4.0 (sentences). Download: https://github.com/lil-lab/nlvr/tree/master/nlvr2/data.

Raw record, a line of a ``.json`` file that is JSON lines::

    {"sentence": "There are exactly six bottles in the right image.", "label": "True", "identifier": "dev-850-0-0",
     "directory": 12, ...}

becomes one ``image_pair`` example with ``dev-850-0-img0.png`` and ``-img1.png`` (below ``12/`` if the row has a
directory, as in train) and yes or no.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mblip.corpora.json_stream import BadRow, Row, Text, make_examples, take, take_text
from mblip.schema import Drop, Example
from mblip.storage import read_jsonl

LICENCE = "CC-BY-4.0"
ANSWERS = {"True": "yes", "False": "no"}


def read(source: str, path: Path) -> Iterator[Example | Drop]:
    """Yield the sentences of a file."""
    return make_examples(source, LICENCE, path, read_jsonl(path), _make)


def _make(row: Row) -> Iterator[Text]:
    name, label = take_text(row, "identifier"), take_text(row, "label")
    if label not in ANSWERS:
        raise BadRow(f"'label' must be True or False, not {label!r}")
    folder = f"{take(row, 'directory', int)}/" if "directory" in row else ""
    images = tuple(f"{folder}{name.rpartition('-')[0]}-img{side}.png" for side in (0, 1))
    yield Text(name, "image_pair", images, {"statement": take_text(row, "sentence"), "answer": ANSWERS[label]})
