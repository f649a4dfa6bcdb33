"""MaXM: visual questions asked and answered in seven languages (Changpinyo et al. 2023).

Licence: free for any purpose. ``maxm_v1_{en,fr,hi,iw,ro,th,zh}.json``: ``{"annotations": [{"image_id": ..., "qa_pairs":
[{"question_id": ..., "question": ..., "processed_answers": [...]}]}]}``; other fields are ignored. The images are those
of XM3600.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mblip.errors import InputError
from mblip.evaluation.benchmark import SHORT_ANSWER, Benchmark, Item, Options, Scored, mean_accuracy
from mblip.evaluation.json_files import read_values, rows, take, take_id
from mblip.evaluation.metric import ACCURACY
from mblip.evaluation.metrics.answers import any_match, one_spelling, remark_on_spelling
from mblip.evaluation.released import gold_texts_of, is_released, read_released

_NORMALISERS = {"default": "case, blanks", "nfc": "NFC, Thai and Lao vowel am as one character, case, blanks"}


def read(path: Path, language: str) -> list[Item]:
    """The questions of a file."""
    values = read_values(path)
    if is_released(values):
        return read_released(values, path, gold_texts_of, language)
    data = values[0] if len(values) == 1 and isinstance(values[0], dict) else {}
    items = []
    for where, row in rows(take(data, "annotations", list, str(path)), path):
        image = take_id(row, "image_id", where).removesuffix(".jpg")
        for place, pair in rows(take(row, "qa_pairs", list, where), path):
            golds = take(pair, "processed_answers", list, f"{where}, {place.rpartition(', ')[2]}")
            if not golds or not all(isinstance(gold, str) for gold in golds):
                raise InputError(f"{where}: 'processed_answers' must be a list of texts, not {golds!r}")
            question = take(pair, "question", str, where)
            items.append(Item(take_id(pair, "question_id", where), (f"{image}.jpg",), question, tuple(golds)))
    return items


def score(items: Sequence[Item], answers: Sequence[str], options: Options) -> Scored:
    """Accuracy: the answer equals one of the processed answers, except for case and surrounding blanks.

    ``default`` compares character by character, as mBLIP and Centurio do (MaXM's repository has no scorer); ``nfc`` brings
    both sides to one Unicode spelling before. A remark counts the answers that ``default`` misses for their spelling alone.
    """
    spell = one_spelling if options.variant == "nfc" else str
    pairs = [(spell(answer), [spell(gold) for gold in item.gold]) for item, answer in zip(items, answers, strict=True)]
    accuracy, values = mean_accuracy([any_match(*pair) for pair in pairs])
    notes = {"normaliser": _NORMALISERS[options.variant], **remark_on_spelling(any_match, pairs)}
    return Scored({"accuracy": accuracy}, items, {"accuracy": values}, notes)


BENCHMARK = Benchmark(
    name="maxm",
    languages=("en", "fr", "hi", "iw", "ro", "th", "zh"),
    files=("maxm_v1_{code}.json", "maxm_{code}_test.json"),
    read=read,
    prompt="Question: {text} Short answer in {language}:",
    decoding=SHORT_ANSWER,
    score=score,
    metrics=(ACCURACY,),
    variants=("default", "nfc"),
    images=("xm3600/images", "crossmodal-3600/images", "maxm/images", "images"),
    source=(
        "github.com/google-research-datasets/maxm; images: those of XM3600, https://google.github.io/crossmodal-3600"
    ),
)

BENCHMARKS = (BENCHMARK,)
