"""The metrics against pycocoevalcap on generated captions, and against the official scorers on real files."""

from __future__ import annotations

import contextlib
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mblip.evaluation.benchmarks import BENCHMARKS
from mblip.evaluation.metrics.ngrams import score_captions
from mblip.evaluation.metrics.ptb_tokenizer import tokenize
from mblip.evaluation.scoring import score_predictions

ACCURACY = 1e-9


@pytest.mark.parametrize("seed", range(6))
def test_captions_equal_pycocoevalcap_image_by_image(seed: int) -> None:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    rng = random.Random(seed)
    words = ["a", "dog", "cat", "the", "runs", "1\xa01/2", "on", "red", "猫", "-lrb-"][: rng.randint(2, 10)]
    images = [1, 2, 7, 60, 150, 300][seed]

    def caption(most: int = 14) -> str:
        return " ".join(rng.choice(words) for _ in range(rng.randint(0, most)))

    references = [[caption() for _ in range(rng.randint(1, 7))] for _ in range(images)]
    hypotheses = [rng.choice(refs) if rng.random() < 0.3 else caption(20) for refs in references]
    theirs: dict[str, tuple[Any, Any]] = {}
    gts, res = dict(enumerate(references)), {image: [text] for image, text in enumerate(hypotheses)}
    with contextlib.redirect_stdout(io.StringIO()):
        bleu, per_image = Bleu(4).compute_score(gts, res)
    theirs.update({f"Bleu_{n}": (bleu[n - 1], per_image[n - 1]) for n in (1, 2, 3, 4)})
    theirs["ROUGE_L"], theirs["CIDEr"] = Rouge().compute_score(gts, res), Cider().compute_score(gts, res)
    ours = score_captions(hypotheses, references)
    for name, (total, values) in theirs.items():
        assert ours.total[name] == pytest.approx(total, abs=ACCURACY), name
        assert np.allclose(ours.per_image[name], values, rtol=0, atol=ACCURACY), name


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_example_of_coco_caption(bench: Path) -> None:
    gold = read(bench / "_gold/coco_caption_fakecap.json")
    score, scored = score_predictions(
        BENCHMARKS["captions"],
        bench / "_derived/coco/captions_val2014.fakecap1000.json",
        bench / "tylin__coco-caption/results/captions_val2014_fakecap_results.json",
    )
    assert score.n == 1000
    assert score.metrics == {
        name: pytest.approx(value, abs=ACCURACY)
        for name, value in gold["recomputed"].items()
        if name in ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr")
    }
    counts = ("reflen", "testlen", "guess", "correct")
    assert score.fingerprint["bleu"] == {name: gold["stated"][name] for name in counts}
    rows = {str(row["image_id"]): row for row in read_lines(bench / "_gold/coco_caption_fakecap.per_image.jsonl")}
    assert len(rows) == len(scored.items) == 1000
    for name, values in scored.per_item.items():
        expected = [rows[item.id][name] for item in scored.items]
        assert np.allclose(values, expected, rtol=0, atol=ACCURACY), name


def test_the_tokens_of_coco_caption(bench: Path) -> None:
    results = read(bench / "tylin__coco-caption/results/captions_val2014_fakecap_results.json")
    rows = {row["image_id"]: row["res"] for row in read_lines(bench / "_gold/coco_caption_fakecap.tokenized.jsonl")}
    assert {row["image_id"]: tokenize(row["caption"]) for row in results} == rows


