"""VQAv2: open questions about COCO images with ten people's answers (Goyal et al. 2017), and corpora in its layout.

Licence: CC BY 4.0. ``v2_mscoco_val2014_annotations.json`` (VQA v1 and OK-VQA: without ``v2_``): ``{"annotations":
[{"question_id": 1, "image_id": 2, "answers": [{"answer": "net", "answer_confidence": "yes", "answer_id": 1}, ...]}]}``.
Questions are in a separate file, which scoring does not need. VizWiz (``Annotations/val.json``) is a list of
``{"image": "VizWiz_val_00000000.jpg", "question": ..., "answers": [{"answer": ..., "answer_confidence": "yes"},
...]}``, TextVQA (``TextVQA_0.5.1_val.json``) ``{"data": [{"question_id": 1, "image_id": "003a", "question": ...,
"answers": ["nokia", ...]}]}``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mblip.errors import InputError
from mblip.evaluation.benchmark import SHORT_ANSWER, Benchmark, Item, Options, Scored, mean_accuracy
from mblip.evaluation.json_files import Row, read_object, read_values, rows, take, take_id
from mblip.evaluation.metric import ACCURACY
from mblip.evaluation.metrics.answers import vqa_accuracy_2021, vqa_accuracy_before_2021, vqa_accuracy_mblip

_COCO_SPLIT = re.compile(r"(?:train|val|test)20\d\d")
_ACCURACY = {
    "official_2021": vqa_accuracy_2021,
    "official_pre2021": vqa_accuracy_before_2021,
    "mblip": vqa_accuracy_mblip,
}


def read(path: Path, language: str) -> list[Item]:
    """The questions of an annotation file, with their texts if the file of questions is beside it."""
    values = read_values(path)
    data = values[0] if len(values) == 1 and isinstance(values[0], dict) else {}
    if "annotations" in data:
        return list(_of_vqa(data, path))
    if "questions" in data:
        raise InputError(f"{path} holds the questions; give the file of annotations, whose rows have the answers")
    listed = take(data, "data", list, str(path)) if "data" in data else values
    return [_with_question(row, where) for where, row in rows(listed, path)]


def _of_vqa(data: Row, path: Path) -> Iterator[Item]:
    questions = _questions_beside(path)
    for where, row in rows(take(data, "annotations", list, str(path)), path):
        number = take_id(row, "question_id", where)
        question = questions.get(number, {})
        image = str(row.get("image_id", question.get("image_id", number)))
        if image.isdecimal() and _COCO_SPLIT.fullmatch(str(data.get("data_subtype"))):
            image = f"COCO_{data['data_subtype']}_{int(image):012d}.jpg"
        yield Item(number, (image,), str(question.get("question", "")), _answers(row, where))


def _with_question(row: Row, where: str) -> Item:
    """The item of a row of VizWiz, which has one question per image, or of TextVQA."""
    if "image" not in row and "image_id" not in row:
        raise InputError(f"{where} is not a row of VQA, VizWiz or TextVQA: it has neither 'image' nor 'image_id'")
    image = take_id(row, "image", where) if "image" in row else f"{take_id(row, 'image_id', where)}.jpg"
    name = take_id(row, "question_id", where) if "question_id" in row else image
    # Each of the ten people counts, even if two gave the same answer.
    answers = [{"answer_id": number, **answer} for number, answer in enumerate(_answers(row, where), start=1)]
    return Item(name, (image,), take(row, "question", str, where), answers)


def _answers(row: Row, where: str) -> list[Row]:
    answers = take(row, "answers", list, where)
    if not answers:
        raise InputError(f"{where} has no answers")
    found: list[Row] = [{"answer": answer} if isinstance(answer, str) else answer for answer in answers]
    for number, answer in enumerate(found, start=1):
        take(answer if isinstance(answer, dict) else {}, "answer", str, f"{where}, answer {number}")
    return found


def _questions_beside(path: Path) -> dict[str, Row]:
    """The questions of an annotation file by number, from its folder or from ``Questions`` beside that."""
    official = path.name.replace("annotations", "questions").replace("v2_", "")
    version = "v2_" if path.name.startswith("v2_") else ""
    kinds = [f"{version}{kind}{official}" for kind in ("", "OpenEnded_", "MultipleChoice_")]
    names = dict.fromkeys(
        [path.name.replace("annotations", "questions"), *kinds, path.name.replace("v2_", "v2_OpenEnded_")]
    )
    folders = (path.parent, path.parent.parent / "Questions", path.parent.parent / "questions")
    for other in (folder / name for folder in folders for name in names):
        if other != path and other.is_file():
            found = take(read_object(other), "questions", list, str(other))
            for where, row in rows(found, other):
                take(row, "question", str, where)
            return {take_id(row, "question_id", where): row for where, row in rows(found, other)}
    return {}


def score(items: Sequence[Item], answers: Sequence[str], options: Options) -> Scored:
    """VQA accuracy of the official scorer since 2021 or before, or of mBLIP."""
    accuracy = _ACCURACY[options.variant]
    pairs = zip(items, answers, strict=True)
    percent, values = mean_accuracy([accuracy(answer, item.gold) for item, answer in pairs])
    return Scored({"accuracy": percent}, items, {"accuracy": values})


BENCHMARK = Benchmark(
    name="vqa",
    languages=("en",),
    files=(
        "v2_mscoco_val2014_annotations.json", "mscoco_val2014_annotations.json", "*annotations*.json",
        "TextVQA_*_val.json", "Annotations/val.json", "annotations/val.json", "vizwiz/val.json",
    ),
    read=read,
    prompt="Question: {text} Short answer in English:",
    decoding=SHORT_ANSWER,
    score=score,
    metrics=(ACCURACY,),
    variants=tuple(_ACCURACY),
    id_keys=("question_id",),
    images=(
        "coco/val2014", "coco/images/val2014", "coco/images", "val2014", "images", "textvqa/train_images", "train_images",
        "vizwiz/val", "val",
    ),
    source="https://visualqa.org/download.html (annotations and questions of val 2014); images: COCO's val2014.zip",
)  # fmt: skip

BENCHMARKS = (BENCHMARK,)
