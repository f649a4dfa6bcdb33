"""Short answers: exact match, relaxed match and VQA accuracy, with the normalisation of the official VQA scorer.

Sources: ``vqaEval.py`` of GT-Vision-Lab/VQA at a013f004 (February 2021) and before it; ``evaluation.py`` of
gregor-ge/mBLIP; ``evaluation`` of e-bug/iglue (raw equality).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from typing import Any

NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {**{word: str(number) for number, word in enumerate(NUMBERS)}, "zero": "0"}
_ARTICLES = frozenset(["a", "an", "the"])
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
# The official scorer passes re.UNICODE as the parameter that limits how many periods are removed.
_MOST_PERIODS = int(re.UNICODE)
# Nikhahit, before or after a tone mark, followed by the vowel aa.
_AM = (
    (re.compile("(?:\u0e4d([\u0e48-\u0e4b]?)|([\u0e48-\u0e4b])\u0e4d)\u0e32"), "\u0e33"),
    (re.compile("(?:\u0ecd([\u0ec8-\u0ecb]?)|([\u0ec8-\u0ecb])\u0ecd)\u0eb2"), "\u0eb3"),
)


def strip_punctuation(answer: str) -> str:
    """Remove the VQA scorer's punctuation marks, or replace them by a blank between two words."""
    spread = answer
    in_number = _COMMA_IN_NUMBER.search(answer) is not None
    for sign in _PUNCTUATION:
        if sign in spread:
            apart = in_number or sign + " " in answer or " " + sign in answer
            spread = spread.replace(sign, "" if apart else " ")
    return _PERIOD.sub("", spread, count=_MOST_PERIODS)


def strip_words(answer: str) -> str:
    """Lower-case, write numbers up to ten as digits, drop articles, restore the apostrophes of contractions."""
    words = [_NUMBERS.get(word, word) for word in answer.lower().split()]
    contractions = _contractions()
    return " ".join(contractions.get(word, word) for word in words if word not in _ARTICLES)


def normalize_vqa(answer: str) -> str:
    """The VQA scorer's normalisation as mBLIP applies it: line breaks and tabs are removed, not turned into blanks."""
    return strip_words(strip_punctuation(answer.replace("\n", "").replace("\t", "").strip()))


def exact_match(answer: str, gold: str) -> bool:
    """Raw equality (IGLUE's published scores)."""
    return answer == gold


def normalized_match(answer: str, gold: str) -> bool:
    """Equality after normalising the answer; the gold answer is only lower-cased and stripped (mBLIP)."""
    return normalize_vqa(answer).strip().lower() == gold.lower().strip()


def relaxed_match(answer: str, gold: str) -> bool:
    """Whether the normalised answer begins or ends with the gold answer (mBLIP's ``relaxed_acc``)."""
    normalized, gold = normalize_vqa(answer).strip().lower(), gold.lower().strip()
    return normalized.startswith(gold) or normalized.endswith(gold)


def any_match(answer: str, golds: Sequence[str]) -> bool:
    """Equality with any gold answer, ignoring only case and surrounding blanks (mBLIP on MaXM)."""
    return answer.strip().lower() in {gold.lower().strip() for gold in golds}


def one_spelling(text: str) -> str:
    """NFC, with the vowel am of Thai and Lao as one character, which NFC does not join."""
    text = unicodedata.normalize("NFC", text)
    for parts, whole in _AM:
        text = parts.sub(rf"\1\2{whole}", text)
    return text


def remark_on_spelling(
    judge: Callable[[str, Sequence[str]], float], pairs: Sequence[tuple[str, Sequence[str]]]
) -> dict[str, str]:
    """A remark where answers would score more if both sides were in one Unicode spelling, for a score's notes; else empty.

    Args:
        judge: The value of an answer beside its gold answers.
        pairs: Answers and their gold answers.
    """
    more = 0
    for answer, golds in pairs:
        spelled = one_spelling(answer), [one_spelling(gold) for gold in golds]
        more += spelled != (answer, [*golds]) and judge(*spelled) > judge(answer, golds)
    if not more:
        return {}
    are = "answer differs" if more == 1 else "answers differ"
    return {"remark": f"{more:,} {are} from a gold answer in Unicode spelling alone; variant nfc counts such answers"}


def vqa_accuracy_2021(answer: str, golds: Sequence[Mapping[str, Any]]) -> float:
    """VQA accuracy of one question as the official scorer computes it since February 2021.

    Both sides are normalised, but only if the people did not all give the same answer.

    Args:
        answer: The model's answer.
        golds: The ten ``answers`` of the annotation file; entries that are equal in every field count as one person.

    Returns:
        The mean over people of min(1, matches among the others / 3).
    """
    texts = [_tidy(gold["answer"]) for gold in golds]
    answer = _tidy(answer)
    if len(set(texts)) > 1:
        texts = [strip_words(strip_punctuation(text)) for text in texts]
        answer = strip_words(strip_punctuation(answer))
    return _leave_one_out(answer, texts, golds)


def vqa_accuracy_before_2021(answer: str, golds: Sequence[Mapping[str, Any]]) -> float:
    """VQA accuracy before February 2021: the model's answer is always normalised, people's only loses punctuation."""
    texts = [str(gold["answer"]) for gold in golds]
    if len(set(texts)) > 1:
        texts = [strip_punctuation(text) for text in texts]
    return _leave_one_out(strip_words(strip_punctuation(_tidy(answer))), texts, golds)


def vqa_accuracy_mblip(answer: str, golds: Sequence[Mapping[str, Any]]) -> float:
    """VQA accuracy as mBLIP computes it: the model's answer is normalised, people's is only lower-cased."""
    texts = [str(gold["answer"]).lower().strip() for gold in golds]
    answer = normalize_vqa(answer).strip().lower()
    matches = texts.count(answer)
    accuracies = [min(1.0, (matches - (text == answer)) / 3) for text in texts]
    return sum(accuracies) / len(accuracies)


def _leave_one_out(answer: str, texts: Sequence[str], golds: Sequence[Mapping[str, Any]]) -> float:
    people: list[dict[str, Any]] = [{**gold, "answer": text} for gold, text in zip(golds, texts, strict=True)]
    accuracies: list[float] = []
    for person in people:
        matches = sum(1 for other in people if other != person and other["answer"] == answer)
        accuracies.append(min(1.0, matches / 3))
    return sum(accuracies) / len(accuracies)


def _tidy(answer: Any) -> str:
    return str(answer).replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=1)
def _contractions() -> dict[str, str]:
    file = resources.files("mblip.evaluation.metrics").joinpath("vqa_contractions.json")
    table: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))["contractions"]
    return table
