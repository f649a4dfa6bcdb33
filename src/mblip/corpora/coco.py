"""MSCOCO captions in Karpathy's split.

Licence: captions CC BY 4.0; the photos are their authors' on Flickr. Download: ``caption_datasets.zip`` of Karpathy
(https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip), images from https://cocodataset.org.

Raw record, in ``images`` of ``dataset_coco.json``::

    {"filepath": "train2014", "filename": "COCO_train2014_000000057870.jpg", "split": "train", "cocoid": 57870,
     "sentences": [{"raw": "A restaurant has modern wooden tables and chairs.", "sentid": 787980, ...}, ...], ...}

becomes one ``caption`` example a sentence, its image keyed ``train2014/COCO_train2014_000000057870.jpg``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from mblip.corpora.raw import BadRow, Row, Text, make_examples, stream_json, take, take_text
from mblip.schema import Drop, Example

LICENCE = "CC-BY-4.0"


def read(
    source: str, path: Path, split: Literal["train", "val", "test"] = "train", restval: bool = False
) -> Iterator[Example | Drop]:
    """Yield the captions of a split.

    Args:
        source: First part of the ids.
        path: ``dataset_coco.json``.
        split: Karpathy's.
        restval: With ``train``, also the 30,504 images of val2014 that are in neither test nor val. They are in no
            split but train: counting them as val, as the original did, is wrong.
    """
    splits = {split, "restval"} if restval and split == "train" else {split}

    def make(row: Row) -> Iterator[Text]:
        if take_text(row, "split") not in splits:
            return
        key = f"{take_text(row, 'filepath')}/{take_text(row, 'filename')}"
        sentences = take(row, "sentences", list)
        if not sentences:
            raise BadRow("'sentences' is empty")
        for sentence in sentences:
            text = {"caption": take_text(sentence, "raw")}
            yield Text(str(take(sentence, "sentid", int)), "caption", (key,), text)

    return make_examples(source, LICENCE, path, stream_json(path, "images"), make)