@pytest.mark.parametrize(
    ("place", "language", "segmenter"), [(0, "en", "none"), (1, "de", "none"), (2, "ja", "characters")]
)
def test_xflickrco(bench: Path, tmp_path: Path, place: int, language: str, segmenter: str) -> None:
    gold = list(read(bench / "_gold/xflickrco_captioning.json")["scores"].values())[place]
    iglue = bench / "e-bug__iglue/datasets/xFlickrCO"
    if language == "en":
        rows = read_lines(iglue / "annotations_machine-translate/de/test_gmt.jsonl")
        captions = [{"image_id": row["img_path"], "caption": row["sentences"][0]} for row in rows]
    else:
        captions = read(bench / "_gold/xflickrco_captioning.hyps.json")[language]
    wanted = {row["image_id"] for row in captions}
    data, predictions = tmp_path / language / "test.jsonl", tmp_path / "predictions.json"
    data.parent.mkdir()
    rows = [row for row in read_lines(iglue / f"annotations/{language}/test.jsonl") if row["img_path"] in wanted]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    predictions.write_text(json.dumps(captions), encoding="utf-8")
    score, _ = score_predictions(BENCHMARKS["captions"], data, predictions, language, segmenter=segmenter)
    assert score.n == gold.pop("n")
    assert {name: score.metrics[name] for name in gold} == {n: pytest.approx(v, abs=ACCURACY) for n, v in gold.items()}


@pytest.mark.parametrize("language", ["en", "de"])
def test_xgqa(bench: Path, language: str) -> None:
    gold = read(bench / "_gold/xgqa_uc2_zero_shot.json")["scores"][language]
    data = bench / "e-bug__iglue/datasets/gqa/annotations/testdev.json"
    predictions = bench / f"e-bug__iglue/results/xgqa/zero_shot/uc2/test_{language}_0_result.json"
    raw, _ = score_predictions(BENCHMARKS["xgqa"], data, predictions, language)
    normalized, _ = score_predictions(BENCHMARKS["xgqa"], data, predictions, language, "mblip")
    original = gold["mblip_classification_evaluation(vqa_process=True)"]
    assert raw.n == normalized.n == gold["total"] == 9666
    assert raw.metrics["accuracy"] == pytest.approx(gold["stated_in_xGQA_0.csv"], abs=ACCURACY)
    assert normalized.metrics["accuracy"] == pytest.approx(100 * original["acc"], abs=ACCURACY)
    assert normalized.metrics["relaxed"] == pytest.approx(original["relaxed_acc"], abs=ACCURACY)


def test_xgqa_in_its_own_layout(bench: Path, tmp_path: Path) -> None:
    data = bench / "e-bug__iglue/datasets/xGQA/annotations/few_shot/de/dev.json"
    gold = {number: row["answer"] for number, row in read(data).items()}
    predictions = tmp_path / "p.json"
    predictions.write_text(json.dumps([{"questionId": n, "prediction": a} for n, a in gold.items()]))
    score, _ = score_predictions(BENCHMARKS["xgqa"], data, predictions)
    assert (score.language, score.n, score.metrics["accuracy"]) == ("de", 1422, 100)


@pytest.mark.parametrize(("variant", "rows", "right"), [("mblip", 1150, 394), ("iglue", 1164, 394)])
@pytest.mark.parametrize("language", ["ar", "en", "fr"])
def test_xvnli(bench: Path, tmp_path: Path, language: str, variant: str, rows: int, right: int) -> None:
    data = bench / f"e-bug__iglue/datasets/XVNLI/annotations/{language}/test.jsonl"
    predictions = tmp_path / "p.jsonl"
    ids = [row["pairID"] for row in read_lines(data)]
    predictions.write_text("".join(json.dumps({"id": name, "answer": "Yes"}) + "\n" for name in ids))
    score, _ = score_predictions(BENCHMARKS["xvnli"], data, predictions, variant=variant)
    assert (score.language, score.n) == (language, rows)
    assert score.metrics["accuracy"] == pytest.approx(100 * right / rows, abs=ACCURACY)


