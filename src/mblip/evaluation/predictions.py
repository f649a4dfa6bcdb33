"""Read files of predictions in any common form, and match them with the items that they answer.

One reader serves every benchmark. A file has rows (JSON, JSON lines, CSV, TSV, Parquet) with an item and an answer in
fields of any of the names below, in any spelling (``question_id``, ``questionId``, ``Question ID``). Names that the
benchmark's own files use take precedence.

A row that cannot be used stops the scoring, because a score over fewer items cannot be compared with others. If missing
items are allowed, the row is left out and counted, and a remark beside the score says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mblip.corpora.json_stream import BadRow
from mblip.errors import InputError, counted
from mblip.evaluation.benchmark import Benchmark, Item
from mblip.evaluation.json_files import Row, image_name, kind_of, left_out, read_rows, rows, take_language
from mblip.evaluation.table_columns import LANGUAGE_COLUMNS
from mblip.languages import known_language
from mblip.replies import without_reasoning

# Fields of a model's answer. Unambiguous names come before "answer", because files of predictions may repeat the right
# answer.
_SAID = ("prediction", "pred", "predicted_answer", "model_answer", "model_output", "response", "output")
ANSWER_FIELDS = (*_SAID, "answer", "caption", "text", "generated_text", "label")
ID_FIELDS = ("question_id", "id", "pairID", "identifier", "item_id", "sample_id")
IMAGE_FIELDS = ("image_id", "image", "img_id", "img_path", "image_path", "file_name", "image/key")
_QUESTION_FIELDS = ("question", "prompt", "input")
# Objects that wrap the rows.
_LISTS = ("predictions", "results", "answers", "annotations", "data", "logs")


@dataclass(frozen=True, slots=True)
class Answer:
    """One prediction.

    Attributes:
        item: The item that it names; None if the file has the order of the data.
        text: The model's answer, without its reasoning; None if there is none.
        question: The question, if the row has it.
        image: The picture, if the row has it.
        where: File and row, for errors.
        problem: The reason why the row cannot be used, with its file and row; empty if it can.
    """

    item: str | None
    text: str | None
    question: str = ""
    image: str = ""
    where: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Matched:
    """Predictions by item.

    Attributes:
        answers: Answers by the item's id.
        counts: Numbers of ignored and missing predictions, for the fingerprint; with a ``remark`` about rows that were
            left out because they cannot be used.
    """

    answers: dict[str, str]
    counts: dict[str, Any]


def read_answers(path: Path, benchmark: Benchmark, language: str) -> list[Answer]:
    """Read the answers in a file of predictions.

    Supported are tables and JSON of rows, also as the value of ``results``, ``predictions`` and the like; an object
    ``{id: answer}`` or ``{id: row}``; ``{"imgToEval": {id: {"caption": ...}}}``; lmms-eval's samples; and the captions
    of ``mblip caption``, filtered by language.

    A row that cannot be used is an answer with a ``problem``.

    Raises:
        InputError: The file cannot be read, no row can be used, no row is in the language, or a row of mblip's own format
            is in another language.
    """
    values = read_rows(path)
    if len(values) == 1 and isinstance(values[0], dict):
        values = _from_object(values[0], path)
    if not values:
        raise InputError(f"{path} holds no predictions")
    found, others = [], set()
    for where, row in _in_order([(f"{path}, record {number}", row) for number, row in enumerate(values, start=1)]):
        if not isinstance(row, dict):
            what = f"{path}, {row}" if isinstance(row, BadRow) else f"{where} is {kind_of(row)}, not an object"
            found.append(Answer(None, None, where=where, problem=what))
            continue
        try:
            spoken = _language_of(row, where, benchmark)
            answer = _answer(row, where, benchmark) if spoken in ("", language) else None
        except InputError as error:
            spoken, answer = "", Answer(None, None, where=where, problem=str(error))
        if answer:
            found.append(answer)
        elif "benchmark" in row and "id" in row:  # mblip's own format, with one file per language
            raise InputError(f"{where} is in {spoken!r}, not in {language!r}; give each language its own file")
        else:
            others.add(spoken)
    if not found:
        raise InputError(f"{path} holds no predictions in {language!r}; it has {', '.join(sorted(others))}")
    if all(answer.problem for answer in found):
        raise InputError(f"{found[0].problem}; none of the file's rows can be used: correct it")
    return found


def _in_order(numbered: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Rows in the order of their items: lmms-eval's processes write samples in any order, with their place as doc_id."""
    usable = [pair for pair in numbered if isinstance(pair[1], dict)]
    if not usable or not all(isinstance(row.get("doc_id"), int) for _, row in usable):
        return numbered
    usable.sort(key=lambda pair: int(pair[1]["doc_id"]))
    if len(usable) == len(numbered):
        return usable
    # An unusable row has no doc_id, so it belongs to one of the places that no other row has.
    placed = {int(pair[1]["doc_id"]): pair for pair in usable}
    others = iter([pair for pair in numbered if not isinstance(pair[1], dict)])
    free = [place for place in range(len(numbered)) if place not in placed]
    if len(free) != len(numbered) - len(usable):
        where, row = next(others)
        what = str(row) if isinstance(row, BadRow) else f"{where} is {kind_of(row)}, not an object"
        raise InputError(f"{what}; the doc_id of the other rows does not say which item it belongs to")
    return [placed.get(place) or next(others) for place in range(len(numbered))]


