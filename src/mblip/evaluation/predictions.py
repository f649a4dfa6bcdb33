"""Files of predictions: read in whatever form they are, and matched with the items that they answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mblip.errors import InputError
from mblip.evaluation.benchmark import Benchmark, Item
from mblip.evaluation.raw import Row, read_values, rows, take_language


@dataclass(frozen=True, slots=True)
class Answer:
    """One prediction: the item it names (None where a file has the order of the data) and what the model said."""

    item: str | None
    text: str
    question: str = ""


def read_answers(path: Path, benchmark: Benchmark, language: str) -> list[Answer]:
    """The answers in a file of predictions.

    Understood are lists, JSON lines and objects one after the other, of rows that name an item and an answer by the fields
    the benchmark knows; an object ``{id: answer}``; and ``{"imgToEval": {id: {"caption": ...}}}``.

    Raises:
        InputError: A row lacks an answer, or is of another language.
    """
    values = read_values(path)
    if len(values) == 1 and isinstance(values[0], dict):
        values = _from_object(values[0], benchmark, path)
    if not values:
        raise InputError(f"{path} holds no predictions")
    return [_answer(row, where, benchmark, language) for where, row in rows(values, path)]


def _from_object(data: Row, benchmark: Benchmark, path: Path) -> list[Any]:
    id_key, answer_key = benchmark.id_keys[0], benchmark.answer_keys[0]
    if isinstance(data.get("imgToEval"), dict):
        captions = data["imgToEval"]
        named = zip(captions, rows(list(captions.values()), path, "imgToEval"), strict=True)
        return [{id_key: image, **row} for image, (_, row) in named]
    if not any(key in data for key in benchmark.answer_keys) and all(isinstance(text, str) for text in data.values()):
        return [{id_key: name, answer_key: text} for name, text in data.items()]
    return [data]


def _answer(row: Row, where: str, benchmark: Benchmark, language: str) -> Answer:
    ours = "benchmark" in row and "id" in row
    if ours and isinstance(row.get("language"), str) and take_language(row, where) != language:
        raise InputError(f"{where} is in {row['language']!r}, not in {language!r}; give each language its own file")
    text = next((row[key] for key in benchmark.answer_keys if key in row), None)
    if ours:
        text = row.get("answer")
    if not isinstance(text, str):
        raise InputError(
            f"{where} needs a text in one of the fields {', '.join(benchmark.answer_keys)}; it has {text!r}"
        )
    name = row.get("id") if ours else next((row[key] for key in benchmark.id_keys if key in row), None)
    if isinstance(name, bool) or not isinstance(name, str | int | None):
        raise InputError(f"{where}: an identifier is a text or a whole number, not {name!r}")
    question = row.get("question", row.get("prompt"))
    question = question if isinstance(question, str) else ""
    if name is None and not question and len(row) > 1:
        raise InputError(
            f"{where} names no item in any of the fields {', '.join(benchmark.id_keys)}; rename one of its fields "
            f"{', '.join(row)}"
        )
    return Answer(None if name is None else str(name), text, question)


def match_answers(
    items: Sequence[Item],
    answers: Sequence[Answer],
    benchmark: Benchmark,
    path: Path,
    predictions: Path,
    allow_missing: bool,
) -> tuple[dict[str, str], dict[str, int]]:
    """The answer by item id, and what was passed over, counted.

    Raises:
        InputError: An item without a prediction or with two, or a prediction for no item.
    """
    if all(answer.item is None for answer in answers):
        return _match_by_order(items, answers, path, predictions), {}
    known = {benchmark.normal_id(item.id): item for item in items}
    matched: dict[str, str] = {}
    unknown = 0
    for number, answer in enumerate(answers, start=1):
        where = f"{predictions}, record {number}"
        if answer.item is None:
            raise InputError(f"{where} names no item; it needs one of the fields {', '.join(benchmark.id_keys)}")
        item = known.get(benchmark.normal_id(answer.item))
        if item is None:
            if not benchmark.extra:
                raise InputError(
                    f"{where} is for {answer.item!r}, which {path} does not hold; remove it or give its data"
                )
            unknown += 1
        elif item.id in matched:
            raise InputError(f"{where} is a second prediction for {answer.item!r}; remove one")
        else:
            if benchmark.languages == ("en",):  # elsewhere a question may be asked in another language than the data's
                _check_question(item, answer, where, path)
            matched[item.id] = answer.text
    lacking = [item for item in items if item.id not in matched]
    needed = [] if benchmark.partial or allow_missing else [item for item in lacking if not benchmark.optional(item)]
    if needed:
        raise InputError(
            f"{predictions} has no prediction for {len(needed)} of the {len(items)} items in {path}, such as "
            f"{needed[0].id!r}; add them, or score the others with --allow-missing"
        )
    if not matched:
        raise InputError(f"{predictions} has no prediction for any item in {path}; do they belong together?")
    if not (benchmark.partial or allow_missing):
        matched.update((item.id, "") for item in lacking)
    counts = {"items_in_data": len(items), "without_prediction": len(lacking), "predictions_passed_over": unknown}
    return matched, {name: count for name, count in counts.items() if count or name == "items_in_data"}


def _match_by_order(items: Sequence[Item], answers: Sequence[Answer], path: Path, predictions: Path) -> dict[str, str]:
    if len(items) != len(answers):
        raise InputError(
            f"{predictions} has {len(answers)} predictions without identifiers, {path} has {len(items)} items; "
            "they are matched by order, so that the numbers must be equal"
        )
    for number, (item, answer) in enumerate(zip(items, answers, strict=True), start=1):
        _check_question(item, answer, f"{predictions}, record {number}", path)
    return {item.id: answer.text for item, answer in zip(items, answers, strict=True)}


def _check_question(item: Item, answer: Answer, where: str, path: Path) -> None:
    # Harnesses that build a prompt bring runs of blanks to one, which makes no other question.
    if answer.question and " ".join(item.text.split()) not in " ".join(answer.question.split()):
        raise InputError(
            f"{where} answers {answer.question!r}, but {path} asks {item.text!r} there; give the data that the predictions "
            "were made on"
        )
