"""A run records the languages of all answers that its model was trained on, or that they are not known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mblip.config import DataRecipe, TrainRecipe, load_recipe
from mblip.mixture import build_mix
from mblip.models.export import export_model
from mblip.training.run import train


@pytest.fixture(scope="module")
def mix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mix") / "mix"
    small = ("sources.scenes.options.scenes=80", "allocation.languages=[en, de, sw]")
    build_mix(load_recipe(DataRecipe, "nano_scenes", small), folder)
    return folder


def recorded(mix: Path, to: Path, *overrides: str) -> Any:
    few = ("optim.steps=1", "optim.global_batch=8", "optim.micro_batch=8", "tracker=none", "model.fit_words=[]")
    train(load_recipe(TrainRecipe, "nano/align", (f"data.mix={mix}", *few, "parts.llm=frozen", *overrides)), to)
    return json.loads((to / "mblip.json").read_text())["trained_languages"]


def test_only_what_the_recipe_selects_counts(mix: Path, tmp_path: Path) -> None:
    assert recorded(mix, tmp_path / "all") == ["de", "en", "sw"]
    assert recorded(mix, tmp_path / "some", "data.exclude_languages=[English]") == ["de", "sw"]


def test_runs_before_count_and_what_nobody_says_is_not_known(mix: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert recorded(mix, first, "data.languages=[de]") == ["de"]
    assert recorded(mix, second, "data.languages=[sw]", f"model.run={first}") == ["de", "sw"]
    export_model(second, tmp_path / "stock")
    assert json.loads((tmp_path / "stock/config.json").read_text())["trained_languages"] == ["de", "sw"]
    assert recorded(mix, tmp_path / "on", "data.languages=[en]", f"model.run={tmp_path / 'stock'}") == [
        "de",
        "en",
        "sw",
    ]
    description = json.loads((second / "mblip.json").read_text())
    del description["trained_languages"]
    (second / "mblip.json").write_text(json.dumps(description))
    assert recorded(mix, tmp_path / "unknown", "data.languages=[en]", f"model.run={second}") is None


def test_replayed_texts_count(mix: Path, tmp_path: Path) -> None:
    assert recorded(
        mix, tmp_path / "run", "data.languages=[de]", f"data.replay={mix}", "data.replay_share=0.5"
    ) == ["de", "en", "sw"]  # fmt: skip


def test_texts_in_unknown_languages_leave_it_unknown(
    mix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mblip.training.loader.Mix.languages", lambda self: {"de", "und"})
    assert recorded(mix, tmp_path / "run") is None
