"""Score answers to a table's questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mblip.evaluation.benchmark import Item, Options, Scored, mean_accuracy
from mblip.evaluation.metrics.answers import any_match, exact_match, normalized_match, relaxed_match, vqa_accuracy_2021
from mblip.evaluation.metrics.choices import chosen_option

VARIANTS = ("iglue", "mblip", "maxm", "official_2021")


def score_answers(items: Sequence[Item], answers: Sequence[str], options: Options) -> Scored:
    """Score as xGQA with several right answers, or in the variants ``maxm`` and ``official_2021`` as MaXM and VQA."""
    pairs = [(answer, item.gold) for item, answer in zip(items, answers, strict=True)]
    right: list[float]
    match options.variant:
        case "official_2021":
            right = [vqa_accuracy_2021(answer, _people(golds)) for answer, golds in pairs]
        case "maxm":
            right = [any_match(answer, golds) for answer, golds in pairs]
        case variant:
            same = exact_match if variant == "iglue" else normalized_match
            right = [any(same(answer, gold) for gold in golds) for answer, golds in pairs]
    accuracy, values = mean_accuracy(right)
    relaxed = sum(any(relaxed_match(answer, gold) for gold in golds) for answer, golds in pairs) / len(pairs)
    return Scored({"accuracy": accuracy, "relaxed": relaxed}, items, {"accuracy": values})


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
