import json
from pathlib import Path

import numpy as np
import pytest

from mblip.errors import InputError
from mblip.evaluation.benchmark import Options
from mblip.languages import YES_NO
from mblip.nano.benchmark import BENCHMARK, TASKS, is_faithful, is_right, load_items
from mblip.nano.scenes import Scene
from mblip.nano.scores import score_scenes
from mblip.nano.words import load_lexicon
from mblip.translation.holdout import is_held_out


def test_items_ask_what_their_scene_answers() -> None:
    lexicon = load_lexicon()
    items = load_items(["de", "sw", "zu"], 20)
    assert len(items) == 20 * (8 + 8 + 6)  # no checked yes and no in Zulu
    assert items == load_items(["de", "sw", "zu"], 20)
    for item in items:
        scene = Scene.from_key(item.image)
        names = [lexicon.name(concept, item.language) for concept in scene.concepts]
        if item.task.startswith(("naming", "caption")):
            assert item.reference == ", ".join(n for n in names if n)
        held = [is_held_out(concept, item.language, 0.2) for concept in scene.concepts]
        assert all(held) if item.task == "naming_never_shown" else not any(held)
        if item.task == "counting":
            asked = item.prompt.removeprefix("How many ").removesuffix("?")
            assert item.reference == str(names.count(asked))
        if item.task == "presence":
            asked = item.prompt.removeprefix("Question: ").partition("?")[0]
            assert (item.reference == YES_NO[item.language][0]) == (asked in names)
        assert is_right(item, item.reference) and not is_right(item, item.reference + " x")


def test_validation_scenes_are_others() -> None:
    test, validation = (load_items(["de"], 30, ("naming",), split=split) for split in ("test", "validation"))
    assert not {item.image for item in test} & {item.image for item in validation}


def test_fidelity_asks_for_the_language_not_for_the_answer() -> None:
    item = load_items(["de"], 1, ("naming",))[0]
    assert is_faithful(item, "Fuchs") is True
    assert is_faithful(item, "zorro") is False
    assert is_faithful(item, "") is False
    assert is_faithful(item, "Fuchs, Fuchs, Fuchs,") is True and is_faithful(item, "Fuchs, zorro,") is False
    assert is_faithful(load_items(["de"], 1, ("counting",))[0], "3") is None


def test_scores_are_means_over_languages_with_intervals() -> None:
    items = load_items(["de", "sw"], 40, TASKS)
    rng = np.random.default_rng(0)
    right = [{i.id: i.reference if rng.random() < 0.75 else "?" for i in items} for _ in range(2)]
    scores = score_scenes(items, right)
    figure = scores["headline"]["naming_exact"]
    by_hand = [
        np.mean([run[i.id] == i.reference for run in right for i in items if i.task == "naming" and i.language == c])
        for c in ("de", "sw")
    ]
    assert figure["value"] == pytest.approx(np.mean(by_hand))
    low, high = figure["ci95"]
    assert low < figure["value"] < high and 0.03 < high - low < 0.4
    assert scores["headline"]["languages"] == 2
    perfect = score_scenes(items, [{i.id: i.reference for i in items}])
    assert all(
        f["value"] == 1.0 and f["ci95"] == [1.0, 1.0] for f in perfect["headline"].values() if isinstance(f, dict)
    )


def test_a_model_is_asked_scenes_through_the_one_runner_without_data(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from mblip.cli.app import app
    from mblip.evaluation.results import read_items, read_predictions

    command = ["eval", "dummy", "--suite", "scenes", "--languages", "de,zu", "--limit", "6", "--json"]
    places = ["--data", str(tmp_path / "none"), "--to", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*command, *places], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    german, zulu = json.loads(done.stdout)
    assert (german["language"], zulu["language"]) == ("de", "zu")
    assert german["fingerprint"]["data"] == "made" and german["fingerprint"]["limit"] == 6
    assert german["n"] == 6 and german["fingerprint"]["items_in_data"] == 50 * 8 > zulu["fingerprint"]["items_in_data"]
    assert (
        sum(task in german["metrics"] for task in TASKS) == 6
    )  # one picture of each of six tasks, not six of the first
    assert german["fingerprint"]["data_sha256"] != zulu["fingerprint"]["data_sha256"]
    asked = {item.id: item for item in load_items(["de"])}
    for row in read_predictions(tmp_path / "out", "scenes", "de").values():
        assert row.prompt == asked[row.id].prompt and row.images == (asked[row.id].image,)
    assert [item.gold for item in read_items(tmp_path / "out", "scenes", "de")] == [
        (asked[item.id].reference,) for item in read_items(tmp_path / "out", "scenes", "de")
    ]


def test_scores_of_the_benchmark_are_those_of_the_experiment() -> None:
    items = BENCHMARK.read(Path(), "de")
    told = load_items(["de"])
    answers = [item.reference if number % 3 else "zorro" for number, item in enumerate(told)]
    found = BENCHMARK.score(items, answers, Options(language="de")).metrics
    experiment = score_scenes(told, [dict(zip((item.id for item in told), answers, strict=True))])["languages"]["de"][
        "tasks"
    ]
    assert {task: found[task] for task in TASKS} == pytest.approx({task: experiment[task]["value"] for task in TASKS})
    assert found["accuracy"] == pytest.approx(100 * np.mean([found[task] for task in TASKS]))
    assert 0 < found["language_fidelity"] < 1


def test_scenes_are_no_task_of_another_runner(tmp_path: Path) -> None:
    from mblip.cli.report import tasks

    with pytest.raises(InputError, match="scenes reads no files that a task could name; use mblip eval --suite scenes"):
        tasks(["scenes"], tmp_path)
