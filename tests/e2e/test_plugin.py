"""A package of 60 lines adds a corpus, an engine, an image scheme and a benchmark, and all of them work from the command line.

Every command is a process of its own, as a person would run it: what a package adds must be found by a fresh Python.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mblip.schema import Example, Instruction
from mblip.storage import ShardReader, read_manifest

FIXTURE = Path(__file__).parents[1] / "fixtures" / "plugin"
RECIPE = {
    "title": "squares", "kind": "data", "images": "squares:all", "templates": ["paper"],
    "sources": [{"name": "mine", "reader": "squares", "options": {"count": 40}, "images": "squares:all"}],
    "allocation": {"method": "uniform", "languages": ["en", "de"]}, "translation": {"engine": "squares"},
}  # fmt: skip


def mblip(*words: str, extra: tuple[Path, ...] = (FIXTURE,)) -> subprocess.CompletedProcess[str]:
    paths = [*map(str, extra), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "mblip", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def done(*words: str, extra: tuple[Path, ...] = (FIXTURE,)) -> str:
    found = mblip(*words, extra=extra)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_the_package_is_short_and_says_nothing_of_the_nano_world() -> None:
    files = sorted((FIXTURE / "mblip_squares").glob("*.py"))
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    assert [file.stem for file in files] == ["__init__", "benchmark", "corpus", "engine", "images"]
    assert sum(bool(line) for line in text.splitlines()) <= 60 and "nano" not in text


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plugin") / "squares.yaml"
    path.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    return str(path)


def test_its_corpus_its_engine_and_its_pictures_make_a_mix(tmp_path: Path, recipe: str) -> None:
    work, mix = tmp_path / "work", tmp_path / "mix"
    assert "40 examples of mine" in done("data", "sample", recipe, "--work", str(work))
    assert "mine: 40 examples in 2 languages" in done(
        "data", "translate", recipe, "--work", str(work), "--workers", "2"
    )
    translated = list(ShardReader(work / "translated" / "mine", Example))
    german = next(one for one in translated if one.languages["caption"] == "de")
    number = int(german.id.rpartition("/")[2])
    colour = ["rot", "grün", "blau", "gelb"][number % 4]
    assert german.texts["caption"] == f"das Quadrat Nummer {number} ist {colour}"
    assert "40 instructions in 2 languages" in done("data", "mix", recipe, "--work", str(work), "--to", str(mix))
    assert sum("Quadrat" in one.answer for one in ShardReader(mix, Instruction)) == 20
    manifest = read_manifest(mix)
    assert manifest.by_language == {"de": 20, "en": 20} and manifest.versions["mblip-squares"] == "0.1"
    assert "CC0-1.0" in (mix / "README.md").read_text(encoding="utf-8")


def test_its_benchmark_is_evaluated_and_reported_also_where_it_is_not_installed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    told = done("eval", "dummy", "--suite", "squares", "--to", str(run))
    assert re.search(r"^squares +en +hue \d+\.\d+ %  n 4 of 4$", told, re.MULTILINE)
    [row] = [r for r in json.loads((run / "scores.json").read_text()) if r["language"] == "de"]
    assert set(row["metrics"]) == {"hue", "letters"} and row["fingerprint"]["versions"]["mblip-squares"] == "0.1"
    for extra, pictures in ((FIXTURE,), True), ((), False):
        done("report", str(run), "--to", str(tmp_path / "report"), extra=extra)
        page = (tmp_path / "report/report.html").read_text(encoding="utf-8")
        assert "<h3>squares, hue, %</h3>" in page and "letters" in page
        assert ("data:image/jpeg" in page) == pictures


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("data", "plan", "RECIPE", "sources.mine.reader=square"), "no reader 'square'; did you mean 'squares'?"),
        (("data", "plan", "RECIPE", "translation.engine=squares2"), "no engine 'squares2'; did you mean 'squares'?"),
        (("eval", "dummy", "--suite", "square"), "unknown suite or benchmark 'square'; did you mean 'squares'?"),
        (("data", "plan", "RECIPE", "sources.mine.options.counts=3"), "'squares' has no option 'counts'"),
    ],
)
def test_its_names_are_among_those_that_a_typo_is_told(recipe: str, words: tuple[str, ...], sentence: str) -> None:
    found = mblip(*[recipe if word == "RECIPE" else word for word in words])
    assert found.returncode == 2 and sentence in found.stderr and "Traceback" not in found.stderr


def test_a_broken_package_is_one_line_and_breaks_nothing_else(tmp_path: Path) -> None:
    code = "from mblip import plugins\ndef register():\n    plugins.corpora.register('half', 'half')\n    1 / 0\n"
    (tmp_path / "bad_squares.py").write_text(code, encoding="utf-8")
    info = tmp_path / "bad_squares-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.3\nName: bad_squares\nVersion: 2.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[mblip.plugins]\nx = bad_squares:register\n", encoding="utf-8")
    extra = (tmp_path, FIXTURE)
    found = mblip("--help", extra=extra)
    assert found.returncode == 0 and "Commands:" in found.stdout and not found.stderr
    found = mblip("data", "plan", "nano_scenes", "sources.scenes.options.scenes=20", extra=extra)
    assert found.returncode == 0 and found.stderr == (
        "the plug-in of bad_squares 2.0 could not be loaded and is left out: ZeroDivisionError: division by zero\n"
    )
    found = mblip("data", "plan", "nano_scenes", "sources.scenes.reader=half", extra=extra)
    assert found.returncode == 2 and "Traceback" not in found.stderr and "no reader 'half'; available: " in found.stderr
    assert found.stderr.endswith(
        "; the plug-in of bad_squares 2.0 could not be loaded (ZeroDivisionError: division by zero)\n"
    )