def match_answers(
    items: Sequence[Item],
    answers: Sequence[Answer],
    benchmark: Benchmark,
    path: Path,
    predictions: Path,
    allow_missing: bool,
) -> Matched:
    """Match answers with items, and count ignored and missing ones.

    Raises:
        InputError: An item has no prediction or two, a row cannot be used, or a prediction belongs to no item.
    """
    given: dict[str, list[Answer]] = {}
    bad: list[str] = []
    unknown = 0
    for answer, item in _pairs(items, answers, benchmark, path, predictions):
        if answer.problem:
            bad.append(answer.problem)
        elif item is None:
            if not benchmark.extra:
                raise InputError(
                    f"{answer.where} is for {answer.item or answer.image!r}, which is not in {path}; remove it or give "
                    "its data"
                )
            unknown += 1
        else:
            given.setdefault(item.id, []).append(answer)
    for name, (first, *more) in list(given.items()):
        if more and not allow_missing:
            raise InputError(f"{more[0].where} is a second prediction for {name!r}; remove one")
        if any(other.text != first.text for other in more):  # nobody knows which one counts
            bad += [f"{other.where} is a second prediction for {name!r}, with another answer" for other in more]
            bad.append(f"{first.where} is a prediction for {name!r}, which another row contradicts")
            del given[name]
    if bad and not allow_missing:
        raise InputError(_refused(bad))
    repeated = sum(len(more) for _, *more in given.values())
    silent = {name: first for name, (first, *_) in given.items() if first.text is None}
    matched = {name: first.text for name, (first, *_) in given.items() if first.text is not None}
    lacking = [item for item in items if item.id not in matched]
    if silent and not allow_missing:
        first = next(iter(silent.values()))
        raise InputError(
            f"{first.where} has no answer ({counted(len(silent), 'such row')}), because it is empty or only reasoning; add "
            "one, or score the others with --allow-missing"
        )
    needed = [] if benchmark.partial or allow_missing else [item for item in lacking if not benchmark.optional(item)]
    if needed:
        raise InputError(
            f"{predictions} has no prediction for {len(needed):,} of the {counted(len(items), 'item')} in {path}, such as "
            f"{needed[0].id!r}; add them, or score the others with --allow-missing"
        )
    if not matched:
        why = f"; {bad[0]}" if bad else "; do they belong together?"
        raise InputError(f"{predictions} has no prediction for any item in {path}{why}")
    if not (benchmark.partial or allow_missing):
        matched.update((item.id, "") for item in lacking)
    counts = {
        "without_prediction": len(lacking) - len(silent),
        "without_answer": len(silent),
        "predictions_passed_over": unknown,
        "predictions_left_out": len(bad),
        "predictions_repeated": repeated,
    }
    known = {"items_in_data": len(items), **{name: count for name, count in counts.items() if count}}
    return Matched(matched, known | ({"remark": left_out(len(bad), "the predictions", bad[0])} if bad else {}))


