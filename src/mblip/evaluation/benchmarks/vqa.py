"""VQAv2: open questions about COCO images with ten people's answers (Goyal et al. 2017), and corpora in its layout.

Licence: CC BY 4.0. ``v2_mscoco_val2014_annotations.json``: ``{"annotations": [{"question_id": 1, "image_id": 2, "answers":
[{"answer": "net", "answer_confidence": "yes", "answer_id": 1}, ...]}]}``. Questions are in a file of their own, which
scoring does not need.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mblip.errors import InputError
from mblip.evaluation.benchmark import SHORT_ANSWER, Benchmark, Item, Options, Scored, mean_accuracy
from mblip.evaluation.metrics.answers import vqa_accuracy_2021, vqa_accuracy_before_2021, vqa_accuracy_mblip
from mblip.evaluation.raw import Row, read_object, rows, take, take_id

_COCO_SPLIT = re.compile(r"(?:train|val|test)20\d\d")
_ACCURACY = {
    "official_2021": vqa_accuracy_2021,
    "official_pre2021": vqa_accuracy_before_2021,
    "mblip": vqa_accuracy_mblip,
}


def read(path: Path, language: str) -> list[Item]:
    """The questions of an annotation file, with their texts if the file of questions lies beside it."""
    data = read_object(path)
    if "annotations" not in data and "questions" in data:
        raise InputError(f"{path} holds the questions; give the file of annotations, whose rows have the answers")
    questions = _questions_beside(path)
    items = []
    for where, row in rows(take(data, "annotations", list, str(path)), path):
        number = take_id(row, "question_id", where)
        answers = take(row, "answers", list, where)
        for place, answer in rows(answers, path):
            take(answer, "answer", str, f"{where}, answer {place.rpartition(' ')[2]}")
        if not answers:
            raise InputError(f"{where} has no answers")
        question = questions.get(number, {})
        image = str(row.get("image_id", question.get("image_id", number)))
        if image.isdecimal() and _COCO_SPLIT.fullmatch(str(data.get("data_subtype"))):
            image = f"COCO_{data['data_subtype']}_{int(image):012d}.jpg"
        items.append(Item(number, (image,), str(question.get("question", "")), answers))
    return items


def _questions_beside(path: Path) -> dict[str, Row]:
    names = [path.name.replace("annotations", "questions"), path.name.replace("v2_", "v2_OpenEnded_")]
    names.append(names[1].replace("annotations", "questions"))
    for name in names:
        other = path.with_name(name)
        if other != path and other.is_file():
            found = take(read_object(other), "questions", list, str(other))
            for where, row in rows(found, other):
                take(row, "question", str, where)
            return {take_id(row, "question_id", where): row for where, row in rows(found, other)}
    return {}


def score(items: Sequence[Item], answers: Sequence[str], options: Options) -> Scored:
    """VQA accuracy: the official scorer's of 2021 or before, or mBLIP's."""
    accuracy = _ACCURACY[options.variant]
    pairs = zip(items, answers, strict=True)
    percent, values = mean_accuracy([accuracy(answer, item.gold) for item, answer in pairs])
    return Scored({"accuracy": percent}, items, {"accuracy": values})


BENCHMARK = Benchmark(
    name="vqa",
    languages=("en",),
    files=("v2_mscoco_val2014_annotations.json", "*annotations*.json"),
    read=read,
    prompt="Question: {text} Short answer in English:",
    decoding=SHORT_ANSWER,
    score=score,
    variants=tuple(_ACCURACY),
    id_keys=("question_id", "id"),
    images=("coco/val2014", "coco/images/val2014", "coco/images", "val2014", "images"),
    source="https://visualqa.org/download.html (annotations and questions of val 2014); images: COCO's val2014.zip",
)
