"""MaRVL: is a sentence true of two pictures? In five languages (Liu et al. 2021), with NLVR2 for English.

Licence: CC BY 4.0 (texts). MaRVL: JSON lines ``{"id": "sw-0", "language": "sw", "concept": "81-Dawati", "caption": ...,
"left_img": "81-5.jpg", "right_img": "81-11.jpg", "label": false}``; NLVR2: JSON lines in a ``.json`` file ``{"identifier":
"dev-850-0-0", "sentence": ..., "label": "True"}``, whose labels are texts.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from mblip.errors import InputError
from mblip.evaluation.benchmark import SHORT_ANSWER, Benchmark, Item, Options, Scored, mean_accuracy
from mblip.evaluation.json_files import Row, read_values, rows, take, take_id, take_language, take_truth
from mblip.evaluation.metric import ACCURACY, RELAXED, UNPARSED
from mblip.evaluation.metrics.answers import normalize_vqa, relaxed_match
from mblip.evaluation.released import GOLD, MARK, is_released, read_released

# The two answers in the words of classifiers.
_SAID = {"true": "yes", "false": "no", "1": "yes", "0": "no", "1.0": "yes", "0.0": "no"}


def read(path: Path, language: str) -> list[Item]:
    """The statements of a file of MaRVL, or of NLVR2 for English."""
    values = read_values(path)
    if is_released(values):
        return read_released(values, path, _released_gold, language)
    return [
        _nlvr2(row, where) if "identifier" in row else _marvl(row, where, language) for where, row in rows(values, path)
    ]


def _marvl(row: Row, where: str, language: str) -> Item:
    spoken = take(row, "language", str, where)
    if take_language(row, where) != language:
        raise InputError(f"{where} is in {spoken!r}, not in {language!r}; give the file of that language")
    label = take_truth(row, "label", where)
    concept = take(row, "concept", str, where)
    images = []
    for side in ("left_img", "right_img"):
        name = take(row, side, str, where)
        path = name if "/" in name else f"{concept}/{name}"  # few-shot files include the folder
        images.append(unicodedata.normalize("NFC", f"{spoken}/images/{path}"))
    return Item(take_id(row, "id", where), tuple(images), take(row, "caption", str, where), "yes" if label else "no")


def _nlvr2(row: Row, where: str) -> Item:
    name, label = take(row, "identifier", str, where), take_truth(row, "label", where)
    folder = f"{row['directory']}/" if "directory" in row else ""
    images = tuple(f"{folder}{name.rpartition('-')[0]}-img{side}.png" for side in (0, 1))
    return Item(name, images, take(row, "sentence", str, where), "yes" if label else "no")


def _released_gold(row: Row, where: str) -> str:
    return "yes" if take_truth(row, GOLD, where) else "no"


def score(items: Sequence[Item], answers: Sequence[str], options: Options) -> Scored:
    """Accuracy after the VQA normalisation; true and false count as yes and no, except in the variant ``mblip``.

    The original does not count them either.
    """
    said = [normalize_vqa(answer).strip().lower() for answer in answers]
    if options.variant != "mblip":
        said = [_SAID.get(word, word) for word in said]
    accuracy, values = mean_accuracy([word == item.gold for word, item in zip(said, items, strict=True)])
    relaxed = sum(relaxed_match(word, item.gold) for word, item in zip(said, items, strict=True)) / len(items)
    unparsed = sum(word not in ("yes", "no") for word in said) / len(items)
    return Scored({"accuracy": accuracy, "relaxed": relaxed, "unparsed": unparsed}, items, {"accuracy": values})


BENCHMARK = Benchmark(
    name="marvl",
    languages=("id", "sw", "ta", "tr", "zh"),
    files=("zero_shot/annotations/marvl-{code}.jsonl", "marvl-{code}.jsonl", "marvl_test_{code}.json"),
    read=read,
    prompt='Based on the two images, is it correct to say "{text}"? Yes or no? Answer in English:',
    decoding=SHORT_ANSWER,
    score=score,
    metrics=(ACCURACY, RELAXED, UNPARSED),
    variants=("default", "mblip"),
    id_keys=("id", "identifier"),
    answer_keys=("answer", "label"),  # before "caption", which is the statement in its files
    images=("marvl/zero_shot/images", "marvl/images", "marvl", "images"),
    candidates=("yes", "no"),
    english="nlvr2",
    source=(
        "statements: github.com/e-bug/iglue, datasets/marvl; images: https://marvl-challenge.github.io, unpacked so "
        "that marvl/sw/images/81-Dawati/81-5.jpg exists"
    ),
)
NLVR2 = dataclasses.replace(
    BENCHMARK,
    name="nlvr2",
    languages=("en",),
    files=("nlvr2/annotations/dev.jsonl", "dev.jsonl", "dev.json", "balanced_dev.json", "nlvr_dev_{code}.json"),
    mark=f'"identifier"|{MARK}',
    images=("nlvr2/images/dev", "nlvr2/images", "nlvr2/dev", "images"),
    english="",
    source="github.com/lil-lab/nlvr, nlvr2/data; images: the form in its README",
)

BENCHMARKS = (BENCHMARK, NLVR2)
