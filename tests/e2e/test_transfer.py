"""The paper's Figure 2 in small: fine-tune on English, evaluate in English and others, read off the gap."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import evaluation_data as data
from tests.shrunken import build_world, shrunken
from typer.testing import CliRunner

from mblip.cli.app import app
from mblip.evaluation.about import read_about
from mblip.evaluation.benchmarks import EVALUATED
from mblip.evaluation.results import read_run, read_scores
from mblip.evaluation.transfer import transfer_gaps
from mblip.schema import Score
from mblip.training.run import train

# recipe: benchmarks to evaluate on, and the languages there are
FINETUNED = {
    "finetune_gqa": (("xgqa",), ("en", "de")),
    "finetune_xvnli": (("xvnli",), ("en", "fr")),
    "finetune_nlvr2": (("marvl", "nlvr2"), ("en", "sw")),
    "finetune_flickr30k": (("xflickrco",), ("en", "de")),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize(
    "name", [name if name == "finetune_gqa" else pytest.param(name, marks=pytest.mark.slow) for name in FINETUNED]
)
def test_from_english_fine_tuning_to_the_gap_table(name: str, world: Path, tmp_path: Path) -> None:
    benchmarks, languages = FINETUNED[name]
    train(shrunken(f"train/{name}", world), tmp_path / "run")
    root = tmp_path / "data"
    for code in languages:
        for make in (data.xvnli, data.xflickrco):
            make(root, code)
    for make_all in (data.xgqa, data.marvl, data.nlvr2):
        make_all(root)
    for benchmark in benchmarks:
        for code in languages:
            if code in EVALUATED[benchmark].languages:
                data.pictures(root, EVALUATED[benchmark], code)
    command = ["eval", str(tmp_path / "run"), "--suite", ",".join(benchmarks), "--languages", ",".join(languages)]
    done = CliRunner().invoke(
        app, [*command, "--data", str(root), "--to", str(tmp_path / "out")], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert "bridge.safetensors" in read_run(tmp_path / "out").identity["weights"]  # the fine-tuned weights are named
    [gap] = transfer_gaps(read_scores(tmp_path / "out"), read_about(tmp_path / "out", ["xgqa", "marvl", "nlvr2"]))
    scores = {(score.benchmark, score.language): score.metrics[gap.metric] for score in read_scores(tmp_path / "out")}
    other = languages[1]
    assert gap.benchmark == benchmarks[0] and list(gap.languages) == [other]
    assert gap.languages[other] == scores[benchmarks[-1], "en"] - scores[benchmarks[0], other]
    assert f"English minus others, {gap.metric}: mean {gap.mean:+.3f}" in done.stdout


def test_gaps_of_scores(tmp_path: Path) -> None:
    def score(benchmark: str, language: str, **metrics: float) -> Score:
        return Score(benchmark, language, metrics, 1, {})

    scores = [
        score("xgqa", "en", accuracy=60.0, relaxed=0.7),
        score("xgqa", "de", accuracy=50.0),
        score("xgqa", "bn", accuracy=20.0),
        score("marvl", "sw", accuracy=55.0),
        score("nlvr2", "en", accuracy=70.0),
        score("xm3600", "en", CIDEr=0.8),
        score("xm3600", "sw", CIDEr=0.2),
        score("maxm", "fr", accuracy=40.0),
        score("vqa", "en", accuracy=60.0),
    ]
    about = read_about(tmp_path, {score.benchmark: None for score in scores})
    gaps = {gap.benchmark: gap for gap in transfer_gaps(scores, about)}
    assert set(gaps) == {"xgqa", "marvl", "xm3600"}
    assert gaps["xgqa"].languages == {"de": 10.0, "bn": 40.0} and gaps["xgqa"].mean == 25.0
    assert (gaps["marvl"].english, gaps["marvl"].languages) == (70.0, {"sw": 15.0})
    assert gaps["xm3600"].metric == "CIDEr" and gaps["xm3600"].mean == pytest.approx(0.6)
