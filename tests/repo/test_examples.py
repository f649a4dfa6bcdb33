"""Scripts for readers run, and the README stays short with one small picture."""

from __future__ import annotations

import csv
import json
import re
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from mblip.cli.app import app
from mblip.nano.scenes import Scene, render

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "five_scripts.py"
STAMPS = ROOT / "examples" / "stamps.py"


def test_every_example_is_tested() -> None:
    assert sorted(path.name for path in (ROOT / "examples").glob("*.py")) == [SCRIPT.name, STAMPS.name]


def test_five_scripts(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "nano:nano-blip2-en"])
    names = runpy.run_path(str(SCRIPT), run_name="__main__")
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    assert {len(row) for row in rows} == {6}
    table = names["page"](
        [names["render"](Scene.from_key("fox@0#1"))], [["a fox", "<лиса>", "ثعلب", "लोमड़ी", "キツネ"]]
    )
    assert "&lt;лиса&gt;" in table and table.count("<tr>") == 2 and 'lang="ar" dir="auto"' in table


def test_five_scripts_needs_a_place_for_its_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("no/such/f.png", "f.txt"):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), "nano:nano-blip2-en", "--to", str(tmp_path / place)])
        with pytest.raises(SystemExit, match="2"):  # before the model is loaded
            runpy.run_path(str(SCRIPT), run_name="__main__")
        assert "name a .png file in an existing folder" in capsys.readouterr().err


FROG = """A frog.
ca.utf8=Una granota.
ca@valencia.utf8=Una granota.
he.utf8=צפרדע
nb.utf8=En frosk.
nn.utf8=Ein frosk.
pt.utf8=Uma rã.
pt_BR.utf8=Um sapo.
sr@latin.utf8=Žaba.
sw.utf8=Chura.
"""


@pytest.fixture
def stamps(tmp_path: Path) -> Path:
    """Three stamps in the package's layout: cut out, so with transparency, and one that has no picture of pixels."""
    folder = tmp_path / "root" / "usr" / "share" / "tuxpaint" / "stamps" / "animals"
    folder.mkdir(parents=True)
    texts = {
        "frog": FROG,
        "drake": "A drake.\nsw.utf8=Bata mzinga.\nde.utf8=A drake.\n",
        "fox": "A fox.\nsw.utf8=Mbweha.\n",
    }
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
        picture = render(Scene.from_key("fox@0+tulip@3#17")).convert("RGBA")
        picture.putalpha(Image.new("L", picture.size, 0 if name == "frog" else 128))
        picture.save(folder / f"{name}.png")
    (folder / "drawn.txt").write_text("A drawing.\n")
    (folder / "drawn.svg").write_text("<svg/>")
    return tmp_path / "root"


def make_tables(stamps: Path, to: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(STAMPS), str(stamps), "--to", str(to)])
    runpy.run_path(str(STAMPS), run_name="__main__")


def test_stamps(
    stamps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tables(stamps, tmp_path / "tables", monkeypatch)
    said = capsys.readouterr().out
    assert "11 captions of 3 pictures in 6 languages" in said and "nn (1), sr@latin (1)" in said
    with (tmp_path / "tables" / "captions.csv").open(encoding="utf-8", newline="") as file:
        rows = [(Path(row["image"]).stem, row["language"], row["caption"]) for row in csv.DictReader(file)]
    assert [row for row in rows if row[0] == "frog"] == [
        ("frog", "en", "A frog."), ("frog", "ca", "Una granota."), ("frog", "iw", "צפרדע"), ("frog", "no", "En frosk."),
        ("frog", "pt", "Uma rã."), ("frog", "pt", "Um sapo."), ("frog", "sw", "Chura."),
    ]  # fmt: skip
    assert ("drake", "de", "A drake.") not in rows  # nobody translated it
    assert (tmp_path / "tables" / "sw.csv").read_text(encoding="utf-8").splitlines()[0] == "image,caption"
    with pytest.raises(SystemExit, match="holds no stamps"):
        make_tables(tmp_path / "tables", tmp_path / "other", monkeypatch)


def test_stamps_are_a_test_set_and_fine_tune_a_model(
    stamps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tables(stamps, tmp_path / "tables", monkeypatch)
    begun = ("nano/align", f"data.mix={tmp_path / 'mix'}", "model.fit_words=[]", "optim.steps=0")
    mix = ["data", "mix", "nano_scenes", "sources.scenes.options.scenes=100", "--to", str(tmp_path / "mix")]
    run = ["train", *begun, "--to", str(tmp_path / "begun")]
    tuned = [
        "train", "finetune_own", f"model.run={tmp_path / 'begun'}", f"data.images={stamps}", "data.replay=",
        f"data.source.options.path={tmp_path / 'tables' / 'sw.csv'}", "data.source.options.language=sw",
        "data.source.translate=false", "optim.epochs=null", "optim.steps=2", "optim.global_batch=2", "optim.micro_batch=2",
        "validate_every=0", "data.workers=0", "--to", str(tmp_path / "tuned"),
    ]  # fmt: skip
    asked = ["eval", str(tmp_path / "tuned"), "--images", str(stamps), "--task", "caption", "--language", "sw"]
    tables = {"one": ["sw.csv"], "all": ["captions.csv", "--columns", "language=language"]}
    for command in (mix, run, tuned):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.exception
    assert "try it: mblip caption PICTURES --language sw --model" in result.output
    scores = []
    for name, (table, *more) in tables.items():
        to = tmp_path / name
        result = CliRunner().invoke(app, [*asked, "--table", str(tmp_path / "tables" / table), *more, "--to", str(to)])
        assert result.exit_code == 0, result.exception
        (row,) = json.loads((to / "scores.json").read_text())
        assert (row["language"], row["n"]) == ("sw", 3)
        scores.append(row["metrics"])
    assert scores[0] == scores[1]


def test_the_readme_is_short_and_its_picture_small() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert (ROOT / picture).stat().st_size < 300_000
