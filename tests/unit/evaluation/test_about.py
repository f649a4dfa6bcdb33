"""What a run writes of its benchmarks, and that a new benchmark is one file."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mblip import plugins
from mblip.cli.app import app
from mblip.errors import InputError
from mblip.evaluation import benchmarks
from mblip.evaluation.about import About, describe, read_about, write_about
from mblip.evaluation.benchmarks import BENCHMARKS, MADE, find_benchmark
from mblip.evaluation.metric import CIDER, Metric, find_metric

NEW = """
from mblip.evaluation.benchmark import SHORT_ANSWER, Benchmark, Item, Options, Scored
from mblip.evaluation.metric import Metric


def score(items, answers, options):
    return Scored({"mistakes": 12.5, "words": 3.0}, items)


BENCHMARKS = (
    Benchmark(
        name="one_file", languages=("en", "sw"), files=(), prompt="{text}", decoding=SHORT_ANSWER, score=score,
        read=lambda path, language: [Item(f"{language}-1", ("fox@0#1",), "What?", "fox")], images=("nano:scenes",),
        metrics=(Metric("mistakes", "%", higher_is_better=False, decimals=1), Metric("words")),
    ),
)
"""


def test_a_new_benchmark_is_one_file_and_is_reported_where_it_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "one_file.py").write_text(NEW, encoding="utf-8")
    monkeypatch.setattr(benchmarks, "__path__", [*benchmarks.__path__, str(folder)])
    [found] = [benchmark for benchmark in benchmarks.load_benchmarks() if benchmark.name == "one_file"]
    with monkeypatch.context() as known:
        known.setitem(plugins.benchmarks._things, "one_file", {plugins.OWN: found})
        command = ["eval", "dummy", "--suite", "one_file", "--to", str(tmp_path / "run")]
        done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0 and "one_file             en   mistakes 12.500 %" in done.stdout
    assert read_about(tmp_path / "run", ["one_file"])["one_file"] == describe(found)
    with pytest.raises(InputError, match="unknown benchmark"):
        find_benchmark("one_file")
    done = CliRunner().invoke(app, ["report", str(tmp_path / "run")], catch_exceptions=False)
    assert done.exit_code == 0
    page = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert "<h3>one_file, mistakes, %</h3>" in page and "Lower is better." in page and "data:image/jpeg" in page


def test_later_benchmarks_are_added_to_what_a_run_says(tmp_path: Path) -> None:
    write_about(tmp_path, [BENCHMARKS["xm3600"]])
    write_about(tmp_path, [BENCHMARKS["marvl"], BENCHMARKS["xm3600"]])
    found = read_about(tmp_path, ["marvl", "xm3600"])
    assert found == {name: describe(BENCHMARKS[name]) for name in ("marvl", "xm3600")}
    assert found["marvl"].english == "nlvr2" and not found["marvl"].own_language and found["xm3600"].own_language
    assert found["xm3600"].metrics == (CIDER,)


def test_a_run_of_an_earlier_version_is_read_by_the_names_of_its_benchmarks(tmp_path: Path) -> None:
    assert read_about(tmp_path, ["pope"]) == {"pope": describe(BENCHMARKS["pope"])}
    with pytest.raises(InputError, match="did you mean 'xgqa'"):
        read_about(tmp_path, ["xgqaa"])


def test_fields_of_later_versions_are_passed_over(tmp_path: Path) -> None:
    text = '[{"name": "x", "colour": "red", "metrics": [{"name": "m", "symbol": "µ"}]}]'
    (tmp_path / "benchmarks.json").write_text(text, encoding="utf-8")
    assert read_about(tmp_path, ["x"]) == {"x": About("x", (Metric("m"),))}


@pytest.mark.parametrize(
    ("metric", "title", "shown", "tick", "scale"),
    [
        (Metric("accuracy", "%", decimals=1), "accuracy, %", "66.7", "66.6667", 100),
        (CIDER, "CIDEr, x 100", "6666.7", "6666.67", 1),
        (Metric("f1"), "f1", "66.667", "66.6667", 1),
        (Metric("length", higher_is_better=None, decimals=0), "length", "67", "66.6667", 1),
        (Metric("per_mille", "%", False, 10, 2), "per_mille, %", "666.67", "666.667", 100),
    ],
)
def test_values_are_shown_as_declared(metric: Metric, title: str, shown: str, tick: str, scale: float) -> None:
    assert (metric.title, metric.show(200 / 3), metric.tick(200 / 3), metric.scale) == (title, shown, tick, scale)
    assert find_metric((CIDER, metric), metric.name) == metric


def test_every_benchmark_declares_what_it_measures() -> None:
    for benchmark in (*BENCHMARKS.values(), *MADE.values()):
        names = [metric.name for metric in benchmark.metrics]
        assert names and len(set(names)) == len(names), benchmark.name