def _refused(bad: Sequence[str]) -> str:
    more = f"; {counted(len(bad) - 1, 'more row')} cannot be used" if len(bad) > 1 else ""
    them = "them" if len(bad) > 1 else "it"
    return f"{bad[0]}{more}; correct {them}, or leave {them} out with --allow-missing, which counts such rows"


def _from_object(data: Row, path: Path) -> list[Any]:
    """The rows of a file that is one object."""
    if isinstance(data.get("imgToEval"), dict):
        captions = data["imgToEval"]
        named = zip(captions, rows(list(captions.values()), path, "imgToEval"), strict=True)
        return [{"image_id": image, **row} for image, (_, row) in named]
    lists: list[list[Any]] = [data[name] for name in _LISTS if isinstance(data.get(name), list)]
    if len(lists) == 1:
        return lists[0]
    if data and all(isinstance(row, dict) for row in data.values()):
        return [{"id": name, **row} for name, row in data.items()]
    plain = all(isinstance(text, str | int | float | None) for text in data.values())
    if plain and not _squashed(data).keys() & {_squash(name) for name in (*ANSWER_FIELDS, *ID_FIELDS, *IMAGE_FIELDS)}:
        return [{"id": name, "answer": text} for name, text in data.items()]
    return [data]


def _answer(row: Row, where: str, benchmark: Benchmark) -> Answer:
    fields = _squashed(row)
    doc = _squashed(row["doc"]) if isinstance(row.get("doc"), dict) else {}  # lmms-eval's item
    if "benchmark" in row and "id" in row:
        names, images, said = ["id"], [], ["answer"]
    else:
        names, images = [*benchmark.id_keys, *ID_FIELDS], [*benchmark.image_keys, *IMAGE_FIELDS]
        said = [*_SAID, *benchmark.answer_keys, *ANSWER_FIELDS]
    answer = _first(fields, said)
    if "filteredresps" in fields or "resps" in fields:
        answer = _innermost(fields.get("filteredresps", fields.get("resps")))
    elif answer is _NOTHING:
        raise InputError(
            f"{where} needs a text in one of the fields {', '.join(dict.fromkeys(said))}; it has "
            f"{', '.join(map(str, row))}"
        )
    name, image = (
        _identifier(_first({**doc, **fields}, names), where),
        _identifier(_first({**doc, **fields}, images), where),
    )
    question = _first({**doc, **fields}, _QUESTION_FIELDS)
    question = question if isinstance(question, str) else ""
    if not (name or image or question) and len(row) > 1 and "docid" not in fields:
        raise InputError(
            f"{where} does not name its item in any of the fields {', '.join(dict.fromkeys((*names, *images)))}; rename one of "
            f"its fields {', '.join(map(str, row))}"
        )
    return Answer(name or None, _text(answer, where, benchmark), question, image, where)


_NOTHING = object()


