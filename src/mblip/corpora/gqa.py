"""GQA: compositional questions about Visual Genome images (fine-tuning for xGQA).

Licence: CC BY 4.0. Download: ``train_balanced_questions.json`` of https://cs.stanford.edu/people/dorarad/gqa/download.html,
or IGLUE's list of the same questions.

Raw record, in the official object ``{"02930152": {...}, ...}`` or in IGLUE's list::

    {"question": "Is the sky dark?", "imageId": "2354786", "answer": "yes", "fullAnswer": "Yes, the sky is dark.", ...}
    {"img_id": "n161313", "label": {"no": 1.0}, "question_id": "201307251", "sent": "Is it overcast?"}

becomes one ``vqa`` example with the short answer; its image is ``2354786.jpg``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mblip.corpora.json_stream import (
    BadRow,
    Row,
    Text,
    first_character,
    make_examples,
    stream_fields,
    stream_json,
    take,
    take_id,
    take_text,
)
from mblip.schema import Drop, Example

LICENCE = "CC-BY-4.0"


def read(source: str, path: Path) -> Iterator[Example | Drop]:
    """Yield the questions of a file in either layout."""
    if first_character(path) == "[":
        return make_examples(source, LICENCE, path, stream_json(path), _from_list)
    return make_examples(source, LICENCE, path, stream_fields(path), _from_object)


def _from_object(field: tuple[str, Row]) -> Iterator[Text]:
    number, row = field
    texts = {"question": take_text(row, "question"), "answer": take_text(row, "answer")}
    yield Text(number, "vqa", (f"{take_id(row, 'imageId')}.jpg",), texts)


def _from_list(row: Row) -> Iterator[Text]:
    answers: dict[str, float] = take(row, "label", dict)
    if not answers or not all(isinstance(score, int | float) for score in answers.values()):
        raise BadRow(f"'label' must be answers with their scores, not {answers!r}"[:200])
    texts = {"question": take_text(row, "sent"), "answer": max(answers, key=lambda answer: answers[answer])}
    yield Text(take_id(row, "question_id"), "vqa", (f"{take_id(row, 'img_id')}.jpg",), texts)
