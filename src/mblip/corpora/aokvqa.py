"""A-OKVQA: questions that need knowledge, with reasons.

Licence: Apache-2.0. Download: https://prior-datasets.s3.us-east-2.amazonaws.com/aokvqa/aokvqa_v1p0.tar.gz.

Raw record::

    {"split": "train", "image_id": 299207, "question_id": "22Mex...",
     "question": "What is the man by the bags awaiting?", "choices": ["train", ..., "cab"], "correct_choice_idx": 3,
     "direct_answers": ["ride", ...], "rationales": ["A train would not be on the street, ...", ...], ...}

becomes, for each rationale, a ``reasoning`` example (answer, then why) and an ``explanation`` example (why this one).
The images are of COCO 2017, with the same numbers as in 2014. According to the paper, about 33,000 of the 51,168
rationales are about photos of train2014. It leaves out the others, whose photos are in val2014, like those of the
evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mblip.corpora.coco import image_numbers
from mblip.corpora.json_stream import (
    BadRow,
    Row,
    Text,
    image_name,
    make_examples,
    stream_json,
    take,
    take_id,
    take_text,
    take_texts,
)
from mblip.corpora.vqav2 import COCO_TRAIN_KEY
from mblip.schema import Drop, Example

LICENCE = "Apache-2.0"


def read(
    source: str,
    path: Path,
    image_key: str = COCO_TRAIN_KEY,
    tasks: tuple[str, ...] = ("reasoning", "explanation"),
    coco: Path | None = None,
) -> Iterator[Example | Drop]:
    """Yield every rationale of every question, for each of ``tasks``.

    Args:
        source: First part of the ids.
        path: ``aokvqa_v1p0_train.json`` (test has no answers).
        image_key: Pattern of image keys, with ``image_id``.
        tasks: ``reasoning``, ``explanation`` or both.
        coco: ``dataset_coco.json`` or an official file such as ``captions_train2014.json``: examples of photos outside
            its training split are dropped (``other split``). Without it all are kept, and those without a photo under
            their key count as missing images.

    Raises:
        InputError: ``coco`` cannot be read, or has no training photo.
    """
    wanted = image_numbers(coco, "train") if coco else None

    def make(row: Row) -> Iterator[Text | Drop]:
        choices, correct = take_texts(row, "choices"), take(row, "correct_choice_idx", int)
        if not 0 <= correct < len(choices):
            raise BadRow(f"'correct_choice_idx' {correct} is not one of {len(choices)} choices")
        image = take(row, "image_id", int)
        images = (image_name(image_key, image_id=image),)
        texts = {"question": take_text(row, "question"), "answer": choices[correct]}
        for number, rationale in enumerate(take_texts(row, "rationales")):
            for task in tasks:
                name = f"{take_id(row, 'question_id')}-{number}-{task}"
                if wanted is not None and image not in wanted:
                    yield Drop(f"{source}/{name}", source, "other split", f"no training photo of {coco}: {image}", task)
                else:
                    yield Text(name, task, images, texts | {"rationale": rationale})

    return make_examples(source, LICENCE, path, stream_json(path), make)