@pytest.mark.parametrize(
    ("path", "language", "rows"),
    [
        ("e-bug__iglue/datasets/marvl/zero_shot/annotations/marvl-id.jsonl", "id", 1128),
        ("e-bug__iglue/datasets/marvl/zero_shot/annotations/marvl-sw.jsonl", "sw", 1108),
        ("e-bug__iglue/datasets/nlvr2/annotations/dev.jsonl", "en", 200),
        ("lil-lab__nlvr/nlvr2/data/balanced/balanced_dev.json", "en", 300),
    ],
)
def test_marvl_and_nlvr2(bench: Path, tmp_path: Path, path: str, language: str, rows: int) -> None:
    data = read_lines(bench / path)
    predictions = tmp_path / "p.json"
    predictions.write_text(json.dumps({row.get("id", row.get("identifier")): "yes" for row in data}))
    score, _ = score_predictions(BENCHMARKS["marvl"], bench / path, predictions, language)
    true = sum(row["label"] in (True, "True") for row in data)
    assert (score.n, score.metrics["accuracy"]) == (rows, pytest.approx(100 * true / rows, abs=ACCURACY))


@pytest.mark.parametrize("split", ["random", "adversarial"])
def test_pope(bench: Path, split: str) -> None:
    gold = read(bench / "_gold/pope_scores.json")["scores"][split]
    score, _ = score_predictions(
        BENCHMARKS["pope"],
        bench / f"RUCAIBox__POPE/output/coco/coco_pope_{split}.json",
        bench / f"_gold/pope_answers_{split}.jsonl",
    )
    names = {"precision": "Precision", "recall": "Recall", "f1": "F1 score", "yes_ratio": "Yes ratio"}
    assert score.metrics["accuracy"] == 100 * gold["Accuracy"]
    assert {name: score.metrics[name] for name in names} == {name: gold[other] for name, other in names.items()}


def test_pope_seem_is_a_list(bench: Path, tmp_path: Path) -> None:
    data = bench / "RUCAIBox__POPE/output/seem/gqa/gqa_pope_seem_random.json"
    predictions = tmp_path / "p.jsonl"
    predictions.write_text("".join(json.dumps({"question": r["text"], "answer": "yes"}) + "\n" for r in read(data)))
    score, _ = score_predictions(BENCHMARKS["pope"], data, predictions)
    assert (score.metrics["accuracy"], score.metrics["recall"], score.metrics["yes_ratio"]) == (50, 1, 1)


@pytest.mark.parametrize("captions", ["Instruction1_instructblip.json", "Instruction2_llava.json"])
def test_chair(bench: Path, captions: str) -> None:
    gold = read(bench / "_gold/chair_scores.json")["scores"][f"RUCAIBox__POPE/caption_data/{captions}"]
    score, _ = score_predictions(
        BENCHMARKS["chair"],
        bench / "_derived/pope/coco_ground_truth_segmentation.json",
        bench / "RUCAIBox__POPE/caption_data" / captions,
    )
    assert score.n == gold["n"] == 2000
    assert (score.metrics["chair_s"], score.metrics["chair_i"]) == (gold["CHAIRs"], gold["CHAIRi"])
    assert score.metrics["recall"] == gold["Recall"]


@pytest.mark.parametrize(
    ("variant", "name", "scale"),
    [
        ("official_2021", "overall_official_2021", 1),
        ("official_pre2021", "overall_official_before_2021_fix(a013f00~1)", 1),
        ("mblip", "mblip_vqa_classification_evaluation", 100),
    ],
)
def test_vqa(bench: Path, variant: str, name: str, scale: float) -> None:
    gold = read(bench / "_gold/vqa_accuracy.json")["textvqa500"]
    score, scored = score_predictions(
        BENCHMARKS["vqa"],
        bench / "mlfoundations__open_flamingo/open_flamingo/eval/data/textvqa/val_annotations_vqa_format.json",
        bench / "_gold/vqa_textvqa500_results.json",
        variant=variant,
    )
    assert score.n == 500
    assert score.metrics["accuracy"] == pytest.approx(scale * gold[name], abs=ACCURACY)
    if variant == "official_2021":
        expected = gold["per_question_official_2021"]
        values = {item.id: 100 * value for item, value in zip(scored.items, scored.per_item["accuracy"], strict=True)}
        assert len(expected) > 100
        assert {number: values[number] for number in expected} == {n: pytest.approx(v) for n, v in expected.items()}