def _first(fields: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((fields[_squash(name)] for name in names if _squash(name) in fields), _NOTHING)


def _squashed(row: Row) -> dict[str, Any]:
    """A row with normalised names of fields."""
    return {_squash(name): value for name, value in reversed(list(row.items()))}


def _squash(name: str) -> str:
    return re.sub(r"[\W_]", "", str(name)).lower()


def _innermost(value: Any) -> Any:
    """The first reply in lmms-eval's list of replies, or list of lists."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value


def _text(value: Any, where: str, benchmark: Benchmark) -> str | None:
    """A model's answer as a text; None for no answer, and for reasoning without an answer."""
    match value:
        case None:
            return None
        case float() if math.isnan(value):  # an empty cell in tables by pandas
            return None
        case bool():
            return "yes" if value else "no"
        case 0 | 1 if benchmark.yes_or_no:
            return "yes" if value else "no"
        case int():
            return str(value)
        case float():
            return str(int(value)) if value.is_integer() else str(value)
        case str():
            return without_reasoning(value)
    raise InputError(f"{where} needs a text as answer, not {value!r:.100}")


def _identifier(value: Any, where: str) -> str:
    if value is _NOTHING or value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():  # pandas writes integers so if one is missing
        return str(int(value))
    if isinstance(value, dict) and isinstance(value.get("path"), str):  # a picture of a data set of the Hub
        return str(value["path"])
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InputError(f"{where}: an identifier is a text or an integer, not {value!r:.100}")
    return str(value).strip()


def _language_of(row: Row, where: str, benchmark: Benchmark) -> str:
    """The language in a row of mblip's own format, or of a table whose rows name theirs.

    Empty for others, whose field may mean the question's language.
    """
    own = ("benchmark" in row and "id" in row) or {"image", "language", "caption"} <= row.keys()
    if own:
        return take_language(row, where) if isinstance(row.get("language"), str) else ""
    said = _first(_squashed(row), LANGUAGE_COLUMNS) if benchmark.by_language else ""
    language = known_language(said) if isinstance(said, str) else None
    return language.code if language else ""  # the table's own word, which its item decides


def _by_image(items: Sequence[Item]) -> dict[str, Item]:
    """The items by picture, if each has a picture of its own."""
    found = {image_name(item.images[0]): item for item in items if len(item.images) == 1}
    return found if len(found) == len(items) else {}


def _pairs(
    items: Sequence[Item], answers: Sequence[Answer], benchmark: Benchmark, path: Path, predictions: Path
) -> list[tuple[Answer, Item | None]]:
    """Pair each answer with its item: by id, by picture if each item has its own, else by order."""
    known = {benchmark.normal_id(item.id): item for item in items}
    images = _by_image(items)
    named = any(answer.item or (benchmark.is_about_images and answer.image) for answer in answers)
    pairs: list[tuple[Answer, Item | None]] = []
    for answer in answers:
        name, image = answer.item, answer.image
        if benchmark.is_about_images:
            name = image or name  # LLaVA's files also number the questions
            image = name or ""
        if not answer.problem and name is None and not (images and image):
            if not named:
                _check_order(items, answers, path, predictions)
                return list(zip(answers, items, strict=True))
            fields = ", ".join(dict.fromkeys((*benchmark.id_keys, *ID_FIELDS)))
            answer = replace(answer, problem=f"{answer.where} names no item; it needs one of the fields {fields}")
        if answer.problem:
            pairs.append((answer, None))
            continue
        item = known.get(benchmark.normal_id(name)) if name else None
        item = item or images.get(image_name(image))
        if item and benchmark.languages == (
            "en",
        ):  # other benchmarks may ask a question in another language than the data's
            _check_question(item, answer, path)
        pairs.append((answer, item))
    return pairs


def _check_order(items: Sequence[Item], answers: Sequence[Answer], path: Path, predictions: Path) -> None:
    if len(items) != len(answers):
        raise InputError(
            f"{predictions} has {counted(len(answers), 'prediction')} without identifiers, {path} has "
            f"{counted(len(items), 'item')}; they are matched by order, so the numbers must be equal"
        )
    for item, answer in zip(items, answers, strict=True):
        _check_question(item, answer, path)


def _check_question(item: Item, answer: Answer, path: Path) -> None:
    # Harnesses collapse runs of blanks in prompts, which does not change the question.
    if answer.question and " ".join(item.text.split()) not in " ".join(answer.question.split()):
        raise InputError(
            f"{answer.where} answers {answer.question!r:.200}, but {path} has the question {item.text!r:.200}; give the data "
            "that the predictions were made on"
        )
