"""A run, an export and a score say whether the prompt of the evaluation was seen in training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests import evaluation_data as data

from mblip.config import DataRecipe, EvalRecipe, TrainRecipe, load_recipe
from mblip.evaluation.benchmarks import EVALUATED
from mblip.evaluation.evaluate import evaluate
from mblip.mixture import build_mix
from mblip.models.export import export_model
from mblip.training.run import train


def trained(folder: Path, templates: str, *overrides: str, mix: str = "mix") -> Path:
    small = ("sources.scenes.options.scenes=60", f"templates={templates}")
    build_mix(load_recipe(DataRecipe, "nano_scenes", small), folder / mix)
    steps = ("optim.steps=1", "optim.global_batch=8", "optim.micro_batch=8", "tracker=none", "model.fit_words=[]")
    tasks = "data.tasks=[caption, naming]"
    train(
        load_recipe(
            TrainRecipe, "nano/align", (f"data.mix={folder / mix}", *steps, tasks, "parts.llm=frozen", *overrides)
        ),
        folder / f"run-{mix}",
    )
    return folder / f"run-{mix}"


def seen(model: Path, folder: Path, *names: str) -> dict[str, bool | None]:
    root = data.everything(folder / "data")
    for name in names:
        data.pictures(root, EVALUATED[name], "en")
    recipe = EvalRecipe(title="t", benchmarks=names, languages=("en",), limit=1)
    scores = evaluate(str(model), recipe, root, folder / f"eval-{model.name}")
    return {score.benchmark: score.fingerprint["prompt_seen_in_training"] for score in scores}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("clean"), "[nano]")


def test_a_run_keeps_the_prompts_of_its_tasks_and_scores_say_that_none_was_asked(clean: Path, tmp_path: Path) -> None:
    told = json.loads((clean / "mblip.json").read_text())["trained_prompts"]
    assert told == {"prompts": ["Name the object in {language}:", "Objects in {language}:"], "complete": True}
    assert seen(clean, tmp_path, "coco", "xgqa") == {"coco": False, "xgqa": False}


def test_what_was_seen_is_told_by_the_export_too(tmp_path: Path) -> None:
    run = trained(tmp_path, "[nano, benchmarks]")
    export_model(run, tmp_path / "stock")
    config = json.loads((tmp_path / "stock/config.json").read_text())
    assert "Caption in {language}:" in config["trained_prompts"]["prompts"] and config["trained_prompts"]["complete"]
    assert "Caption in German:" in (tmp_path / "stock/README.md").read_text()
    assert seen(tmp_path / "stock", tmp_path, "coco", "xgqa") == {"coco": True, "xgqa": False}


def test_what_a_run_before_has_seen_counts_and_what_nobody_says_is_not_known(clean: Path, tmp_path: Path) -> None:
    on = trained(tmp_path, "[nano, benchmarks]", f"model.run={clean}", mix="more")
    told = json.loads((on / "mblip.json").read_text())["trained_prompts"]
    assert {"Objects in {language}:", "Caption in {language}:"} <= set(told["prompts"]) and told["complete"]
    description = json.loads((on / "mblip.json").read_text())
    (on / "mblip.json").write_text(json.dumps({**description, "trained_prompts": None}))
    assert seen(on, tmp_path, "coco") == {"coco": None}
    again = trained(tmp_path, "[nano]", f"model.run={on}", mix="last")
    assert not json.loads((again / "mblip.json").read_text())["trained_prompts"]["complete"]
    assert seen(again, tmp_path / "other", "coco") == {"coco": None}
