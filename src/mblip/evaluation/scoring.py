"""From a file of predictions to a score that can be trusted: nothing missing, nothing twice, everything named."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mblip.errors import InputError
from mblip.evaluation.benchmark import Benchmark, Item, Options, Scored
from mblip.evaluation.raw import Row, read_values, rows
from mblip.evaluation.statistics import bootstrap_interval
from mblip.languages import find_language
from mblip.schema import Score
from mblip.storage import sha256_file

# What the numbers depend on, besides this package and the segmenter.
_LIBRARIES = ("numpy",)
_RESAMPLES = 2_000
_PLACEHOLDER = "⟨text⟩"


@dataclass(frozen=True, slots=True)
class Answer:
    """One prediction: the item it names (None where a file has the order of the data) and what the model said."""

    item: str | None
    text: str
    question: str = ""


def score_predictions(
    benchmark: Benchmark,
    data: Path,
    predictions: Path,
    language: str = "",
    variant: str = "",
    segmenter: str = "",
    allow_missing: bool = False,
) -> tuple[Score, Scored]:
    """Score a file of predictions.

    Args:
        benchmark: What was asked.
        data: Its annotation file, or a folder that holds it.
        predictions: In the benchmark's own form or as :class:`mblip.schema.Prediction` lines.
        language: Any code or name; by default what the path of the data says, else English.
        variant: Of the metric; the benchmark's first by default.
        segmenter: Of captions; the paper's for the language by default.
        allow_missing: Score the items that have a prediction instead of refusing; the fingerprint counts the others.

    Returns:
        The score with 95 % intervals clustered on images, and the values of each item that it is made of.

    Raises:
        InputError: A file that cannot be used, an item without a prediction or with two, a prediction for no item, a
            language that the file is not in.
    """
    code = _language(benchmark, data, language)
    options = Options(benchmark.choose_variant(variant), code, segmenter)
    path = benchmark.find(data, code)
    items = benchmark.read(path, code)
    _check_items(items, benchmark, path)
    answers = read_answers(predictions, benchmark, code)
    matched, counts = _match(items, answers, benchmark, path, predictions, allow_missing)
    chosen = [item for item in items if item.id in matched]
    scored = benchmark.score(chosen, [matched[item.id] for item in chosen], options)
    fingerprint = {
        "benchmark": benchmark.name,
        "language": code,
        "data": path.name,
        "data_sha256": sha256_file(path),
        "predictions_sha256": sha256_file(predictions),
        "variant": options.variant,
        "prompt": benchmark.prompt(Item("", (), _PLACEHOLDER, None), code),
        "decoding": dict(benchmark.decoding),
        **counts,
        **scored.notes,
        "versions": _versions(),
    }
    return Score(benchmark.name, code, scored.metrics, len(scored.items), fingerprint, _intervals(scored)), scored


def _intervals(scored: Scored) -> dict[str, tuple[float, float]]:
    """95 % intervals of the metrics that are means over items."""
    images = [item.images for item in scored.items]
    intervals = {}
    for name, values in scored.per_item.items():
        scale = 100 if name == "accuracy" else 1
        low, high = bootstrap_interval(values, images, _RESAMPLES)
        intervals[name] = (scale * low, scale * high)
    return intervals


def read_answers(path: Path, benchmark: Benchmark, language: str) -> list[Answer]:
    """The answers in a file of predictions.

    Understood are lists, JSON lines and objects one after the other, of rows that name an item and an answer by the fields
    the benchmark knows; an object ``{id: answer}``; and ``{"imgToEval": {id: {"caption": ...}}}``.

    Raises:
        InputError: A row lacks an answer, or is of another language.
    """
    values = read_values(path)
    if len(values) == 1 and isinstance(values[0], dict):
        values = _from_object(values[0], benchmark)
    if not values:
        raise InputError(f"{path} holds no predictions")
    return [_answer(row, where, benchmark, language) for where, row in rows(values, path)]


def _from_object(data: Row, benchmark: Benchmark) -> list[Any]:
    id_key, answer_key = benchmark.id_keys[0], benchmark.answer_keys[0]
    if isinstance(data.get("imgToEval"), dict):
        return [{id_key: image, **row} for image, row in data["imgToEval"].items() if isinstance(row, dict)]
    if not any(key in data for key in benchmark.answer_keys) and all(isinstance(text, str) for text in data.values()):
        return [{id_key: name, answer_key: text} for name, text in data.items()]
    return [data]


def _answer(row: Row, where: str, benchmark: Benchmark, language: str) -> Answer:
    ours = "benchmark" in row and "id" in row
    if ours and isinstance(row.get("language"), str) and find_language(row["language"]).code != language:
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
    question = row.get("question", "")
    return Answer(None if name is None else str(name), text, question if isinstance(question, str) else "")


def _check_items(items: Sequence[Item], benchmark: Benchmark, path: Path) -> None:
    if not items:
        raise InputError(f"{path} holds no items of {benchmark.name}")
    seen: set[str] = set()
    for item in items:
        name = benchmark.normal_id(item.id)
        if name in seen:
            raise InputError(f"{path} holds item {item.id!r} twice; remove one")
        seen.add(name)


def _match(
    items: Sequence[Item],
    answers: Sequence[Answer],
    benchmark: Benchmark,
    path: Path,
    predictions: Path,
    allow_missing: bool,
) -> tuple[dict[str, str], dict[str, int]]:
    """The answer by item id, and what was passed over, counted."""
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
        if answer.question and item.text.strip() not in answer.question:
            raise InputError(
                f"{predictions}, record {number} answers {answer.question!r}, but record {number} of {path} asks "
                f"{item.text!r}; give the data that the predictions were made on"
            )
    return {item.id: answer.text for item, answer in zip(items, answers, strict=True)}


def _language(benchmark: Benchmark, data: Path, asked: str) -> str:
    """The mC4 code asked for, which the data's path must not contradict; without one, what the path says."""
    named = _language_in(data, benchmark)
    code = find_language(asked).code if asked else named or "en"
    if named and data.is_file() and code != named:
        raise InputError(f"{data} is in {named!r} by its path, not in {code!r}; give the file of that language")
    return code


def _language_in(data: Path, benchmark: Benchmark) -> str:
    """The language that the end of a path names (``de/test.jsonl``, ``marvl-id.jsonl``, ``..._bn.json``), or nothing."""
    spelled: Mapping[str, str] = {
        spelling: code
        for code in benchmark.languages
        for spelling in (code, find_language(code).bcp47, find_language(code).code_in(benchmark.name))
    }
    words = [data.parent.name, *re.split(r"[-_.]", data.stem)[-1:]]
    found = [spelled[word] for word in words if word in spelled]
    return found[-1] if found else ""


def _versions() -> dict[str, str]:
    versions = {}
    for library in ("mblip", *_LIBRARIES):
        try:
            versions[library] = version(library)
        except PackageNotFoundError:  # running from a source tree
            continue
    return versions
