"""Files of predictions as people have them: every form for every benchmark, one reader, nothing guessed silently."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests import evaluation_data as data
from typer.testing import CliRunner

from mblip.cli.app import app
from mblip.config import EvalRecipe
from mblip.errors import InputError
from mblip.evaluation.benchmarks import find_benchmark
from mblip.evaluation.evaluate import evaluate
from mblip.evaluation.scoring import score_predictions
from mblip.schema import Score

Rows = list[dict[str, Any]]

POPE = [{"question_id": n, "image": f"COCO_val2014_{n:012d}.jpg", "text": f"Is there a {word} in the image?", "label": label}
        for n, (word, label) in enumerate([("dog", "yes"), ("cat", "no"), ("car", "yes"), ("bus", "no")], start=1)]  # fmt: skip
ANSWERS = {"1": "yes", "2": "no", "3": "yes", "4": "no"}


def lines(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def whole(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def table(path: Path, rows: Rows, delimiter: str = ",", encoding: str = "utf-8") -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, rows[0].keys(), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def parquet(path: Path, rows: Rows) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def score(name: str, annotations: Path, predictions: Path, **options: Any) -> Score:
    result, _ = score_predictions(find_benchmark(name), annotations, predictions, **options)
    return result


FILES: dict[str, Callable[[Path, Rows], Path]] = {
    "JSON": lambda folder, rows: whole(folder / "p.json", rows),
    "JSON lines": lambda folder, rows: lines(folder / "p.jsonl", rows),
    "lines called .json": lambda folder, rows: lines(folder / "p.json", rows),
    "CSV": lambda folder, rows: table(folder / "p.csv", rows),
    "CSV of Excel": lambda folder, rows: table(folder / "p.csv", rows, encoding="utf-8-sig"),
    "TSV": lambda folder, rows: table(folder / "p.tsv", rows, "\t"),
    "Parquet": lambda folder, rows: parquet(folder / "p.parquet", rows),
    "no ending": lambda folder, rows: lines(folder / "p", rows),
    "wrapped": lambda folder, rows: whole(folder / "p.json", {"results": rows, "config": {"model": "m"}}),
}
FIELDS = [
    ("question_id", "answer"),
    ("question_id", "text"),
    ("questionId", "prediction"),
    ("id", "response"),
    ("Question ID", "Answer"),
    ("identifier", "output"),
    ("pairID", "pred"),
    ("id", "generated_text"),
    ("question_id", "caption"),
    ("QUESTION_ID", "LABEL"),
]


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize(("name", "answer"), FIELDS[:4])
def test_every_form_of_file(tmp_path: Path, kind: str, name: str, answer: str) -> None:
    annotations = lines(tmp_path / "coco_pope_random.json", POPE)
    predictions = FILES[kind](tmp_path, [{name: number, answer: text} for number, text in ANSWERS.items()])
    assert score("pope", annotations, predictions).metrics["accuracy"] == 100


VQA = {"annotations": [
    {"question_id": n, "image_id": n, "answers": [{"answer": text, "answer_id": k} for k in range(10)]}
    for n, text in ((5, "net"), (6, "2"))
]}  # fmt: skip
BENCHMARKS: dict[str, tuple[Any, dict[str, str]]] = {
    "pope": (POPE, ANSWERS),
    "xgqa": (
        {
            "1": {"question": "Rot?", "imageId": "n1", "answer": "yes"},
            "2": {"question": "Was?", "imageId": "n1", "answer": "ball"},
        },
        {"1": "yes", "2": "ball"},
    ),
    "vqa": (VQA, {"5": "net", "6": "2"}),
    "xvnli": (
        [
            {"gold_label": label, "sentence2": "x", "pairID": f"7.jpg#{n}", "Flikr30kID": "7"}
            for n, label in enumerate(["entailment", "neutral"])
        ],
        {"7.jpg#0": "yes", "7.jpg#1": "maybe"},
    ),
    "maxm": (
        {
            "annotations": [
                {"image_id": "a", "qa_pairs": [{"question_id": "q1", "question": "?", "processed_answers": ["chat"]}]}
            ]
        },
        {"q1": "chat"},
    ),
}


@pytest.mark.parametrize("benchmark", BENCHMARKS)
@pytest.mark.parametrize(("name", "answer"), FIELDS)
def test_the_same_names_for_all_benchmarks(tmp_path: Path, benchmark: str, name: str, answer: str) -> None:
    annotations, said = BENCHMARKS[benchmark]
    path = (
        lines(tmp_path / "data.json", annotations)
        if isinstance(annotations, list)
        else whole(tmp_path / "data.json", annotations)
    )
    predictions = table(tmp_path / "p.csv", [{name: number, answer: text} for number, text in said.items()])
    assert score(benchmark, path, predictions).metrics["accuracy"] == 100


def test_what_stands_beside_the_answer_is_not_taken_for_it(tmp_path: Path) -> None:
    annotations = lines(tmp_path / "coco_pope_random.json", POPE)
    rows = [
        {
            "question_id": row["question_id"],
            "answer": "no",
            "label": "no",
            "text": row["text"],
            "prediction": row["label"],
        }
        for row in POPE
    ]
    assert score("pope", annotations, lines(tmp_path / "p.jsonl", rows)).metrics["accuracy"] == 100
    marvl = [{"id": f"sw-{n}", "language": "sw", "concept": "c", "caption": "x", "left_img": "1.jpg", "right_img": "2.jpg",
              "label": label} for n, label in enumerate([True, "False", 1, "true"])]  # fmt: skip
    said = [{**row, "label": value} for row, value in zip(marvl, ["TRUE", 0, "1", True], strict=True)]
    assert (
        score("marvl", lines(tmp_path / "marvl-sw.jsonl", marvl), lines(tmp_path / "s.jsonl", said)).metrics["accuracy"]
        == 100
    )


@pytest.mark.parametrize("values", [
    [True, False], [1, 0], ["1", "0"], ["true", "FALSE"], ["Yes", "no."], [1.0, 0.0], ["yes", "No"],
])  # fmt: skip
@pytest.mark.parametrize("gold", [(True, False), (1, 0), ("True", "False"), ("yes", "no"), ("1", "0")])
def test_labels_as_truths_numbers_or_texts(tmp_path: Path, values: list[Any], gold: tuple[Any, Any]) -> None:
    rows = [{"identifier": f"dev-1-{n}-0", "sentence": "x", "label": label} for n, label in enumerate(gold)]
    said = [{"id": f"dev-1-{n}-0", "answer": value} for n, value in enumerate(values)]
    result = score("nlvr2", lines(tmp_path / "dev.jsonl", rows), lines(tmp_path / "p.jsonl", said))
    assert result.metrics["accuracy"] == 100 and result.metrics["unparsed"] == 0


def test_lmms_evals_samples(tmp_path: Path) -> None:
    annotations = lines(tmp_path / "coco_pope_random.json", POPE)
    by_order = [
        {"doc_id": n, "target": "x", "filtered_resps": [ANSWERS[str(n + 1)]], "doc_hash": "h"} for n in (2, 0, 3, 1)
    ]
    assert score("pope", annotations, lines(tmp_path / "a.jsonl", by_order)).metrics["accuracy"] == 100
    by_name = [
        {"doc_id": 9 - n, "doc": {"question_id": str(n), "answer": "gold"}, "resps": [[ANSWERS[str(n)]]]}
        for n in (1, 2, 3, 4)
    ]
    assert score("pope", annotations, lines(tmp_path / "b.jsonl", by_name)).metrics["accuracy"] == 100
    logs = {"model_configs": {}, "logs": by_name}
    assert score("pope", annotations, whole(tmp_path / "c.json", logs)).metrics["accuracy"] == 100


COCO = {
    "images": [{"id": 7, "file_name": "COCO_val2014_000000000007.jpg"}, {"id": 8, "file_name": "b.jpg"}],
    "annotations": [
        {"image_id": 7, "id": 1, "caption": "A dog runs."},
        {"image_id": 8, "id": 2, "caption": "A man holds a cat."},
    ],
}
CAPTIONED = [("photos/COCO_val2014_000000000007.jpg", "a dog runs"), ("photos/b.jpg", "a man holds a cat")]


@pytest.mark.parametrize("kind", ["JSON", "JSON lines", "CSV", "CSV of Excel", "Parquet"])
def test_our_own_captions(tmp_path: Path, kind: str) -> None:
    """``mblip caption`` names pictures by path and has all languages in one file; those of the language are taken."""
    rows = [
        {"image": image, "language": code, "caption": text if code == "en" else "x", "model": "m"}
        for image, text in CAPTIONED
        for code in ("de", "en", "sw")
    ]
    result = score("captions", whole(tmp_path / "captions_val2014.json", COCO), FILES[kind](tmp_path, rows))
    assert result.n == 2 and result.metrics["Bleu_1"] == pytest.approx(1)
    with pytest.raises(InputError, match="holds no predictions in 'ja'; it has de, en, sw"):
        score("captions", tmp_path / "captions_val2014.json", FILES[kind](tmp_path, rows), language="ja")


@pytest.mark.parametrize(
    "rows",
    [
        [{"image_id": 7, "caption": "a dog runs"}, {"image_id": 8, "caption": "a man holds a cat"}],
        [{"question_id": 7, "text": "a dog runs"}, {"question_id": 8, "text": "a man holds a cat"}],
        [
            {"image_id": "7", "prediction": "a dog runs"},
            {"image_id": "000000000008", "prediction": "a man holds a cat"},
        ],
        [
            {"question_id": 1, "image": "COCO_val2014_000000000007.jpg", "text": "a dog runs"},
            {"question_id": 2, "image": "b.jpg", "text": "a man holds a cat"},
        ],
        [
            {"file_name": "x/COCO_val2014_000000000007.png", "response": "a dog runs"},
            {"file_name": "b.jpg", "response": "a man holds a cat"},
        ],
    ],
)
def test_captions_name_their_picture_in_any_way(tmp_path: Path, rows: Rows) -> None:
    result = score("captions", whole(tmp_path / "c.json", COCO), lines(tmp_path / "p.jsonl", rows))
    assert result.n == 2 and result.metrics["ROUGE_L"] == pytest.approx(1)


def test_karpathys_flickr30k(tmp_path: Path) -> None:
    images = [{"imgid": n, "filename": f"1{n}.jpg", "split": "test" if n < 2 else "train",
               "sentences": [{"raw": text}]} for n, text in enumerate(["A dog runs.", "A cat sits.", "x"])]  # fmt: skip
    path = whole(tmp_path / "dataset_flickr30k.json", {"dataset": "flickr30k", "images": images})
    for rows in ([{"image_id": "10.jpg", "caption": "a dog runs"}, {"image_id": "11.jpg", "caption": "a cat sits"}],
                 [{"image_id": "10", "caption": "a dog runs"}, {"image_id": 11, "caption": "a cat sits"}]):  # fmt: skip
        assert score("captions", tmp_path, whole(tmp_path / "p.txt", rows)).metrics["Bleu_1"] == pytest.approx(1)
    assert path.exists()


def test_cider_over_one_image_says_that_it_is_0(tmp_path: Path) -> None:
    one = {"annotations": COCO["annotations"][:1]}
    result = score(
        "captions",
        whole(tmp_path / "c.json", one),
        whole(tmp_path / "p.json", [{"image_id": 7, "caption": "a dog runs"}]),
    )
    assert result.metrics["CIDEr"] == 0 and "0 by definition" in result.fingerprint["remark"]
    done = CliRunner().invoke(
        app, ["score", "captions", "--data", str(tmp_path / "c.json"), "--predictions", str(tmp_path / "p.json")]
    )
    assert "CIDEr over one image is 0 by definition" in done.output
    both = whole(tmp_path / "q.json", [{"image_id": 7, "caption": "a dog runs"}, {"image_id": 8, "caption": "x"}])
    assert "remark" not in score("captions", whole(tmp_path / "d.json", COCO), both).fingerprint


@pytest.mark.parametrize(("language", "gold", "said"), [
    ("fr", "caf\u00e9", "cafe\u0301"), ("hi", "लड\u093cका", "ल\u095cका"), ("th", "น\u0e49\u0e33", "น\u0e49\u0e4d\u0e32"),
    ("th", "น\u0e49\u0e33", "น\u0e4d\u0e49\u0e32"), ("th", "ค\u0e33", "ค\u0e4d\u0e32"), ("ro", "\u0219i", "s\u0326i"),
    ("iw", "\u05e9\u05c1\u05bc", "\u05e9\u05bc\u05c1"),
])  # fmt: skip
def test_maxm_in_one_unicode_spelling(tmp_path: Path, language: str, gold: str, said: str) -> None:
    assert gold != said
    rows = {
        "annotations": [
            {"image_id": "a", "qa_pairs": [{"question_id": "q", "question": "?", "processed_answers": [gold]}]}
        ]
    }
    paths = whole(tmp_path / f"maxm_v1_{language}.json", rows), whole(tmp_path / "p.json", {"q": said})
    as_mblip = score("maxm", *paths)
    assert as_mblip.metrics["accuracy"] == 0
    assert as_mblip.fingerprint["remark"].startswith("1 answer differs from a gold answer in Unicode spelling alone")
    result = score("maxm", *paths, variant="nfc")
    assert result.metrics["accuracy"] == 100 and "NFC" in result.fingerprint["normaliser"]
    assert "remark" not in result.fingerprint


def test_only_answers_that_another_spelling_makes_right_are_remarked_on(tmp_path: Path) -> None:
    golds, said = ["caf\u00e9", "th\u00e9", "caf\u00e9", "lait"], ["cafe\u0301", "th\u00e9", "the\u0301", "Lait"]
    pairs = [
        {"question_id": f"q{number}", "question": "?", "processed_answers": [gold]} for number, gold in enumerate(golds)
    ]
    data = whole(tmp_path / "maxm_v1_fr.json", {"annotations": [{"image_id": "a", "qa_pairs": pairs}]})
    answers = whole(tmp_path / "p.json", {f"q{number}": text for number, text in enumerate(said)})
    found = score("maxm", data, answers)
    assert found.metrics["accuracy"] == 50 and found.fingerprint["remark"].startswith("1 answer ")
    assert score("maxm", data, answers, variant="nfc").metrics["accuracy"] == 75
    right = whole(tmp_path / "r.json", {f"q{number}": gold for number, gold in enumerate(golds)})
    assert "remark" not in score("maxm", data, right).fingerprint


@pytest.mark.parametrize("files", [
    ("v2_mscoco_val2014_annotations.json", "v2_OpenEnded_mscoco_val2014_questions.json"),
    ("mscoco_val2014_annotations.json", "OpenEnded_mscoco_val2014_questions.json"),  # VQA v1, OK-VQA
    ("mscoco_val2014_annotations.json", "MultipleChoice_mscoco_val2014_questions.json"),
    ("Annotations/mscoco_val2014_annotations.json", "Questions/OpenEnded_mscoco_val2014_questions.json"),
    ("val_annotations_vqa_format.json", "val_questions_vqa_format.json"),
    ("abstract_v002_val2015_annotations.json", "OpenEnded_abstract_v002_val2015_questions.json"),
])  # fmt: skip
def test_questions_are_found_by_their_official_names(tmp_path: Path, files: tuple[str, str]) -> None:
    annotations, questions = (tmp_path / "data" / file for file in files)
    for path in (annotations, questions):
        path.parent.mkdir(parents=True, exist_ok=True)
    whole(annotations, VQA)
    whole(questions, {"questions": [{"question_id": n, "image_id": n, "question": f"What {n}?"} for n in (5, 6)]})
    assert [item.text for item in find_benchmark("vqa").read(find_benchmark("vqa").find(tmp_path, "en"), "en")] == [
        "What 5?",
        "What 6?",
    ]


def test_vizwiz_and_textvqa(tmp_path: Path) -> None:
    people = [{"answer": "soda", "answer_confidence": "yes"}] * 10
    vizwiz = [
        {"image": f"VizWiz_val_0000000{n}.jpg", "question": "What?", "answers": people, "answerable": 1}
        for n in range(2)
    ]
    (tmp_path / "Annotations").mkdir()
    whole(tmp_path / "Annotations/val.json", vizwiz)
    said = [{"image": row["image"], "answer": "soda"} for row in vizwiz]
    result = score("vqa", tmp_path, whole(tmp_path / "p.json", said))
    assert (result.metrics["accuracy"], result.n) == (100, 2)
    textvqa = {
        "dataset_type": "val",
        "data": [{"question_id": 34602, "image_id": "003a", "question": "Brand?", "answers": ["nokia"] * 10}],
    }
    path = whole(tmp_path / "TextVQA_0.5.1_val.json", textvqa)
    assert (
        score("vqa", path, whole(tmp_path / "q.json", [{"question_id": 34602, "answer": "nokia"}])).metrics["accuracy"]
        == 100
    )
    (item,) = find_benchmark("vqa").read(path, "en")
    assert (item.images, item.text) == (("003a.jpg",), "Brand?")
    with pytest.raises(InputError, match="record 1 is not a row of VQA, VizWiz or TextVQA"):
        find_benchmark("vqa").read(whole(tmp_path / "x.json", [{"a": 1}]), "en")


REASONED = [
    "<think>\n\n</think>\n\n{}",
    "<think>Not a no, no.</think>{}",
    "{}<|im_end|>",
    "\n{}",
    "<reasoning>no</reasoning> {}",
]


@pytest.mark.parametrize("form", REASONED)
def test_reasoning_in_files_is_taken_off(tmp_path: Path, form: str) -> None:
    annotations = lines(tmp_path / "coco_pope_random.json", POPE)
    rows = [{"question_id": number, "answer": form.format(text)} for number, text in ANSWERS.items()]
    result = score("pope", annotations, lines(tmp_path / "p.jsonl", rows))
    assert result.metrics["accuracy"] == 100 and "reasoning" in result.fingerprint["replies"]


@pytest.mark.parametrize("nothing", [None, "<think>It may be that"])
def test_rows_without_an_answer_are_named_or_counted(tmp_path: Path, nothing: str | None) -> None:
    annotations = lines(tmp_path / "coco_pope_random.json", POPE)
    rows = [{"question_id": number, "answer": nothing if number == "3" else text} for number, text in ANSWERS.items()]
    path = lines(tmp_path / "p.jsonl", rows)
    with pytest.raises(InputError, match=r"record 3 has no answer \(1 such row\).*--allow-missing"):
        score("pope", annotations, path)
    result = score("pope", annotations, path, allow_missing=True)
    assert (result.n, result.fingerprint["without_answer"]) == (3, 1)


_ONE, _TWO = '{"id": 1, "answer": "yes"}', '{"id": 2, "answer": "no"}'
BAD_ROWS = {
    "cells": ("p.csv", "question_id,answer\n1,yes\n2,no\n3,yes,more\n", "p.csv, line 4 has 3 cells"),
    "line": ("p.jsonl", f'{_ONE}\n{_TWO}\n{{"id": 3, "answer"\n', "line 3 is not valid"),
    "lines named json": ("p.json", f'{_ONE}\n{_TWO}\n{{"id": 3,', "the file is cut off"),
    "comma": ("p.jsonl", f'{_ONE}\n{{"id": 3, "answer": "yes",}}\n{_TWO}\n', "remove the comma"),
    "twice": ("p.jsonl", f'{_ONE}\n{{"id": 3, "id": 4, "answer": "no"}}\n{_TWO}\n', "line 2 has the name 'id' twice"),
    "text": ("p.json", f'[{_ONE}, "no", {_TWO}]', "record 2 is a text, not an object"),
    "list": ("p.json", f'[{_ONE}, {_TWO}, {{"id": 3, "answer": ["a", "b"]}}]', "record 3 needs a text as answer"),
    "no answer": ("p.json", f'[{_ONE}, {_TWO}, {{"id": 3}}]', "record 3 needs a text in one"),
    "no id": ("p.json", f'[{_ONE}, {{"answer": "no"}}, {_TWO}]', "record 2 names no item"),
    "odd id": ("p.json", f'[{_ONE}, {{"id": [3], "answer": "no"}}, {_TWO}]', "an identifier is a text or an integer"),
    "by order": ("p.json", '[{"answer": "yes"}, {"answer": "no"}, 7]', "record 3 is a number, not an object"),
    "other answer": ("p.csv", "question_id,answer\n3,no\n1,yes\n2,no\n3,yes\n", "record 4 is a second prediction for '3'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_row_that_cannot_be_used_is_refused_or_left_out_and_told(tmp_path: Path, kind: str) -> None:
    name, text, message = BAD_ROWS[kind]
    annotations = lines(tmp_path / "coco_pope_random.json", POPE[:3])
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=re.escape(message)):
        score("pope", annotations, tmp_path / name)
    right = {str(row["question_id"]): row["label"] for row in POPE[:3]}
    result = score("pope", annotations, tmp_path / name, allow_missing=True)
    assert result.n == 2 and result.metrics["accuracy"] == 50 * ((right["1"] == "yes") + (right["2"] == "no"))
    rows = 2 if kind == "other answer" else 1  # neither of two answers counts
    assert (result.fingerprint["predictions_left_out"], result.fingerprint["without_prediction"]) == (rows, 1)
    told = "1 row of the predictions was" if rows == 1 else "2 rows of the predictions were"
    assert result.fingerprint["remark"].startswith(f"{told} left out as unusable: ")
    assert message in result.fingerprint["remark"]


def test_rows_that_cannot_be_used_are_counted_together(tmp_path: Path) -> None:
    annotations = lines(tmp_path / "coco_pope_random.json", POPE)
    (tmp_path / "p.csv").write_text("question_id,answer\n1\n2,no,no\n3,yes\n")
    with pytest.raises(
        InputError, match=r"line 2 has 1 cell.*; 1 more row cannot be used; correct them, or leave them out"
    ):
        score("pope", annotations, tmp_path / "p.csv")
    result = score("pope", annotations, tmp_path / "p.csv", allow_missing=True)
    assert (result.n, result.fingerprint["predictions_left_out"]) == (1, 2)
    (tmp_path / "p.csv").write_text("question_id,answer\n1\n2,no,no\n")
    with pytest.raises(
        InputError, match=r"line 2 has 1 cell, but the header names 2 columns; none of the file's rows can be used"
    ):
        score("pope", annotations, tmp_path / "p.csv", allow_missing=True)


def test_an_answer_that_is_there_twice_counts_once_where_items_may_be_missing(tmp_path: Path) -> None:
    annotations = lines(tmp_path / "coco_pope_random.json", POPE[:2])
    (tmp_path / "p.csv").write_text("question_id,answer\n1,yes\n1,yes\n2,no\n")
    with pytest.raises(InputError, match="record 2 is a second prediction for '1'; remove one"):
        score("pope", annotations, tmp_path / "p.csv")
    result = score("pope", annotations, tmp_path / "p.csv", allow_missing=True)
    assert (result.n, result.fingerprint["predictions_repeated"]) == (2, 1)
    assert "remark" not in result.fingerprint and "predictions_left_out" not in result.fingerprint


@pytest.mark.parametrize("places", [(0, 2), (2, 0), (1, 2), (0, 3)])
def test_samples_keep_their_items_beside_one_that_cannot_be_used(tmp_path: Path, places: tuple[int, int]) -> None:
    annotations = lines(tmp_path / "coco_pope_random.json", POPE[:3])
    rows = [{"doc_id": place, "filtered_resps": [POPE[place]["label"]]} for place in places]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"doc_id": ')
    if 3 in places:
        with pytest.raises(InputError, match="the doc_id of the other rows does not say which item it belongs to"):
            score("pope", annotations, path, allow_missing=True)
        return
    result = score("pope", annotations, path, allow_missing=True)
    assert (result.n, result.metrics["accuracy"]) == (2, 100)


@pytest.mark.parametrize(("name", "text", "message"), [
    ("p.csv", "question_id,answer\n1,yes,more\n", "line 2 has 3 cells, but the header names 2 columns"),
    ("p.csv", "number,answer\n1,yes\n", "does not name its item in any of the fields .*question_id"),
    ("p.csv", "question_id,said\n1,yes\n", "needs a text in one of the fields"),
    ("p.csv", "", "is empty"),
    ("p.csv", "question_id,answer\n", "holds no predictions"),
    ("p.parquet", "no parquet", "damaged or not a Parquet file"),
    ("p.json", '{"1": ["yes"]}', "needs a text in one of the fields"),
])  # fmt: skip
def test_files_that_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    annotations = lines(tmp_path / "coco_pope_random.json", POPE)
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        score("pope", annotations, tmp_path / name)


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_an_evaluation_of_answers_needs_no_pictures_and_no_questions(tmp_path: Path, ending: str) -> None:
    root = tmp_path / "data"
    data.vqa(root)
    (root / "vqa/v2_OpenEnded_mscoco_val2014_questions.json").unlink()
    data.pope(root, {"coco_pope_random": "COCO_val2014_000000000007.jpg"})
    write = {
        ".json": whole,
        ".jsonl": lines,
        ".csv": table,
        ".tsv": lambda p, r: table(p, r, "\t"),
        ".parquet": parquet,
    }[ending]
    folder = tmp_path / "answers"
    folder.mkdir()
    write(folder / f"vqa-en{ending}", [{"question_id": 70, "answer": "dog"}, {"question_id": 71, "answer": "cat"}])
    write(folder / f"pope_random-en{ending}", [{"question_id": 1, "answer": "yes"}, {"question_id": 2, "answer": "no"}])
    scores = evaluate(str(folder), EvalRecipe(title="t", benchmarks=("vqa", "pope_random")), root, tmp_path / "out")
    assert [found.metrics["accuracy"] for found in scores] == [50, 100]
    alone = evaluate(
        str(folder / f"vqa-en{ending}"), EvalRecipe(title="t", benchmarks=("vqa",)), root, tmp_path / "alone"
    )
    assert alone[0].metrics["accuracy"] == 50


def test_rows_that_name_no_language_cost_no_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mblip.languages._hint", lambda *words: pytest.fail("a guess nobody reads"))
    asked = {"7": {"question": "Is it red?", "imageId": "n1", "answer": "yes", "language": "de", "isBalanced": True}}
    annotations = whole(tmp_path / "testdev.json", asked)
    for name, row in enumerate([{}, {"language": "natural"}]):
        answers = whole(tmp_path / f"{name}.json", [{"questionId": "7", "prediction": "yes", **row}])
        assert score("xgqa", annotations, answers, language="de").metrics["accuracy"] == 100
