"""Flickr30K captions in IGLUE's layout, which xFlickrCo shares, or in Karpathy's (fine-tuning for captioning).

Licence: captions and photos for research only. Download: IGLUE (annotations), https://shannon.cs.illinois.edu/DenotationGraph
(photos).

Raw record, a JSON line::

    {"sentences": ["Two young guys with shaggy hair ...", ...], "id": "1000092795", "img_path": "1000092795.jpg"}

or a record of Karpathy's ``dataset_flickr30k.json`` (see :mod:`mblip.corpora.coco`), becomes one ``caption`` example
per sentence.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mblip.corpora.coco import Split, read_karpathy
from mblip.corpora.json_stream import Row, Text, make_examples, take_id, take_text, take_texts
from mblip.schema import Drop, Example
from mblip.storage import read_jsonl

LICENCE = "research only"


def read(source: str, path: Path, split: Split = "train") -> Iterator[Example | Drop]:
    """Yield the sentences of a file.

    Args:
        source: First part of the ids.
        path: IGLUE's JSON lines (``.jsonl``), which are a split by themselves, or Karpathy's
            ``dataset_flickr30k.json``.
        split: The split of Karpathy's file.
    """
    if path.suffix.lower() == ".json":
        return read_karpathy(source, LICENCE, path, {split})
    return make_examples(source, LICENCE, path, read_jsonl(path), _make)


def _make(row: Row) -> Iterator[Text]:
    image = take_text(row, "img_path")
    for number, sentence in enumerate(take_texts(row, "sentences")):
        yield Text(f"{take_id(row, 'id')}-{number}", "caption", (image,), {"caption": sentence})
