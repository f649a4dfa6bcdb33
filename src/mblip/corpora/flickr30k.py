"""Flickr30K captions in IGLUE's layout, which xFlickrCo shares (fine-tuning for captioning).

Licence: captions and photos for research only. Download: IGLUE (annotations), https://shannon.cs.illinois.edu/DenotationGraph
(photos).

Raw record, a JSON line::

    {"sentences": ["Two young guys with shaggy hair ...", ...], "id": "1000092795", "img_path": "1000092795.jpg"}

becomes one ``caption`` example a sentence.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mblip.corpora.raw import Row, Text, make_examples, take, take_text, take_texts
from mblip.schema import Drop, Example
from mblip.storage import read_jsonl

LICENCE = "research only"


def read(source: str, path: Path) -> Iterator[Example | Drop]:
    """Yield the sentences of a file."""
    return make_examples(source, LICENCE, path, read_jsonl(path), _make)


def _make(row: Row) -> Iterator[Text]:
    image = take_text(row, "img_path")
    for number, sentence in enumerate(take_texts(row, "sentences")):
        yield Text(f"{take(row, 'id', object)}-{number}", "caption", (image,), {"caption": sentence})
