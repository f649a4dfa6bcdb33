"""Evaluation sets by name: the official ones, and those of the original mBLIP if they differ.

Source of ``paper``: the scripts below ``data`` and the configurations of gregor-ge/mBLIP at 0380e68.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from mblip.errors import InputError, nearest
from mblip.evaluation.benchmark import Benchmark, Choice, Item
from mblip.evaluation.benchmarks.vqa import read as read_vqa
from mblip.evaluation.json_files import read_object, rows, take

Sets = Literal["official", "paper"]
VQA_QUESTIONS = 5_000
CHAIR_IMAGES = 1_000


def choose_sets(benchmarks: Sequence[Benchmark], sets: str) -> list[Benchmark]:
    """Benchmarks with the files and items of a set.

    Args:
        benchmarks: The benchmarks as declared by their modules, which is ``official``.
        sets: ``official`` or ``paper``.

    Raises:
        InputError: There is no such set.
    """
    if sets not in get_args(Sets):
        raise InputError(f"unknown sets {sets!r}{nearest(sets, get_args(Sets))}")
    if sets == "official":
        return list(benchmarks)
    return [dataclasses.replace(benchmark, **_PAPER.get(benchmark.name, {})) for benchmark in benchmarks]


def _first_questions(path: Path, language: str) -> list[Item]:
    return read_vqa(path, language)[:VQA_QUESTIONS]


def choose_photos(items: Sequence[Item], path: Path, count: int = CHAIR_IMAGES) -> list[Item]:
    """The first photos of Karpathy's file that are in neither ``train`` nor ``test``, in its order.

    The original uses all of these, including ``restval``, for validation.

    Raises:
        InputError: One of them has no objects in the items.
    """
    by_image = {item.images[0]: item for item in items}
    chosen: list[Item] = []
    for where, row in rows(take(read_object(path), "images", list, str(path)), path):
        if take(row, "split", str, where) in ("train", "test"):
            continue
        image = take(row, "filename", str, where)
        if image not in by_image:
            raise InputError(
                f"{where}: {image!r} has no objects in coco_ground_truth_segmentation.json; get that file again"
            )
        chosen.append(by_image[image])
        if len(chosen) == count:
            break
    return chosen


# Answers to other photos are ignored; each of these photos needs an answer.
_CHAIR = {"choice": Choice(("dataset_coco.json",), choose_photos), "extra": True, "partial": False}
# Benchmarks that are not listed have the same set in both.
_PAPER: dict[str, dict[str, Any]] = {
    "xgqa": {"files": ("few_shot/{code}/test.json",), "english_files": ()},
    "nlvr2": {
        "files": ("nlvr2/annotations/test.jsonl", "test.jsonl", "test1.json"),
        "images": ("nlvr2/images/test", "nlvr2/images/test1", "nlvr2/images", "nlvr2/test1", "images"),
    },
    "xflickrco": {"english_files": ("flickr30k/annotations/test_ann.jsonl", "test_ann.jsonl")},
    "vqa": {"files": ("v2_mscoco_val2014_annotations.json",), "read": _first_questions, "extra": True},
    "coco": {"files": ("dataset_coco.json",)},
    "chair_short": _CHAIR,
    "chair_long": _CHAIR,
}
