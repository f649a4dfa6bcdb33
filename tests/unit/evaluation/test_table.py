"""A table of one's own: however written it gives the built-in benchmarks' scores to the last digit, or one sentence."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from mblip.cli.app import app
from mblip.config import EvalRecipe
from mblip.errors import InputError
from mblip.evaluation.benchmarks import find_benchmark
from mblip.evaluation.evaluate import evaluate
from mblip.evaluation.metrics.choices import chosen_option
from mblip.evaluation.results import read_items, read_predictions
from mblip.evaluation.scoring import score_predictions
from mblip.evaluation.suites import load_suite
from mblip.evaluation.table_columns import find_columns, parse_columns, without_labels
from mblip.evaluation.tables import own_table, read_tables, table_section
from mblip.evaluation.tasks import load_tasks
from mblip.schema import Score

CAPTIONS = {
    "a.png": ["Ein Hund läuft am Strand.", "Ein brauner Hund rennt"],
    "b.png": ["Zwei Katzen schlafen, auf dem Sofa"],
    "c.png": ["Ein Mann sagt: \"Hallo\"\nund geht", "Ein Mann geht", "Jemand winkt"],
}  # fmt: skip
SAID = {"a.png": "Ein Hund rennt am Strand", "b.png": "Zwei Katzen schlafen", "c.png": "Ein Mann geht und winkt"}
QUESTIONS = [
    ("q1", "n1.png", "Was ist das?", "dog"), ("q2", "n1.png", "Wo liegt es, hier?", "left"), ("q3", "n2.png", "Rot?", "no"),
]  # fmt: skip
ANSWERS = {"q1": "dog", "q2": "The left.", "q3": "No"}


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (24, 24), (number * 70 % 255, 90, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def write_csv(path: Path, rows: Sequence[Sequence[Any]], **how: Any) -> Path:
    with path.open("w", encoding=how.pop("encoding", "utf-8"), newline="") as file:
        csv.writer(file, **how).writerows(rows)
    return path


def lines(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def score(table: Path, predictions: Path, task: str, columns: Sequence[str] = (), **more: Any) -> Score:
    language = more.pop("language", "de")
    benchmark = own_table(table, task, language, columns, more.get("allow_missing", False))
    return score_predictions(benchmark, table, predictions, language, **more)[0]


def captions_said(path: Path) -> Path:
    return write_csv(path / "said.csv", [("image", "caption"), *SAID.items()])


def _flat() -> list[tuple[str, str]]:
    return [(image, text) for image, texts in CAPTIONS.items() for text in texts]


def write_captions(folder: Path, kind: str) -> tuple[Path, list[str]]:
    """A table of the captions in one of the ways that people write them, and the columns that have to be named."""
    padded = [(image, *texts, *[""] * (3 - len(texts))) for image, texts in CAPTIONS.items()]
    match kind:
        case "rows":
            return write_csv(folder / "t.csv", [("file", "words"), *_flat()]), ["image=file,caption=words"]
        case "semicolons with a mark":
            return write_csv(folder / "t.csv", [("image", "text"), *_flat()], delimiter=";", encoding="utf-8-sig"), []
        case "numbered columns":
            return write_csv(folder / "t.csv", [("image", "caption_1", "caption_2", "caption_3"), *padded]), []
        case "joined columns":
            return write_csv(folder / "t.csv", [("image", "x", "y", "z1"), *padded]), ["caption=x+y+z*"]
        case "json in csv":
            rows = [(image, json.dumps(texts)) for image, texts in CAPTIONS.items()]
            return write_csv(folder / "t.csv", [("image", "captions"), *rows]), []
        case "lists in lines":
            return lines(folder / "t.jsonl", [{"image": i, "captions": texts} for i, texts in CAPTIONS.items()]), []
        case "parquet with pictures":
            images = [{"bytes": picture(n), "path": image} for n, image in enumerate(CAPTIONS)]
            pq.write_table(pa.table({"image": images, "captions": list(CAPTIONS.values())}), folder / "t.parquet")
            return folder / "t.parquet", []
    raise AssertionError(kind)


KINDS = [
    "rows", "semicolons with a mark", "numbered columns", "joined columns", "json in csv", "lists in lines",
    "parquet with pictures",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_captions_however_written_score_as_xflickrco_does(kind: str, tmp_path: Path) -> None:
    own = [{"sentences": texts, "id": image, "img_path": image} for image, texts in CAPTIONS.items()]
    data = lines(tmp_path / "xflickrco.jsonl", own)
    wanted, _ = score_predictions(find_benchmark("captions"), data, captions_said(tmp_path), "de")
    table, columns = write_captions(tmp_path, kind)
    found = score(table, captions_said(tmp_path), "caption", columns)
    assert (found.metrics, found.n, found.ci95) == (wanted.metrics, wanted.n, wanted.ci95)
    assert found.metrics["CIDEr"] > 0


@pytest.mark.parametrize("variant", ["iglue", "mblip"])
def test_questions_score_as_xgqa_does(variant: str, tmp_path: Path) -> None:
    own = {name: {"question": q, "imageId": image, "answer": gold} for name, image, q, gold in QUESTIONS}
    data = tmp_path / "testdev_balanced_questions_de.json"
    data.write_text(json.dumps(own), encoding="utf-8")
    said = write_csv(tmp_path / "said.csv", [("id", "answer"), *ANSWERS.items()])
    wanted, _ = score_predictions(find_benchmark("xgqa"), data, said, "de", variant)
    table = write_csv(tmp_path / "t.csv", [("id", "image", "question", "answer"), *QUESTIONS])
    found = score(table, said, "vqa", variant=variant)
    assert (found.metrics, found.n, found.ci95) == (wanted.metrics, wanted.n, wanted.ci95)


def test_any_of_several_gold_answers_is_right_and_other_variants_are_the_benchmarks(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "image": "a", "question": "q", "answers": ["Hund", "Köter"]},
        {"id": 2, "image": "a", "question": "r", "answers": ["2"] * 9 + ["zwei"]},
    ]
    table = lines(tmp_path / "t.jsonl", rows)
    said = lines(tmp_path / "said.jsonl", [{"id": 1, "answer": "köter"}, {"id": 2, "answer": "two"}])
    accuracy = {
        v: score(table, said, "vqa", variant=v).metrics["accuracy"] for v in ("iglue", "mblip", "maxm", "official_2021")
    }
    assert accuracy == {
        "iglue": 0.0,
        "mblip": 100.0,
        "maxm": 50.0,
        "official_2021": pytest.approx(100 * (1 / 6 + 1) / 2),
    }


@pytest.mark.parametrize("variant", ["iglue", "mblip", "maxm", "official_2021"])
def test_answers_in_another_unicode_spelling_are_remarked_on_and_nfc_counts_them(variant: str, tmp_path: Path) -> None:
    rows = [{"id": 1, "image": "a", "question": "q", "answers": ["caf\u00e9"] * 4}]
    table = lines(tmp_path / "t.jsonl", rows)
    said = lines(tmp_path / "said.jsonl", [{"id": 1, "answer": "cafe\u0301"}])
    found = score(table, said, "vqa", variant=variant)
    assert found.metrics["accuracy"] == 0 and "variant nfc counts such" in found.fingerprint["remark"]
    found = score(table, said, "vqa", variant="nfc")
    assert found.metrics == {"accuracy": 100.0, "relaxed": 1.0} and "remark" not in found.fingerprint


def test_the_verb_prints_the_object_of_the_others(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "t.csv", [("file", "text"), *_flat()])
    arguments = [
        "score",
        "table",
        "--data",
        str(table),
        "--predictions",
        str(captions_said(tmp_path)),
        "--task",
        "caption",
    ]
    result = CliRunner().invoke(
        app, [*arguments, "--language", "German", "--columns", "image=file,caption=text", "--json"]
    )
    printed = json.loads(result.output)
    assert set(printed) == {"metrics", "n", "fingerprint"}
    assert (printed["n"], printed["fingerprint"]["task"], printed["fingerprint"]["language"]) == (3, "caption", "de")


CHOICES: dict[str, tuple[list[Any], list[str]]] = {
    "letters": ([{"image": "a", "question": "q", "A": "dog", "B": "cat", "C": "", "answer": "B"}], []),
    "list": ([{"image": "a", "question": "q", "options": ["dog", "cat"], "answer": "cat"}], []),
    "labels without a blank": ([{"image": "a", "question": "q", "options": ["A.dog", "B.cat"], "answer": "B"}], []),
    "digits of another script": (
        [{"image": "a", "question": "q", "options": ["\u0e51. dog", "\u0e52. cat"], "answer": "2"}],
        [],
    ),
    "a list that ends in nan": (
        [{"image": "a", "question": "q", "options": ["(1) dog", "(2) cat", "nan"], "answer": "2"}],
        [],
    ),
    "question in lines": ([{"image": "a", "question": ["q"], "options": ["dog", "cat"], "answer": "B"}], []),
    "list in words": ([{"image": "a", "question": "q", "options": "['dog', 'cat']", "answer": "(B)"}], []),
    "lettered list": ([{"image": "a", "question": "q", "choices": ["A. dog", "B. cat"], "answer": "b"}], []),
    "numbered list": ([{"image": "a", "question": "q", "choices": ["(1) dog", "(2) cat"], "answer": 2}], []),
    "named": ([{"image": "a", "question": "q", "options": {"A": "dog", "B": "cat", "C": None}, "answer": "B"}], []),
    "named, as JSON": ([{"image": "a", "question": "q", "options": '{"a": "dog", "b": "cat"}', "answer": "b"}], []),
    "named, as Python writes it": (
        [{"image": "a", "question": "q", "options": "{'1': 'dog', '2': 'cat'}", "answer": 2}],
        [],
    ),
    "labels and texts": (
        [{"image": "a", "question": "q", "choices": {"text": ["dog", "cat"], "label": ["A", "B"]}, "answer": "B"}],
        [],
    ),
    "each with its label": (
        [
            {
                "image": "a",
                "question": "q",
                "choices": [{"label": "A", "text": "dog"}, {"label": "B", "text": "cat"}],
                "answer": "cat",
            }
        ],
        [],
    ),
    "index": ([{"image": "a", "question": "q", "option_a": "dog", "option_b": "cat", "n": 1}], ["answer_index=n"]),
    "number": ([{"image": "a", "question": "q", "option1": "dog", "option2": "cat", "n": "2"}], ["answer_number=n"]),
}


@pytest.mark.parametrize("kind", CHOICES)
def test_options_and_their_right_one_however_written(kind: str, tmp_path: Path) -> None:
    rows, columns = CHOICES[kind]
    table = lines(tmp_path / "t.jsonl", rows)
    for said, accuracy in (
        ("B", 100.0),
        ("B. cat", 100.0),
        ("It is a cat.", 100.0),
        ("A", 0.0),
        ("A cat", 100.0),
        ("who knows", 0.0),
    ):
        found = score(table, lines(tmp_path / "said.jsonl", [{"answer": said}]), "choice", columns)
        assert found.metrics["accuracy"] == accuracy, said
        assert found.metrics["unparsed"] == float(said == "who knows")


@pytest.mark.parametrize(
    "options", [["A.D.", "B.C."], ["A:B", "B:A"], ["A.USA", "B.UK"], ["1.5 kg", "2.5 kg"], ["A dog", "B sides"]]
)
def test_options_that_look_like_labels_stay_whole(options: list[str]) -> None:
    assert without_labels(options) == (options, ["A", "B"])


@pytest.mark.parametrize(
    ("answer", "place"),
    [
        ("B", 1), ("(b)", 1), ("b", 1), ("b)", 1), ("(B)", 1), ("**B**", 1), ("B.", 1), ("B: a cat", 1),
        ("The answer is B", 1), ("Answer: (C)", 2),
        ("A cat sat", None), ("a black cat", 1), ("dog", 0), ("a dog and a black cat", None), ("Б", None), ("В", 1), ("", None),
        ("option C", 2), ("D", None), ("The black cat's", 1), ("I", None),
    ],
)  # fmt: skip
def test_the_option_that_an_answer_chooses(answer: str, place: int | None) -> None:
    assert chosen_option(answer, ["dog", "black cat", "white cat"]) == place


def test_a_picture_may_be_in_the_table_as_base64_and_rows_may_point_to_another(tmp_path: Path) -> None:
    said = base64.b64encode(picture(1)).decode()
    rows = [
        ("index", "image", "question", "A", "B", "answer"),
        (0, said, "q", "x", "y", "A"),
        (1, "0", "r", "x", "y", "B"),
    ]
    table = write_csv(tmp_path / "v.tsv", rows, delimiter="\t")
    section = table_section(table, "choice", "de", ())
    (benchmark,) = read_tables(EvalRecipe(title="t", tables=(section,)), tmp_path)
    (task,) = load_tasks([benchmark], tmp_path)
    assert [item.images for item in task.items] == [("0",), ("0",)]
    assert task.pictures.get("0").size == (24, 24)
    assert task.ask(task.items[0]).prompt == "q\nA. x\nB. y\nAnswer with the letter of the right option:"


def jpeg_in_both_alphabets() -> bytes:
    """A picture whose base64 has both characters that the URL-safe alphabet writes in another way."""
    for seed in range(100):
        file = io.BytesIO()
        Image.effect_noise((40, 30), 10 + seed).convert("RGB").save(file, "JPEG")
        if {"+", "/"} <= set(base64.b64encode(file.getvalue()).decode()):
            return file.getvalue()
    raise AssertionError


SPELLINGS: dict[str, Callable[[bytes], str]] = {
    "url-safe": lambda data: base64.urlsafe_b64encode(data).decode(),
    "unpadded": lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
    "data URL": lambda data: f"data:image/jpeg;base64,{base64.b64encode(data).decode()}",
    "data URL, url-safe": lambda data: f"data:image/jpeg;base64,{base64.urlsafe_b64encode(data).decode()}",
    "data URL with fields": lambda data: f"DATA:image/jpeg;name=a.jpg;base64,{base64.b64encode(data).decode()}",
    "data URL without type": lambda data: f"data:;base64,{base64.b64encode(data).decode()}",
    "lines": lambda data: base64.encodebytes(data).decode(),
}


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_base64_as_encoders_write_it(tmp_path: Path, spelling: str, ending: str) -> None:
    row = {"image": SPELLINGS[spelling](jpeg_in_both_alphabets()), "question": "q", "answer": "a"}
    if ending == "csv":
        table = write_csv(tmp_path / "t.csv", [tuple(row), tuple(row.values())])
    else:
        table = lines(tmp_path / "t.jsonl", [row])
    recipe = EvalRecipe(title="t", tables=(table_section(table, "vqa", "de", ()),))
    (task,) = load_tasks(read_tables(recipe, tmp_path), tmp_path)
    assert task.pictures.get(task.items[0].images[0]).size == (40, 30)


@pytest.mark.parametrize("written", [json.dumps, str])
@pytest.mark.parametrize("spelling", ["url-safe", "unpadded"])
def test_a_cell_may_list_pictures_in_base64(tmp_path: Path, spelling: str, written: Callable[[list[str]], str]) -> None:
    said = SPELLINGS[spelling](jpeg_in_both_alphabets())
    table = write_csv(tmp_path / "t.csv", [("image", "question", "answer"), (written([said, said]), "q", "a")])
    recipe = EvalRecipe(title="t", tables=(table_section(table, "vqa", "de", ()),))
    (task,) = load_tasks(read_tables(recipe, tmp_path), tmp_path)
    assert [task.pictures.get(key).size for key in task.items[0].images] == [(40, 30)] * 2


def test_a_long_name_that_begins_like_base64_is_a_name(tmp_path: Path) -> None:
    name = "Qk_" + "x" * 80 + ".png"
    (tmp_path / name).write_bytes(picture(1))
    table = write_csv(tmp_path / "t.csv", [("image", "question", "answer"), (name, "q", "a")])
    recipe = EvalRecipe(title="t", tables=(table_section(table, "vqa", "de", ()),))
    (task,) = load_tasks(read_tables(recipe, tmp_path), tmp_path)
    assert task.items[0].images == (name,) and task.pictures.get(name).size == (24, 24)


def test_rows_that_are_left_out_are_told(tmp_path: Path) -> None:
    rows = [("image", "question", "answer"), ("a.png", "", "1"), ("a.png", "how many?", "2"), ("a.png", "what?", "")]
    table = write_csv(tmp_path / "t.csv", rows)
    with pytest.raises(
        InputError, match=r"t\.csv, row 1: 'question' is blank; t\.csv, row 3: 'answer' is blank; correct them"
    ):
        score(table, write_csv(tmp_path / "p.csv", [("answer",), ("2",)]), "vqa")
    found = score(table, write_csv(tmp_path / "p.csv", [("answer",), ("2",)]), "vqa", allow_missing=True)
    assert (found.n, found.fingerprint["rows_left_out"]) == (1, 2)
    assert found.fingerprint["remark"] == (
        "2 rows of the table were left out as unusable: t.csv, row 1: 'question' is blank; and others"
    )


@pytest.mark.parametrize(
    "row",
    [{"question": "what \ud83d?"}, {"answer": "\udc00"}, {"answer": ["x", "y\ud800"]}, {"question": ["a", "b\udfff"]}],
)
def test_half_a_character_that_no_tokeniser_takes_is_a_bad_row(tmp_path: Path, row: dict[str, Any]) -> None:
    good = {"image": "a.png", "question": "what?", "answer": "x"}
    table = tmp_path / "t.jsonl"
    table.write_text(f"{json.dumps(good)}\n{json.dumps(good | row)}\n")
    (column,) = row
    with pytest.raises(
        InputError, match=rf"t\.jsonl, row 2: '{column}' holds half a surrogate pair at character \d; correct"
    ):
        own_table(table, "vqa", "de", ())
    assert len(own_table(table, "vqa", "de", (), True).read(table, "de")) == 1


def test_a_run_answers_a_table_and_reads_a_file_of_predictions_in_its_place(tmp_path: Path) -> None:
    table, columns = write_captions(tmp_path, "parquet with pictures")
    recipe = EvalRecipe(title="t", tables=(table_section(table, "caption", "de", columns),))
    (found,) = evaluate("dummy", recipe, tmp_path, tmp_path / "run")
    assert (found.benchmark, found.n, set(found.ci95)) == (
        "t",
        3,
        {"CIDEr", "ROUGE_L", "language_fidelity"} & set(found.ci95),
    )
    assert set(read_predictions(tmp_path / "run", "t", "de")) == {"a.png", "b.png", "c.png"}
    (existing,) = evaluate(str(captions_said(tmp_path)), recipe, tmp_path, tmp_path / "said")
    assert existing.metrics == score(table, captions_said(tmp_path), "caption").metrics
    assert read_items(tmp_path / "said", "t", "de")[0].gold == tuple(CAPTIONS["a.png"])


def test_options_are_scored_by_likelihood_each_item_by_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mblip.evaluation.answerers.dummy import DummyAnswerer

    asked: list[tuple[str, tuple[str, ...]]] = []

    def choices(self: Any, requests: Any, open_image: Any, candidates: Any) -> Any:
        for request in requests:
            asked.append((request.prompt, tuple(candidates)))
            yield request, candidates[-1]

    monkeypatch.setattr(DummyAnswerer, "choices", choices)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(picture(2))
    rows = [
        {"image": "a.png", "question": "q", "options": ["x", "y"], "answer": "B"},
        {"image": "b.png", "question": "r", "options": ["u", "v", "w"], "answer": "A"},
    ]
    section = table_section(lines(tmp_path / "t.jsonl", rows), "choice", "de", ())
    recipe = EvalRecipe(title="t", tables=(section,), protocol="candidates")
    (found,) = evaluate("dummy", recipe, tmp_path, tmp_path / "run")
    assert found.metrics["accuracy"] == 50.0
    assert found.fingerprint["options"] == "by likelihood"
    assert sorted(asked) == [
        ("Question: q Short answer in German:", ("x", "y")), ("Question: r Short answer in German:", ("u", "v", "w")),
    ]  # fmt: skip


def test_a_blank_caption_counts_as_one_without_words_and_is_told(tmp_path: Path) -> None:
    rows = [("image", "caption"), ("a.png", "Ein Hund"), ("b.png", ""), ("c.png", "Ein Mann geht")]
    found = score(write_csv(tmp_path / "t.csv", rows), captions_said(tmp_path), "caption")
    assert (
        found.n == 3
        and found.fingerprint["blank_references"] == 1
        and "blank reference caption" in found.fingerprint["remark"]
    )


def test_a_bad_row_is_left_out_counted_where_that_is_allowed_and_its_prediction_passed_over(tmp_path: Path) -> None:
    rows = [("image", "caption"), ("a.png", "Ein Hund"), ("b.png", "x\0y"), ("c.png", "Ein Mann geht")]
    table = write_csv(tmp_path / "t.csv", rows)
    with pytest.raises(
        InputError, match=r"t\.csv, row 2: 'caption' holds a NUL character; correct it, or leave it out"
    ):
        score(table, captions_said(tmp_path), "caption")
    found = score(table, captions_said(tmp_path), "caption", allow_missing=True)
    assert found.n == 2 and found.fingerprint["rows_left_out"] == 1


BAD: dict[str, tuple[str, str, str]] = {
    "two columns of a name": ("t.csv", "image,image,caption\na,b,c\n", "two columns have the name 'image'"),
    "a blank picture": ("t.csv", "image,caption\n,x\n", "row 1: 'image' is blank"),
    "a path out": ("t.csv", "image,caption\n../../etc/passwd,x\n", "leads out of the folder of pictures"),
    "an absolute path": ("t.csv", "image,caption\n/etc/passwd,x\n", "is not below"),
    "an address": ("t.csv", "image,caption\nhttps://e.org/a.png,x\n", "it is an address"),
    "no such column": ("t.csv", "foto,texto\na,x\n", "no column for the image of the task 'caption'"),
    "too many cells": ("t.csv", "image,caption\na,x,y\n", "has 3 cells, but the header names 2"),
    "UTF-16": ("t.csv", "\ufeffimage,caption\na,x\n", "is in UTF-16"),
    "nothing": ("t.csv", "", "is empty"),
    "a header alone": ("t.csv", "image,caption\n", "holds no rows"),
    "an object for a text": ("t.jsonl", '{"image": "a", "caption": ["x", {"y": 1}]}\n', "must be a list of texts"),
    "cut off": ("t.jsonl", '{"image": "a", "caption": "x"}\n{"image": "b", "cap', "line 2 is not valid JSON"),
    "a sheet": ("t.xlsx", "PK", "is a spreadsheet"),
    "damaged": ("t.parquet", "PAR1 and then nothing", "is damaged or not a Parquet file"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_table_that_cannot_be_used_is_one_sentence(kind: str, tmp_path: Path) -> None:
    name, text, told = BAD[kind]
    (tmp_path / name).write_bytes(text.encode("utf-16-le" if kind == "UTF-16" else "utf-8"))
    with pytest.raises(InputError, match=told) as error:
        own_table(tmp_path / name, "caption", "de", ())
    assert "\n" not in str(error.value)


BAD_CHOICES: dict[str, tuple[dict[str, Any], str]] = {
    "a letter too far": (
        {"A": "x", "B": "y", "answer": "C"},
        "which is not one of the 2 options and not the letter of one",
    ),
    "a number": ({"A": "x", "B": "y", "answer": 1}, "for a number, use --columns answer_index=COLUMN"),
    "a gap": ({"A": "x", "B": "", "C": "z", "answer": "A"}, "option 'B' is blank, but 'C' is not"),
    "a gap among named ones": (
        {"options": {"A": "x", "B": "", "C": "z"}, "answer": "A"},
        "option 'B' is blank, but 'C' is not",
    ),
    "names that are no labels": (
        {"options": {"x": "dog", "y": "cat"}, "answer": "x"},
        "'options' is .* which is not a text",
    ),
    "fewer labels than texts": (
        {"options": {"label": ["A"], "text": ["x", "y"]}, "answer": "A"},
        "which is not a text",
    ),
    "one option": ({"options": ["x"], "answer": "A"}, "1 option is not enough"),
    "a list in no known notation": ({"options": "x|y", "answer": "x"}, r"at least two, as a list such as \["),
    "two alike": ({"options": ["x", "x"], "answer": "A"}, "two options are 'x'"),
    "no answer": ({"options": ["x", "y"], "answer": None}, "'answer' is blank"),
    "no picture": ({"image": [], "options": ["x", "y"], "answer": "A"}, "'image' holds no picture"),
    "a number that begins an option": ({"options": ["1.5 kg", "2.5 kg"], "answer": "2.5"}, "which is not one of the 2"),
}


@pytest.mark.parametrize("kind", BAD_CHOICES)
def test_options_that_cannot_be_used_are_told(kind: str, tmp_path: Path) -> None:
    row, told = BAD_CHOICES[kind]
    table = lines(tmp_path / "t.jsonl", [{"image": "a", "question": "q", **row}])
    with pytest.raises(InputError, match=f"row 1: .*{told}"):
        own_table(table, "choice", "de", ())


def test_two_questions_of_one_id_are_refused_and_two_answers_of_one_question_are_one_item(tmp_path: Path) -> None:
    rows = [("id", "image", "question", "answer"), (1, "a", "q", "x"), (1, "a", "q", "y")]
    said = lines(tmp_path / "said.jsonl", [{"id": 1, "answer": "y"}])
    assert score(write_csv(tmp_path / "t.csv", rows), said, "vqa").metrics["accuracy"] == 100.0
    with pytest.raises(InputError, match="row 2 has the id '1' of row 1, but another question"):
        own_table(write_csv(tmp_path / "t.csv", [*rows[:2], (1, "a", "r", "y")]), "vqa", "de", ())


def test_pictures_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "t.csv", [("image", "caption"), ("x/1.png", "Ein Hund"), ("y/1.png", "Eine Katze")])
    said = write_csv(tmp_path / "said.csv", [("image", "caption"), ("y/1.png", "Eine Katze"), ("x/1.png", "Ein Hund")])
    assert score(table, said, "caption").metrics["ROUGE_L"] == pytest.approx(1.0)


def test_captions_with_ids_are_matched_by_id_or_by_picture(tmp_path: Path) -> None:
    rows = [("id", "image", "caption"), ("k1", "a.png", "Ein Hund"), ("k2", "b.png", "Eine Katze")]
    table = write_csv(tmp_path / "t.csv", rows)
    by_id = write_csv(tmp_path / "id.csv", [("id", "answer"), ("k2", "Eine Katze"), ("k1", "Ein Hund")])
    by_image = write_csv(
        tmp_path / "image.csv", [("image", "caption"), ("b.png", "Eine Katze"), ("x/a.jpg", "Ein Hund")]
    )
    assert [score(table, said, "caption").metrics["ROUGE_L"] for said in (by_id, by_image)] == [pytest.approx(1.0)] * 2


def test_columns_as_they_are_named_on_the_command_line() -> None:
    assert parse_columns(['image=file, caption=text', '"question=What, and why"']) == {
        "image": "file", "caption": "text", "question": "What, and why",
    }  # fmt: skip
    for text, told in (("image", "must read role=column"), ("img=x", "did you mean 'image'"), ("id=a,id=b", "twice")):
        with pytest.raises(InputError, match=told):
            parse_columns([text])
    with pytest.raises(InputError, match="did you mean 'texte'"):
        find_columns(Path("t"), ["image", "texte"], "caption", {"caption": "texts"})


def test_the_command_line_says_what_a_table_needs(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "t.csv", [("image", "caption"), ("a", "x")])
    for options, told in (
        ((None, "vqa", "de"), "name it with --table"), ((table, "", "de"), "needs --task"),
        ((table, "captions", "de"), "did you mean"),
        ((table, "caption", ""), "needs --language"), ((table, "caption", "klingon"), "unknown language"),
        ((tmp_path / "no.csv", "caption", "de"), "there is no table"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=told):
            table_section(*options, ())  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ("photos/a.jpg", "a.jpg"),
        ("a.jpg", "/elsewhere/photos/a.JPG"),
        ("photos\\a.webp", "C:\\me\\photos\\a.webp"),
        ("caf\u00e9.heic", "cafe\u0301"),
        ("a.tiff", " ./a.tiff "),
        ("COCO_val2014_000000000042.jpg", "42"),
    ],
)
def test_a_picture_is_the_same_however_its_path_is_spelled(held: str, said: str, tmp_path: Path) -> None:
    captions = write_csv(tmp_path / "t.csv", [("image", "caption"), (held, "Hund"), ("b.jpg", "Katze")])
    spoken = write_csv(tmp_path / "p.csv", [("file", "caption"), (said, "Hund"), ("b", "Katze")])
    assert score(captions, spoken, "caption").metrics["Bleu_1"] == pytest.approx(1)
    questions = write_csv(tmp_path / "q.csv", [("image", "question", "answer"), (held, "?", "1"), ("b.jpg", "?", "2")])
    answers = write_csv(tmp_path / "a.csv", [("photo", "answer"), ("b", "2"), (said, "1")])
    assert score(questions, answers, "vqa").metrics["accuracy"] == 100


@pytest.mark.parametrize(
    ("held", "said"), [("1", "1.0"), ("1.0", "1"), ("007", "7"), ("7", " 007 "), ("\u00e9", "e\u0301"), ("q-1", "q-1")]
)
def test_an_id_is_the_same_however_programs_write_it(held: str, said: str, tmp_path: Path) -> None:
    rows = [("qnr", "image", "question", "answer"), (held, "a", "?", "1"), ("x", "a", "?", "2")]
    table = write_csv(tmp_path / "t.csv", rows)
    answers = write_csv(tmp_path / "p.csv", [("qnr", "answer"), ("x", "2"), (said, "1")])
    assert score(table, answers, "vqa", ["id=qnr"]).metrics["accuracy"] == 100


def test_ids_that_differ_by_their_spelling_alone_stay_apart(tmp_path: Path) -> None:
    rows = [("7", "1"), ("007", "2"), ("7.0", "3")]
    table = write_csv(tmp_path / "t.csv", [("id", "image", "question", "answer"), *((i, "a", "?", g) for i, g in rows)])
    said = write_csv(tmp_path / "p.csv", [("id", "answer"), *reversed(rows)])
    assert score(table, said, "vqa").metrics["accuracy"] == 100


def test_an_index_names_rows_only_where_the_table_has_one(tmp_path: Path) -> None:
    rows = [("image", "question", "answer"), ("a", "?", "1"), ("b", "?", "2")]
    said = write_csv(tmp_path / "p.csv", [("index", "prediction"), ("5", "1"), ("6", "2")])
    table = write_csv(tmp_path / "t.csv", [("index", *rows[0]), ("5", *rows[1]), ("6", *rows[2])])
    assert score(table, said, "vqa").metrics["accuracy"] == 100
    with pytest.raises(
        InputError, match="does not name its item"
    ):  # rows are counted from 1 here, and by pandas from 0
        score(write_csv(tmp_path / "t.csv", rows), said, "vqa")


def test_one_id_with_two_questions_can_be_left_out(tmp_path: Path) -> None:
    rows = [
        ("id", "image", "question", "answer"),
        ("1", "a", "?", "1"),
        ("1", "a", "other?", "2"),
        ("2", "a", "?", "2"),
    ]
    table = write_csv(tmp_path / "t.csv", rows)
    said = write_csv(tmp_path / "p.csv", [("id", "answer"), ("1", "1"), ("2", "2")])
    result = score(table, said, "vqa", allow_missing=True)
    assert result.metrics["accuracy"] == 100 and result.fingerprint["rows_left_out"] == 1


PREDICTIONS = {
    "utf-16": (
        "p.jsonl",
        '{"id": 1, "answer": "\u00e9"}'.encode("utf-16"),
        "the file is in UTF-16: save the file as UTF-8",
    ),
    "latin-1": (
        "p.json",
        '[{"id": 1, "answer": "caf\u00e9 au lait"}]'.encode("latin-1"),
        "seems to be in Windows-1252",
    ),
    "gzip": ("p.json", b"\x1f\x8b\x08\0", "the file is compressed: unpack it"),
    "ending gz": ("p.csv.gz", b"\x1f\x8b\x08\0", "unpack it"),
    "spreadsheet": ("p.xlsx", b"PK\3\4", "is a spreadsheet: save it as CSV"),
    "text": ("p.txt", b"id,answer\n1,2\n", "a table has the ending .csv, .tsv or .parquet"),
    "line": (
        "p.jsonl",
        b'{"id": 1, "answer": "x"}\n{"id": 2, "answer":\n{"id": 3}\n',
        "p.jsonl, line 2 is not valid JSON",
    ),
    "cells": ("p.csv", b"id,answer\n1,2,3\n", "line 2 has 3 cells.*; none of the file's rows can be used: correct it"),
}


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_predictions_that_cannot_be_read_say_what_to_do(kind: str, tmp_path: Path) -> None:
    name, content, says = PREDICTIONS[kind]
    (tmp_path / name).write_bytes(content)
    table = write_csv(tmp_path / "t.csv", [("image", "question", "answer"), ("a", "?", "1")])
    with pytest.raises(InputError, match=says):
        score(table, tmp_path / name, "vqa")


def test_a_folder_in_place_of_a_file_is_told(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "t.csv", [("image", "caption"), ("a", "1")])
    with pytest.raises(InputError, match="is a folder; name the file in it"):
        score(table, tmp_path, "caption")
    with pytest.raises(InputError, match=r"is a folder; name the table in it, or several as .*\*.parquet in quotes"):
        own_table(tmp_path, "caption", "de", ())


def test_the_right_option_may_be_spelled_otherwise_where_that_is_clear(tmp_path: Path) -> None:
    head = ("id", "image", "question", "A", "B", "C", "answer")
    for options, gold, place in [(("Caf\u00e9", "dog", "cat"), "cafe\u0301", 0), (("Dog", "Cat", "cow"), "CAT", 1)]:
        table = write_csv(tmp_path / "t.csv", [head, ("1", "a", "?", *options, gold)])
        (item,) = own_table(table, "choice", "de", ()).read(table, "de")
        assert item.gold == options[place]
    unclear = write_csv(tmp_path / "t.csv", [head, ("1", "a", "?", "dog", "DOG", "cat", "Dog")])
    with pytest.raises(InputError, match="not one of the 3 options"):
        own_table(unclear, "choice", "de", ())


def _in_languages(folder: Path, name: str = "language") -> tuple[Path, Path]:
    rows = [
        ("a", "sw", "mbwa"),
        ("a", "de", "Hund"),
        ("b", "Swahili", "paka"),
        ("b", "de", "Katze"),
        ("c", "Klingon", "x"),
    ]
    table = write_csv(folder / "t.csv", [("image", name, "caption"), *rows])
    said = write_csv(folder / "p.csv", [("image", name, "prediction"), *rows[:-1]])
    return table, said


@pytest.mark.parametrize("name", ["language", "Language", "lang", "language_code"])
def test_only_rows_in_the_language_are_taken_where_the_rows_name_theirs(name: str, tmp_path: Path) -> None:
    table, said = _in_languages(tmp_path, name)
    result = score(table, said, "caption", language="sw")
    assert result.n == 2 and result.metrics["Bleu_1"] == pytest.approx(1) and result.fingerprint["rows_of_others"] == 3
    assert result.fingerprint["remark"] == (
        f"rows in other languages, left out by the column {name!r}: 'de' 2, 'Klingon' 1"
    )
    named = score(table, said, "caption", [f"language={name}"], language="sw")
    assert (named.n, named.metrics) == (2, result.metrics) and "remark" not in named.fingerprint
    done = CliRunner().invoke(app, ["eval", str(said), "--table", str(table), "--task", "caption", "--language", "sw",
                                    "--to", str(tmp_path / "run"), "--json"])  # fmt: skip
    assert json.loads(done.stdout)[0]["metrics"]["CIDEr"] == result.metrics["CIDEr"]
    with pytest.raises(
        InputError, match=r"no rows in 'fr': its column .* says 'de' 2, 'sw' 1, 'Swahili' 1, 'Klingon' 1"
    ):
        score(table, said, "caption", language="fr")
    everything = own_table(table, "caption", "sw", ["language="])
    assert [item.gold for item in everything.read(table, "sw")] == [("mbwa", "Hund"), ("paka", "Katze"), ("x",)]


def test_a_row_that_names_no_language_is_told_of(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "t.csv", [("image", "language", "caption"), ("a", "sw", "mbwa"), ("b", "", "paka")])
    with pytest.raises(
        InputError, match="row 2: 'language' is blank; name the row's language, or take rows in any with"
    ):
        own_table(table, "caption", "sw", ())
    assert len(own_table(table, "caption", "sw", (), allow_missing=True).read(table, "sw")) == 1


def test_a_remark_on_rows_left_out_stands_beside_one_on_spelling(tmp_path: Path) -> None:
    table = write_csv(
        tmp_path / "t.csv",
        [("image", "question", "answer", "lang"), ("a", "q", "caf\u00e9", "fr"), ("b", "q", "no", "en")],
    )
    said = write_csv(tmp_path / "p.csv", [("id", "answer"), ("1", "cafe\u0301")])
    remark = score(table, said, "vqa", language="fr").fingerprint["remark"]
    assert remark.startswith("rows in other languages, left out by the column 'lang': 'en' 1; ") and "nfc" in remark


def _struct(count: int) -> list[dict[str, Any]]:
    return [{"bytes": picture(n), "path": f"p{n}.png"} for n in range(count)]


def test_shipped_recipes_read_the_layouts_that_are_documented(tmp_path: Path) -> None:
    for folder in (
        "cvqa/data", "xmmmu/data", "mtvqa", "multi30k", "image_pairs", "flickr30k/images", "m3exam/data", "babel-imagenet",
    ):  # fmt: skip
        (tmp_path / folder).mkdir(parents=True)
    two = {"image": _struct(2), "ID": ["1", "2"], "Question": ["q", "r"], "Options": [["x", "y"]] * 2, "Label": [1, 0]}
    for part, subsets in enumerate((["('Japanese', 'Japan')", "('Irish', 'Ireland')"], ["('Irish', 'Ireland')"] * 2)):
        pq.write_table(pa.table({**two, "Subset": subsets}), tmp_path / f"cvqa/data/test-{part}.parquet")
    university = {
        "image_1": _struct(2), "image_2": [_struct(1)[0], None], "question": ["<image 1> q", "r"],
        "options": ["['x', 'y']"] * 2, "answer": ["A", "B"],
        "question_type": ["multiple-choice", "multiple-choice"], "id": ["1", "2"],
    }  # fmt: skip
    pq.write_table(pa.table(university), tmp_path / "xmmmu/data/hi-00000-of-00001.parquet")
    said = base64.b64encode(picture(1)).decode()
    rows = [
        ("index", "image", "question", "answer", "category"),
        (0, said, "q", "Ja", "DE"),
        (1, said, "r", "Si", "IT"),
    ]
    write_csv(tmp_path / "mtvqa/MTVQA_TEST.tsv", rows, delimiter="\t")
    write_csv(tmp_path / "multi30k/test_2016_flickr.cs.tsv", [("image", "caption"), ("1.jpg", "Pes")], delimiter="\t")
    write_csv(
        tmp_path / "image_pairs/sw.csv",
        [("left_img", "right_img", "caption", "label"), ("l.png", "r.png", "Mbwa", "True")],
    )
    exam = {
        "question_text": ["(image)[image-0.jpg] q", "r", "s"], "background_description": [[], ["One.", "Two."], []],
        "answer_text": ["\u0e52", "1", "3"], "need_image": ["yes"] * 3,
        "options": [["\u0e51. 24", "\u0e52. 22"], ["(1) x", "(2) (image)[image-1.png]"], ["1.x", "2.y", "3.z", "nan"]],
        "image_ids": [["image-0.jpg"], ["image-0.jpg", "image-1.png"], ["image-2.png"]],
        "images": [_struct(1), _struct(2), _struct(1)],
    }  # fmt: skip
    pq.write_table(pa.table(exam), tmp_path / "m3exam/data/thai-00000-of-00001.parquet")
    asked = "Which of these choices is shown in the image?\nChoices:\nA. hund\nB. katt\nAnswer with the letter."
    row = {"context": [asked], "label": [""], "text_label": "B", "image_id": "n02123045/ILSVRC2012_val_00000001.JPEG"}
    (tmp_path / "babel-imagenet/mc_bin_no_8.json").write_text(json.dumps([row]))
    counts = {}
    for suite, language in (
        ("cvqa", "ja"),
        ("xmmmu", "hi"),
        ("mtvqa", "de"),
        ("multi30k", "cs"),
        ("image_pairs", "sw"),
        ("m3exam", "th"),
        ("bin_mc", "no"),
    ):
        recipe = load_suite([suite]).model_copy(update={"languages": (language,)})
        (benchmark,) = read_tables(recipe, tmp_path)
        items = benchmark.read(tmp_path, language)
        counts[suite] = [(len(item.images), item.gold) for item in items]
    assert counts == {
        "cvqa": [(1, "y")], "xmmmu": [(2, "x"), (1, "y")], "mtvqa": [(1, ("Ja",))], "multi30k": [(1, ("Pes",))],
        "image_pairs": [(2, ("yes",))], "m3exam": [(1, "22"), (2, "x"), (1, "z")], "bin_mc": [(1, ("B",))],
    }  # fmt: skip
    (exams,) = read_tables(load_suite(["m3exam"]).model_copy(update={"languages": ("th",)}), tmp_path)
    (task,) = load_tasks([exams], tmp_path)
    assert [item.asked.partition("\n1")[0] for item in task.items][1].startswith("One.\nTwo.\nr\nA. x\nB. (image)")
    assert all(task.pictures.get(key).size == (24, 24) for item in task.items for key in item.images)
    (choices,) = read_tables(load_suite(["bin_mc"]).model_copy(update={"languages": ("no",)}), tmp_path)
    (item,) = choices.read(tmp_path, "no")
    assert choices.prompt.format(text=item.text) == asked  # nothing around it


def test_a_table_in_several_files_is_one_with_the_pictures_of_each(tmp_path: Path) -> None:
    for part in range(2):
        images = [{"bytes": picture(part), "path": f"{part}.png"}]
        pq.write_table(pa.table({"image": images, "caption": [f"Hund {part}"]}), tmp_path / f"t-{part}.parquet")
    section = table_section(tmp_path / "t-*.parquet", "caption", "de", ())
    (found,) = evaluate("dummy", EvalRecipe(title="t", tables=(section,)), tmp_path, tmp_path / "run")
    assert (found.n, found.fingerprint["data"]) == (2, "t-0.parquet to t-1.parquet")
    assert set(read_predictions(tmp_path / "run", found.benchmark, "de")) == {"0.png", "1.png"}
    (benchmark,) = read_tables(EvalRecipe(title="t", tables=(section,)), tmp_path)
    (task,) = load_tasks([benchmark], tmp_path)
    pixels = [task.pictures.get(item.images[0]).getpixel((0, 0)) for item in task.items]
    assert pixels == [(0, 90, 30), (70, 90, 30)]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "parts", "captions", "choice"])
def test_a_missing_picture_is_named_with_the_row_that_names_it(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(1))
    rows = [{"image": name, "question": f"q{name}", "answer": "x"} for name in ("a.png", "a.png", "b.png", "c.png")]
    table, task = tmp_path / f"t.{kind}", "vqa"
    named = f"{table}, row 3"
    if kind == "csv":
        write_csv(table, [list(rows[0]), *(list(row.values()) for row in rows)])
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), table)
    elif kind == "parts":
        table = tmp_path / "t-*.jsonl"
        lines(tmp_path / "t-0.jsonl", rows[:2])
        named = f"{lines(tmp_path / 't-1.jsonl', rows[2:])}, row 1"
    elif kind == "choice":
        lines(table, [{**row, "options": ["x", "y"], "id": f"q-{n}"} for n, row in enumerate(rows)])
        table, task = table.rename(tmp_path / "t.jsonl"), kind
        named = f"{table}, row 3"
    elif kind == "captions":
        table, task = lines(tmp_path / "t.jsonl", [{"image": row["image"], "caption": "x"} for row in rows]), "caption"
        named = f"{table}, row 3"
    else:
        lines(table, rows)
    recipe = EvalRecipe(title="t", tables=(table_section(table, task, "de", ()),))
    told = f"lacks 2 of its 3 images, such as 'b.png' (named by {named}; looked in {tmp_path})"
    with pytest.raises(InputError, match=re.escape(told)):
        evaluate("dummy", recipe, tmp_path, tmp_path / "run")


def test_a_path_with_backslashes_says_what_to_write(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.png").write_bytes(picture(1))
    table = lines(tmp_path / "t.jsonl", [{"image": "sub\\a.png", "caption": "x"}])
    recipe = EvalRecipe(title="t", tables=(table_section(table, "caption", "de", ()),))
    with pytest.raises(InputError, match=r"looked in .*; its path has a backslash: write 'sub/a\.png'\); name"):
        evaluate("dummy", recipe, tmp_path, tmp_path / "run")


def test_a_recipe_of_tables_names_what_is_missing(tmp_path: Path) -> None:
    recipe = load_suite(["cvqa"])
    with pytest.raises(
        InputError, match=r"there is no table .*test-\*\.parquet \(https://huggingface.co/datasets/afaji"
    ):
        read_tables(recipe, tmp_path)
    assert read_tables(recipe.model_copy(update={"languages": ("de",), "benchmarks": ("xgqa",)}), tmp_path) == []
    with pytest.raises(InputError, match="no table is in de; the tables are in id, su"):
        read_tables(recipe.model_copy(update={"languages": ("de",)}), tmp_path)
