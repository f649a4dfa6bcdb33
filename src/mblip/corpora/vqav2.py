"""VQAv2: questions about COCO images, and the generation of these questions.

Licence: CC BY 4.0. Download: https://visualqa.org/download.html (questions and annotations of train).

Raw records, row by row of two files::

    {"image_id": 458752, "question": "What is this photo taken looking through?", "question_id": 458752000}
    {"question_id": 458752000, "image_id": 458752, "multiple_choice_answer": "net",
     "answers": [{"answer": "net", ...}, ...]}

become a ``vqa`` example and a ``question_generation`` example of the same question and answer (the original paired the
question with the answer of another row).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from mblip.corpora.json_stream import (
    BadRow,
    Row,
    Text,
    image_name,
    make_examples,
    stream_json,
    take,
    take_key,
    take_text,
)
from mblip.errors import InputError
from mblip.schema import Drop, Example

LICENCE = "CC-BY-4.0"
_ENDED: Row = {}
COCO_TRAIN_KEY = "train2014/COCO_train2014_{image_id:012d}.jpg"


def read(
    source: str,
    questions: Path,
    annotations: Path,
    image_key: str = COCO_TRAIN_KEY,
    tasks: tuple[str, ...] = ("vqa", "question_generation"),
) -> Iterator[Example | Drop]:
    """Yield each question with its most common answer, for each of ``tasks``.

    Args:
        source: First part of the ids.
        questions: ``v2_OpenEnded_mscoco_train2014_questions.json``.
        annotations: ``v2_mscoco_train2014_annotations.json``, in the same order.
        image_key: Pattern of image keys, with ``image_id``; ``{image_id}.jpg`` fits corpora with the same layout, such
            as TextVQA.
        tasks: ``vqa``, ``question_generation`` or both.

    Raises:
        InputError: The files do not hold the same questions in the same order.
    """

    def make(pair: tuple[Row, Row]) -> Iterator[Text]:
        question, annotation = pair
        number = take(question, "question_id", int)
        image = take_key(question, "image_id")
        texts = {"question": take_text(question, "question"), "answer": most_common_answer(annotation)}
        images = (image_name(image_key, image_id=image),)
        for task in tasks:
            yield Text(f"{number}-{task}" if task != "vqa" else str(number), task, images, dict(texts))

    return make_examples(source, LICENCE, questions, read_pairs(questions, annotations), make)


def read_pairs(questions: Path, annotations: Path) -> Iterator[tuple[Row, Row]]:
    """Raw questions with their annotations.

    Raises:
        InputError: The files do not hold the same questions in the same order.
    """
    files = stream_json(questions, "questions"), stream_json(annotations, "annotations")
    for number, (question, annotation) in enumerate(zip_longest(*files, fillvalue=_ENDED), start=1):
        if question is _ENDED or annotation is _ENDED:
            longer = annotations if question is _ENDED else questions
            raise InputError(
                f"{longer} continues after record {number - 1}, the last of the other file; name a pair of files"
            )
        ids = [row.get("question_id") if isinstance(row, dict) else None for row in (question, annotation)]
        if ids[0] != ids[1]:
            raise InputError(
                f"{questions} and {annotations} differ at record {number}: question_id {ids[0]!r} and {ids[1]!r}"
            )
        yield question, annotation


def most_common_answer(annotation: Row) -> str:
    """The most common answer: the file's ``multiple_choice_answer``, else by count, the first of a tie.

    Raises:
        BadRow: There are no answers.
    """
    if "multiple_choice_answer" in annotation:
        return take_text(annotation, "multiple_choice_answer")
    answers = [take_text(answer, "answer") for answer in take(annotation, "answers", list)]
    if not answers:
        raise BadRow("'answers' is empty")
    return Counter(answers).most_common(1)[0][0]
