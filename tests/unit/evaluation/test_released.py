"""Evaluation files of the released data set give the items and scores that the benchmarks' own files give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mblip.errors import InputError
from mblip.evaluation.benchmarks import find_benchmark
from mblip.evaluation.scoring import score_predictions


def _row(context: str, gold: Any, image: Any = "1.jpg", **more: Any) -> dict[str, Any]:
    return {"context": context, "label": "", "image_id": image, "text_label": gold, **more}


FILES: dict[str, tuple[str, str, list[dict[str, Any]], list[str]]] = {
    "xgqa": ("xgqa/xgqa_input_test_de.json", "de", [_row("Ist da ein Hund?", "yes"), _row("Was?", "ball")], ["yes", "a ball"]),
    "xvnli": ("xvnli/xvnli_input_test_fr.json", "fr", [_row("Il lit.", "yes"), _row("Il dort.", "maybe")], ["yes", "no"]),
    "marvl": (
        "marvl/marvl_test_sw.json", "sw",
        [
            {"context": "Mbwa", "image_id_1": "l.jpg", "image_id_2": "r.jpg", "text_label": "True", "language": "sw"},
            _row("Paka", "False", ["l.jpg", "q.jpg"]),
        ],
        ["yes", "yes"],
    ),
    "maxm": ("maxm/maxm_fr_test.json", "fr", [_row("Qui ?", ["chat", "un chat"]), _row("Quoi ?", ["lit"])], ["un chat", "x"]),
    "pope_random": ("hallucinations/pope_random.json", "en", [_row("A dog?", "yes"), _row("A cat?", "no")], ["Yes.", "yes"]),
    "chair_short": ("hallucinations/chair.json", "en", [_row("Caption:", ["dog"], "1.jpg"), _row("Caption:", ["cat"], "2.jpg")],
                    ["a dog", "a dog"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_released_file_is_found_and_scored_like_the_benchmarks_own(name: str, tmp_path: Path) -> None:
    place, language, rows, said = FILES[name]
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(rows), encoding="utf-8")
    answers = tmp_path / "answers.jsonl"
    keys = [{"image": r["image_id"]} if name.startswith("chair") else {"id": n} for n, r in enumerate(rows, start=1)]
    answers.write_text(
        "".join(json.dumps({**key, "answer": text}) + "\n" for key, text in zip(keys, said, strict=True))
    )
    benchmark = find_benchmark(name)
    for data, asked in ((tmp_path, language), (path, "")):  # by folder, and by file, whose name tells the language
        score, scored = score_predictions(benchmark, data, answers, asked)
        assert (score.language, score.n) == (language, 2)
        if "accuracy" in score.metrics:
            assert score.metrics["accuracy"] == 50.0
        else:
            assert score.metrics["chair_s"] == 0.5
    assert [item.text for item in scored.items] == [row["context"] for row in rows]
    assert len(scored.items[0].images) == (2 if name == "marvl" else 1)


def test_the_captions_of_the_released_set_are_cocos_layout(tmp_path: Path) -> None:
    coco = {"images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}],
            "annotations": [{"image_id": 7, "caption": "Mbwa mweusi"}, {"image_id": 8, "caption": "Paka mdogo"}]}  # fmt: skip
    (tmp_path / "xm3600").mkdir()
    (tmp_path / "flickr").mkdir()
    (tmp_path / "xm3600" / "xm3600_coco_sw.json").write_text(json.dumps(coco))
    (tmp_path / "flickr" / "xflickrco_coco_de.json").write_text(json.dumps(coco))
    (tmp_path / "xm3600" / "xm3600_sw.json").write_text(json.dumps([_row("Swahili", "sw")]))
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"image": "a.jpg", "caption": "Mbwa mweusi"}\n{"image": "b.jpg", "caption": "Mbwa"}\n')
    for name, language in (("xm3600", "sw"), ("xflickrco", "de")):
        score, _ = score_predictions(find_benchmark(name), tmp_path, answers, language)
        assert score.n == 2 and score.metrics["CIDEr"] > 0
    with pytest.raises(InputError, match="give the file beside it that has _coco_ in its name"):
        score_predictions(find_benchmark("captions"), tmp_path / "xm3600" / "xm3600_sw.json", answers, "sw")


BAD = {
    "xgqa": ([_row("Q?", 3)], "'text_label', which should be a text"),
    "xvnli": ([_row("Q", "perhaps")], "should be yes, no, maybe"),
    "maxm": ([_row("Q?", [])], "must be a list of texts"),
    "marvl": ([_row("Q", "True", language="tr")], "is in 'tr', not in 'sw'"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_row_that_cannot_be_used_is_named(name: str, tmp_path: Path) -> None:
    rows, told = BAD[name]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    (tmp_path / "answers.jsonl").write_text('{"id": 1, "answer": "x"}\n')
    language = {"marvl": "sw", "xgqa": "de", "xvnli": "fr", "maxm": "fr"}[name]
    with pytest.raises(InputError, match=rf"record 1.*{told}"):
        score_predictions(find_benchmark(name), tmp_path / "data.json", tmp_path / "answers.jsonl", language)
