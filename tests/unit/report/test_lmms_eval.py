"""lmms-eval: its result format, and tasks whose scores are those of ``mblip eval``."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.evaluation_data import everything, pictures
from tests.scripts import load_script
from typer.testing import CliRunner

from mblip.cli.app import app
from mblip.evaluation.benchmark import Options
from mblip.evaluation.benchmarks import find_benchmark
from mblip.evaluation.tasks import load_tasks
from mblip.report.lmms_eval import export_run, target, write_tasks

FIXTURE = Path(__file__).parents[2] / "fixtures" / "evaluation" / "results"
# What lmms_eval 0.7.3 puts into a results file (evaluator.py, evaluation_tracker.py) and into a line of samples.
RESULT_KEYS = {"results", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "config",
               "task_hashes", "model_source", "model_name", "model_name_sanitized"}  # fmt: skip
SAMPLE_KEYS = {"doc_id", "target", "filtered_resps", "token_counts", "doc_hash", "input"}


def test_a_run_in_its_format(tmp_path: Path) -> None:
    run = shutil.copytree(FIXTURE, tmp_path / "run")
    *samples, results = export_run(run, tmp_path / "out")
    assert len(samples) == 9
    assert re.fullmatch(r"\d{8}_\d{6}_results\.json", results.name)
    assert results.parent == tmp_path / "out" / "nano__nano-blip2-en"
    data = json.loads(results.read_text(encoding="utf-8"))
    assert set(data) >= RESULT_KEYS
    german = data["results"]["mblip_xgqa_de"]
    assert german["accuracy,none"] == pytest.approx(2 / 3) and 0 < german["accuracy_stderr,none"] < 0.3
    assert german["relaxed_stderr,none"] == "N/A"
    assert data["n-samples"]["mblip_xgqa_de"] == {"original": 12, "effective": 12}
    assert data["configs"]["mblip_xgqa_de"]["metadata"]["variant"] == "iglue"
    arabic = next(path for path in samples if path.name.endswith("_samples_mblip_xm3600_ar.jsonl"))
    rows = [json.loads(line) for line in arabic.read_text(encoding="utf-8").splitlines()]
    assert all(set(row) >= SAMPLE_KEYS for row in rows)
    assert (rows[0]["filtered_resps"], rows[0]["input"]) == ("كلب بجانب كرة.", "Caption in Arabic: ")
    assert rows[0]["CIDEr"] == pytest.approx(5.89167224)
    german = next(path for path in samples if path.name.endswith("_samples_mblip_xgqa_de.jsonl"))
    rows = [json.loads(line) for line in german.read_text(encoding="utf-8").splitlines()]
    assert [row["target"] == row["filtered_resps"] for row in rows] == [row["accuracy"] == 1 for row in rows]
    assert target({"gold": "true"}) == target({"gold": '"yes"'}) == "yes"
    assert target({"gold": '["a", "b"]'}) == "['a', 'b']"


class _Loader(yaml.SafeLoader):
    """Reads ``!function`` as its name."""


_Loader.add_constructor("!function", lambda loader, node: f"!{loader.construct_scalar(node)}")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "language", "answer"),
    [
        ("xgqa", "de", "yes"),
        ("marvl", "sw", "yes"),
        ("maxm", "fr", "chien"),
        ("vqa", "en", "yes"),
        ("xm3600", "sw", "mbwa"),
    ],
)
def test_tasks_score_as_we_do(name: str, language: str, answer: str, tmp_path: Path) -> None:
    root = everything(tmp_path / "data")
    benchmark = find_benchmark(name)
    pictures(root, benchmark, language)
    (task,) = load_tasks([benchmark], root, [language])
    (path,) = write_tasks([task], tmp_path / "tasks")
    config: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    utils = load_script(path.parent / "utils.py")
    named = [
        config[key].removeprefix("!utils.")
        for key in ("doc_to_visual", "doc_to_text", "doc_to_target", "process_results")
    ]
    visuals, prompt, _, process = (getattr(utils, function) for function in named)
    docs = [json.loads(line) for line in Path(config["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines()]
    assert len(docs) == len(task.items)
    assert [prompt(doc, {"pre_prompt": "ignored"}) for doc in docs] == [task.ask(item).prompt for item in task.items]
    assert [len(visuals(doc)) for doc in docs] == [len(item.images) for item in task.items]
    processed = [process(doc, [answer]) for doc in docs]
    wanted = benchmark.score(task.items, [answer] * len(docs), Options(benchmark.variants[0], language, "")).metrics
    assert [entry["metric"] for entry in config["metric_list"]] == list(wanted)
    for entry in config["metric_list"]:
        aggregate = getattr(utils, entry["aggregation"].removeprefix("!utils."))
        found = aggregate([row[entry["metric"]] for row in reversed(processed)])
        assert found == pytest.approx(
            wanted[entry["metric"]] * (0.01 if entry["metric"] == "accuracy" else 1), abs=1e-12
        )
    assert config["generation_kwargs"] == dict(benchmark.decoding)


def test_the_verb(tmp_path: Path) -> None:
    root = everything(tmp_path / "data")
    pictures(root, find_benchmark("xgqa"), "de")
    command = ["tasks", "xgqa", "--data", str(root), "--to", str(tmp_path / "tasks"), "--languages", "German"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [str(tmp_path / "tasks" / "mblip_xgqa_de.yaml")]
