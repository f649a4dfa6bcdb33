"""Real annotation files, a real (nano) model, generated pictures in place of the photos: from data to scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests import evaluation_data as data
from typer.testing import CliRunner

from mblip.cli.app import app
from mblip.evaluation.benchmarks import EVALUATED
from mblip.evaluation.results import read_items, read_predictions, read_run, read_scores
from mblip.evaluation.scoring import score_predictions

MODEL = "nano:nano-blip2-en"
IMAGES = 2
# What there is in real rows, with the number of items in the file.
REAL = {
    ("xgqa", "en"): 9_666,
    ("xvnli", "fr"): 1_164,
    ("xvnli", "ar"): 1_164,
    ("marvl", "sw"): 1_108,
    ("marvl", "id"): 1_128,
    ("nlvr2", "en"): 200,
    ("xflickrco", "ja"): 2_000,
    ("xflickrco", "de"): 2_000,
    ("vqa", "en"): 3,
    ("pope_random", "en"): 3_000,
    ("pope_adversarial", "en"): 3_000,
    ("pope_seem_gqa_random", "en"): 3_000,
    ("chair_short", "en"): 3_705,
    ("coco", "en"): 150,
}


@pytest.fixture(scope="module")
def root(bench: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Links to the real files, in the layouts that their makers publish, and pictures for the first images."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "iglue").symlink_to(bench / "e-bug__iglue/datasets")
    (folder / "pope").symlink_to(bench / "RUCAIBox__POPE/output")
    (folder / "vqa").symlink_to(bench / "allenai__allennlp-models/test_fixtures/vision/vqav2")
    (folder / "segmentation").symlink_to(bench / "_derived/pope")
    (folder / "karpathy").mkdir()
    (folder / "karpathy/dataset_coco.json").symlink_to(bench / "_derived/coco/dataset_coco.sample400.json")
    for name, code in REAL:
        data.pictures(folder, EVALUATED[name], code, IMAGES)
    # No real row of these is at hand; the layout is theirs.
    data.xm3600(folder)
    data.maxm(folder)
    data.babel_imagenet(folder)
    for name, code in (("xm3600", "sw"), ("xm3600", "iw"), ("maxm", "fr")):
        data.pictures(folder, EVALUATED[name], code)
    return folder


def evaluate(root: Path, to: Path, *options: str) -> list[dict[str, object]]:
    command = ["eval", MODEL, "--data", str(root), "--to", str(to), "--limit", str(IMAGES), "--json", *options]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


def test_each_benchmark_end_to_end(root: Path, tmp_path: Path) -> None:
    wanted = [*REAL, ("xm3600", "sw"), ("xm3600", "iw"), ("maxm", "fr"), ("babel_imagenet", "de")]
    by_language: dict[str, list[str]] = {}
    for name, code in wanted:
        by_language.setdefault(code, []).append(name)
    for code, names in by_language.items():
        evaluate(root, tmp_path, "--suite", *names, "--languages", code)
    scores = {(score.benchmark, score.language): score for score in read_scores(tmp_path)}
    assert set(scores) == set(wanted)
    assert read_run(tmp_path).kind == "mblip"
    for (name, code), score in scores.items():
        benchmark = EVALUATED[name]
        answers = read_predictions(tmp_path, name, code)
        items = read_items(tmp_path, name, code)
        assert score.fingerprint["items_in_data"] == REAL.get((name, code), score.fingerprint["items_in_data"])
        assert dict(benchmark.decoding).items() <= score.fingerprint["decoding"].items()
        assert 0 < score.n == len(items) <= len(answers)
        assert len({images for item in items if (images := item.images)}) <= IMAGES
        assert all(row.prompt for row in answers.values())
        assert any(row.answer for row in answers.values())
        for metric, (low, high) in score.ci95.items():
            value = score.language_fidelity if metric == "language_fidelity" else score.metrics[metric]
            assert value is not None and low <= value + 1e-9 and value - 1e-9 <= high
        # The official way over the same predictions gives the same.
        file = tmp_path / f"predictions/{name}-{code}.jsonl"
        again, _ = score_predictions(benchmark, benchmark.find(root, code), file, code, allow_missing=True)
        assert (again.metrics, again.n) == (score.metrics, score.n)


def test_the_likeliest_of_yes_no_and_maybe(root: Path, tmp_path: Path) -> None:
    (score,) = evaluate(root, tmp_path, "--suite", "xvnli", "--languages", "fr", "--candidates")
    assert score["protocol"] == "candidates" and score["metrics"]["unparsed"] == 0  # type: ignore[index]
    answers = {row.answer for row in read_predictions(tmp_path, "xvnli", "fr").values()}
    assert answers <= {"yes", "no", "maybe"}
