"""xGQA: GQA's questions in eight languages, answered in English (Pfeiffer et al. 2022).

Licence: CC BY 4.0. Annotations of IGLUE, in either layout: xGQA's object ``{"202158849": {"question": "Ist der Bus ...",
"imageId": "n406334", "answer": "no", ...}}`` or IGLUE's list ``[{"question_id": "201307251", "img_id": "n161313",
"sent": "Is it overcast?", "label": {"no": 1.0}}]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mblip.errors import InputError
from mblip.evaluation.benchmark import SHORT_ANSWER, Benchmark, Item, Options, Scored, mean_accuracy
from mblip.evaluation.json_files import Row, read_values, rows, take, take_id
from mblip.evaluation.metric import ACCURACY, RELAXED
from mblip.evaluation.metrics.answers import exact_match, normalized_match, relaxed_match
from mblip.evaluation.released import gold_text, is_released, read_released


def read(path: Path, language: str) -> list[Item]:
    """The questions of a file in any layout."""
    values = read_values(path)
    if is_released(values):
        return read_released(values, path, gold_text, language)
    if len(values) == 1 and isinstance(values[0], dict) and "question_id" not in values[0]:
        fields = values[0].items()
        return [_from_object(number, row, f"{path}, question {number}") for number, row in fields]
    return [_from_list(row, where) for where, row in rows(values, path)]


def _from_object(number: str, row: object, where: str) -> Item:
    if not isinstance(row, dict):
        raise InputError(f"{where} is not an object; is this an xGQA annotation file?")
    image = take_id(row, "imageId", where).removesuffix(".jpg")
    return Item(number, (f"{image}.jpg",), take(row, "question", str, where), take(row, "answer", str, where))


def _from_list(row: Row, where: str) -> Item:
    labels = take(row, "label", dict, where)
    if len(labels) != 1:
        raise InputError(f"{where} has {len(labels)} labels; a question of GQA has one answer")
    image = take_id(row, "img_id", where).removesuffix(".jpg")
    return Item(
        take_id(row, "question_id", where), (f"{image}.jpg",), take(row, "sent", str, where), next(iter(labels))
    )


def score(items: Sequence[Item], answers: Sequence[str], options: Options) -> Scored:
    """``iglue``: raw exact match, as in IGLUE's published scores; ``mblip``: after the VQA normalisation."""
    match = exact_match if options.variant == "iglue" else normalized_match
    pairs = [(answer, item.gold) for item, answer in zip(items, answers, strict=True)]
    accuracy, values = mean_accuracy([match(*pair) for pair in pairs])
    relaxed = sum(relaxed_match(*pair) for pair in pairs) / len(pairs)
    return Scored({"accuracy": accuracy, "relaxed": relaxed}, items, {"accuracy": values})


_FILES = ("zero_shot/testdev_balanced_questions_{code}.json", "testdev_balanced_questions_{code}.json")
_RELEASED = "xgqa_input_test_{code}.json"

BENCHMARK = Benchmark(
    name="xgqa",
    languages=("bn", "de", "en", "id", "ko", "pt", "ru", "zh"),
    files=(*_FILES, _RELEASED),
    read=read,
    prompt="Question: {text} Short answer in English:",
    decoding=SHORT_ANSWER,
    score=score,
    metrics=(ACCURACY, RELAXED),
    variants=("iglue", "mblip"),
    extra=True,
    english_files=(*_FILES, "gqa/annotations/testdev.json", _RELEASED),
    images=("gqa/images", "xGQA/images", "images"),
    source=(
        "questions: github.com/e-bug/iglue, datasets/xGQA and, for English, datasets/gqa; images: "
        "https://cs.stanford.edu/people/dorarad/gqa/download.html"
    ),
)

BENCHMARKS = (BENCHMARK,)
