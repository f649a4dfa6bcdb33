"""CHAIR: objects in captions of COCO images that are not in the picture (Rohrbach et al. 2018).

Data: POPE's ``coco_ground_truth_segmentation.json`` (MIT), JSON lines ``{"image": "COCO_val2014_000000131089.jpg", "objects":
["person", "baseball bat"]}``. It is a look-up table: captions may cover some of its images, and are scored over those.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mblip.errors import InputError
from mblip.evaluation.benchmark import LONG_CAPTION, Benchmark, Item, Options, Scored
from mblip.evaluation.json_files import Row, image_name, read_values, rows, take, take_id
from mblip.evaluation.metric import Metric
from mblip.evaluation.metrics.chair import chair_objects, chair_scores, object_names
from mblip.evaluation.released import gold_texts_of, is_released, read_released


def read(path: Path, language: str) -> list[Item]:
    """The images of a file with their objects."""
    values = read_values(path)
    if is_released(values):
        return read_released(values, path, _released_objects)
    items = []
    for where, row in rows(values, path):
        objects = take(row, "objects", list, where)
        if not all(isinstance(name, str) for name in objects):
            raise InputError(f"{where}: 'objects' must be a list of texts, not {objects!r}")
        _check(objects, where)
        image = take_id(row, "image", where)
        items.append(Item(image, (image,), "", tuple(objects)))
    return items


def _released_objects(row: Row, where: str) -> tuple[str, ...]:
    objects = gold_texts_of(row, where)
    _check(objects, where)
    return objects


def _check(objects: Sequence[str], where: str) -> None:
    unknown = set(objects) - object_names()
    if unknown:
        raise InputError(f"{where} has the object {min(unknown)!r}, which is not one of COCO's 80; correct it")


def score(items: Sequence[Item], answers: Sequence[str], options: Options) -> Scored:
    """CHAIR of English captions."""
    metrics = chair_scores(answers, [item.gold for item in items])
    false = [
        any(name not in item.gold for name in chair_objects(answer))
        for item, answer in zip(items, answers, strict=True)
    ]
    return Scored(metrics, items, {"chair_s": np.array(false, dtype=float)})


BENCHMARK = Benchmark(
    name="chair",
    languages=("en",),
    files=("coco_ground_truth_segmentation.json", "hallucinations/*chair*.json"),
    read=read,
    prompt="Describe the image in {language} with as much detail as possible.",
    decoding=LONG_CAPTION,
    score=score,
    metrics=(
        Metric("chair_s", higher_is_better=False),
        Metric("chair_i", higher_is_better=False),
        Metric("recall"),
        Metric("length", higher_is_better=None),
    ),
    is_about_images=True,
    answer_keys=("caption", "text", "answer"),
    normal_id=image_name,
    partial=True,
)
SHORT = dataclasses.replace(
    BENCHMARK,
    name="chair_short",
    prompt="Caption in {language}:",
    images=("coco/val2014", "coco/images/val2014", "coco/images", "val2014", "images"),
    source="github.com/RUCAIBox/POPE, segmentation/coco_ground_truth_segmentation.json; images: COCO's val2014.zip",
)
LONG = dataclasses.replace(SHORT, name="chair_long", prompt=BENCHMARK.prompt)

BENCHMARKS = (BENCHMARK, SHORT, LONG)
