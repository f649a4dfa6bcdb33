"""Score answers to a table's questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mblip.evaluation.benchmark import Item, Options, Scored, mean_accuracy
from mblip.evaluation.metrics.answers import (
    any_match,
    exact_match,
    normalized_match,
    one_spelling,
    relaxed_match,
    remark_on_spelling,
    vqa_accuracy_2021,
)
from mblip.evaluation.metrics.choices import chosen_option

VARIANTS = ("iglue", "mblip", "maxm", "nfc", "official_2021")


def score_answers(items: Sequence[Item], answers: Sequence[str], options: Options) -> Scored:
    """As xGQA's, any of the gold answers being right; ``maxm``, ``nfc`` and ``official_2021`` as MaXM and the VQA scorer.

    A remark counts the answers that another variant than ``nfc`` misses for their Unicode spelling alone.
    """
    spell = one_spelling if options.variant == "nfc" else str
    pairs = [(spell(answer), [spell(gold) for gold in item.gold]) for item, answer in zip(items, answers, strict=True)]

    def judge(answer: str, golds: Sequence[str]) -> float:
        match options.variant:
            case "official_2021":
                return vqa_accuracy_2021(answer, _people(golds))
            case "maxm" | "nfc":
                return any_match(answer, golds)
            case variant:
                same = exact_match if variant == "iglue" else normalized_match
                return any(same(answer, gold) for gold in golds)

    accuracy, values = mean_accuracy([judge(*pair) for pair in pairs])
    relaxed = sum(any(relaxed_match(answer, gold) for gold in golds) for answer, golds in pairs) / len(pairs)
    notes = remark_on_spelling(judge, pairs)
    return Scored({"accuracy": accuracy, "relaxed": relaxed}, items, {"accuracy": values}, notes)


def score_choices(items: Sequence[Item], answers: Sequence[str], options: Options) -> Scored:
    """Accuracy of the chosen options; ``unparsed`` is the share of answers that choose none."""
    chosen = [chosen_option(answer, item.candidates) for item, answer in zip(items, answers, strict=True)]
    golds = [item.candidates.index(item.gold) for item in items]
    accuracy, values = mean_accuracy([place == gold for place, gold in zip(chosen, golds, strict=True)])
    unparsed = sum(place is None for place in chosen) / len(items)
    return Scored({"accuracy": accuracy, "unparsed": unparsed}, items, {"accuracy": values})


def _people(golds: Sequence[str]) -> list[dict[str, Any]]:
    """Gold answers in VQA's form, each of another person, even if two are equal."""
    return [{"answer": gold, "answer_id": number} for number, gold in enumerate(golds)]
