"""XVNLI: does a sentence follow from a photo? In five languages (Bugliarello et al. 2022).

Licence: SNLI CC BY-SA 4.0 over Flickr30K. Annotations of IGLUE, JSON lines ``{"gold_label": "contradiction",
"sentence2": "Il porte le journal sur sa tête.", "pairID": "759822302.jpg#2r1c", "Flikr30kID": "759822302", ...}``. The
label is "-" in 14 of 1,164 rows, where the annotators did not agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mblip.errors import InputError
from mblip.evaluation.benchmark import SHORT_ANSWER, Benchmark, Item, Options, Scored, mean_accuracy
from mblip.evaluation.json_files import Row, read_values, rows, take, take_id
from mblip.evaluation.metric import ACCURACY, RELAXED, UNPARSED
from mblip.evaluation.metrics.answers import normalize_vqa, relaxed_match
from mblip.evaluation.released import GOLD, MARK, is_released, read_released

ANSWERS = {"entailment": "yes", "contradiction": "no", "neutral": "maybe"}
UNDECIDED = "-"


def read(path: Path, language: str) -> list[Item]:
    """The pairs of a file, undecided ones included."""
    values = read_values(path)
    if is_released(values):
        return read_released(values, path, _released_gold, language)
    items = []
    for where, row in rows(values, path):
        label = take(row, "gold_label", str, where)
        if label not in ANSWERS and label != UNDECIDED:
            raise InputError(
                f"{where} has the gold_label {label!r}; it should be {', '.join(ANSWERS)} or {UNDECIDED!r}"
            )
        photo = take_id(row, "Flikr30kID" if "Flikr30kID" in row else "Flickr30K_ID", where).removesuffix(".jpg")
        gold = ANSWERS.get(label, UNDECIDED)
        items.append(Item(take_id(row, "pairID", where), (f"{photo}.jpg",), take(row, "sentence2", str, where), gold))
    return items


def _released_gold(row: Row, where: str) -> str:
    gold = take(row, GOLD, str, where)
    if gold not in ANSWERS.values():
        raise InputError(f"{where} has the {GOLD} {gold!r}; it should be {', '.join(ANSWERS.values())}")
    return gold


def score(items: Sequence[Item], answers: Sequence[str], options: Options) -> Scored:
    """Accuracy. ``mblip``: over the decided rows (1,150 of the test set); ``iglue``: over all 1,164, undecided ones wrong.

    Answers are compared after the VQA normalisation; the labels' own names count as yes, no and maybe.
    """
    pairs = list(zip(items, answers, strict=True))
    if options.variant == "mblip":
        pairs = [(item, answer) for item, answer in pairs if item.gold != UNDECIDED]
    said = [normalize_vqa(answer).strip().lower() for _, answer in pairs]
    said = [ANSWERS.get(word, word) for word in said]
    right = [word == item.gold for word, (item, _) in zip(said, pairs, strict=True)]
    accuracy, values = mean_accuracy(right)
    relaxed = sum(relaxed_match(ANSWERS.get(answer.strip().lower(), answer), item.gold) for item, answer in pairs)
    unparsed = sum(word not in ANSWERS.values() for word in said)
    metrics = {"accuracy": accuracy, "relaxed": relaxed / len(pairs), "unparsed": unparsed / len(pairs)}
    return Scored(metrics, [item for item, _ in pairs], {"accuracy": values})


BENCHMARK = Benchmark(
    name="xvnli",
    languages=("ar", "en", "es", "fr", "ru"),
    files=("{code}/test.jsonl", "xvnli_input_test_{code}.json"),
    read=read,
    prompt='Is it guaranteed true that "{text}"? Yes, no, or maybe? Answer in English:',
    decoding=SHORT_ANSWER,
    score=score,
    metrics=(ACCURACY, RELAXED, UNPARSED),
    variants=("mblip", "iglue"),
    id_keys=("pairID",),
    answer_keys=("answer", "label"),
    optional=lambda item: item.gold == UNDECIDED,
    mark=f'"gold_label"|{MARK}',
    images=("flickr30k/images", "flickr30k-images", "images"),
    candidates=tuple(ANSWERS.values()),
    source=(
        "sentences: github.com/e-bug/iglue, datasets/XVNLI; images: Flickr30K, on request from "
        "https://shannon.cs.illinois.edu/DenotationGraph"
    ),
)

BENCHMARKS = (BENCHMARK,)
