"""Quechua, Croatian and Guarani from the shell: a mix of their captions, a model trained on it, and what carries them."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mblip.config import DataRecipe, TrainRecipe, load_recipe
from mblip.mixture import build_mix
from mblip.models import load_vision_llm
from mblip.nano.scenes import Scene, render
from mblip.training.run import train

CAPTIONS = {"quz": "allqu", "hr": "pas", "gn": "jagua"}


@pytest.mark.usefixtures("language_table")
def test_languages_that_a_recipe_adds_are_mixed_trained_and_spoken(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    with (tmp_path / "own.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption", "language"])
        for number in range(24):
            render(Scene((("dog", number % 4),), number)).save(photos / f"{number}.png")
            code = list(CAPTIONS)[number % 3]
            rows.writerow([f"{number}.png", CAPTIONS[code], code])
    (tmp_path / "more.csv").write_text(
        "code,name,script,share,own_name\nquz,Quechua,Latn,0.1,\nhr,Croatian,Latn,0.3,\ngn,Guarani,Latn,0.1,Avañe'ẽ\n"
    )
    (tmp_path / "own.yaml").write_text(
        "title: own\nkind: data\nmore_languages: more.csv\n"
        "sources:\n- name: own\n  reader: table\n  translate: false\n"
        "  options: {path: " + str(tmp_path / "own.csv") + ", columns: {image: image, caption: caption}, "
        "task: caption, language_column: language, "
        "licence: own}\n"
    )
    build_mix(load_recipe(DataRecipe, tmp_path / "own.yaml"), tmp_path / "mix")
    manifest = json.loads((tmp_path / "mix/manifest.json").read_text())
    assert manifest["by_language"] == {"gn": 8, "hr": 8, "quz": 8}
    assert [row["code"] for row in manifest["more_languages"]] == ["quz", "hr", "gn"]
    assert "Guarani" in (tmp_path / "mix/README.md").read_text()
    # The training recipe says nothing of them: the mix does.
    own = (
        f"data.mix={tmp_path / 'mix'}", f"data.images={photos}", "data.tasks=[caption]", "model.fit_words=[]", "optim.steps=2",
        "optim.global_batch=8", "optim.micro_batch=8", "optim.warmup_steps=0", "tracker=none",
    )  # fmt: skip
    train(load_recipe(TrainRecipe, "nano/align", own), tmp_path / "run")
    rows = json.loads((tmp_path / "run/mblip.json").read_text())["more_languages"]
    assert [row["code"] for row in rows] == ["quz", "hr", "gn"]
    # The configuration is what an export writes.
    assert load_vision_llm(tmp_path / "run").model.config.to_dict()["more_languages"] == rows
    # Another process, which has read nothing but the model.
    command = [sys.executable, "-m", "mblip", "caption", "photos/0.png", "--model", "run", "--json"]
    command += ["--language", "Avañe'ẽ,Croatian,quz,sw", "--beams", "1", "--max-tokens", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["language"] for line in done.stdout.splitlines()] == ["gn", "hr", "quz", "sw"]
