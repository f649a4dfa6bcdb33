"""POPE: is there such an object in the picture? (Li et al. 2023).

Licence: MIT. COCO files are JSON lines, SEEM files a JSON list, of ``{"question_id": 1, "image":
"COCO_val2014_000000310196.jpg", "text": "Is there a snowboard in the image?", "label": "yes"}``. Answer files ``{"question":
..., "answer": ...}`` are in the same order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mblip.evaluation.benchmark import SHORT_ANSWER, Benchmark, Item, Options, Scored, mean_accuracy
from mblip.evaluation.json_files import read_values, rows, take, take_id, take_truth
from mblip.evaluation.metric import ACCURACY, RELAXED, UNPARSED, Metric
from mblip.evaluation.metrics.answers import normalize_vqa, relaxed_match
from mblip.evaluation.metrics.pope import pope_scores, says_yes
from mblip.evaluation.released import GOLD, is_released, read_released


def read(path: Path, language: str) -> list[Item]:
    """The questions of a file."""
    values = read_values(path)
    if is_released(values):
        return read_released(values, path, lambda row, where: take_truth(row, GOLD, where))
    items = []
    for where, row in rows(values, path):
        label = take_truth(row, "label", where)
        image, text = take(row, "image", str, where), take(row, "text", str, where)
        items.append(Item(take_id(row, "question_id", where), (image,), text, label))
    return items


def score(items: Sequence[Item], answers: Sequence[str], options: Options) -> Scored:
    """POPE's metrics with its own scorer's reading of answers, or in the variant ``mblip`` with the original mBLIP's.

    The latter is exact match after the VQA normalisation, so any answer but "yes" or "no" is wrong, and ``relaxed``
    match. It has no precision, recall, F1 or share of yes.
    """
    if options.variant == "mblip":
        said = [normalize_vqa(answer) for answer in answers]
        golds = ["yes" if item.gold else "no" for item in items]
        accuracy, right = mean_accuracy([word == gold for word, gold in zip(said, golds, strict=True)])
        relaxed = sum(relaxed_match(answer, gold) for answer, gold in zip(answers, golds, strict=True)) / len(golds)
        unparsed = sum(word not in ("yes", "no") for word in said) / len(said)
        return Scored({"accuracy": accuracy, "relaxed": relaxed, "unparsed": unparsed}, items, {"accuracy": right})
    metrics = pope_scores(answers, [item.gold for item in items])
    right = np.array([says_yes(answer) == item.gold for item, answer in zip(items, answers, strict=True)], dtype=float)
    return Scored(metrics, items, {"accuracy": right})


BENCHMARK = Benchmark(
    name="pope",
    languages=("en",),
    files=("*pope*.json",),
    read=read,
    prompt="{text}",
    decoding=SHORT_ANSWER,
    score=score,
    metrics=(
        ACCURACY,
        *map(Metric, ("precision", "recall", "f1")),
        Metric("yes_ratio", higher_is_better=None),
        RELAXED,
        UNPARSED,
    ),
    variants=("default", "mblip"),
    candidates=("yes", "no"),
)

_SPLITS = ("random", "popular", "adversarial")
_COCO_IMAGES = ("coco/val2014", "coco/images/val2014", "coco/images", "val2014", "images")


def _split(name: str, file: str, images: tuple[str, ...], folder: str) -> Benchmark:
    source = f"questions: github.com/RUCAIBox/POPE, {folder}; images: " + (
        "https://cs.stanford.edu/people/dorarad/gqa/download.html" if "gqa" in file else "COCO's val2014.zip"
    )
    released = (f"hallucinations/*{name.removeprefix('pope_')}*.json",) if "seem" not in name else ()
    return dataclasses.replace(BENCHMARK, name=name, files=(file, *released), images=images, source=source)


COCO = tuple(_split(f"pope_{kind}", f"coco_pope_{kind}.json", _COCO_IMAGES, "output/coco") for kind in _SPLITS)
SEEM = tuple(
    _split(f"pope_seem_{corpus}_{kind}", f"{corpus}_pope_seem_{kind}.json", images, f"output/seem/{corpus}")
    for corpus, images in (("aokvqa", _COCO_IMAGES), ("gqa", ("gqa/images", "images")))
    for kind in _SPLITS
)
"""The same questions about objects that SEEM segments in A-OKVQA's and GQA's images, which have no annotations."""

BENCHMARKS = (BENCHMARK, *COCO, *SEEM)
