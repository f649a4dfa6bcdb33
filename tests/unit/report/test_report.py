"""``mblip report``: what it says, in every form; the page in a real browser; broken input."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from mblip.cli.app import app
from mblip.errors import InputError
from mblip.evaluation.about import About
from mblip.evaluation.metric import Metric
from mblip.evaluation.results import ItemScore, read_items, read_run, read_scores, write_items, write_run, write_scores
from mblip.report.lmms_eval import export_run
from mblip.report.published import load_published
from mblip.report.render import ticks
from mblip.report.samples import choose_samples
from mblip.report.summary import summarize
from mblip.report.tables import to_csv, to_json, to_latex, to_markdown
from mblip.report.write import report_runs

FIXTURE = Path(__file__).parents[2] / "fixtures" / "evaluation" / "results"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = shutil.copytree(FIXTURE, tmp_path / "first-eval")
    write_run(directory, replace(read_run(directory), model="runs/first"))
    return directory


@pytest.fixture
def worse(tmp_path: Path) -> Path:
    """The same run with half of the German answers, and Arabic captions, gone wrong."""
    directory = shutil.copytree(FIXTURE, tmp_path / "second-eval")
    write_run(directory, replace(read_run(directory), model="runs/<b>second"))
    scores = read_scores(directory)
    german = read_items(directory, "xgqa", "de")
    changed = [replace(item, values={**item.values, "accuracy": float(n % 4 == 0)}) for n, item in enumerate(german)]
    write_items(directory, "xgqa", "de", changed)
    for score in scores:
        if (score.benchmark, score.language) == ("xgqa", "de"):
            score.metrics["accuracy"] = 25.0
            score.ci95["accuracy"] = (10.0, 40.0)
    write_scores(directory, scores)
    return directory


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, name in enumerate(["n0.jpg", "n1.jpg", "n2.jpg", "00a0.jpg"]):  # 00a1.jpg is not at hand
        image = Image.new("RGB", (480, 320), (90 + 40 * number, 120, 200 - 30 * number))
        ImageDraw.Draw(image).ellipse((140, 60, 340, 260), fill="gold")
        image.save(folder / name)
    return folder


def test_means_gap_and_fidelity_are_those_of_the_scores(run: Path) -> None:
    report = summarize([run])
    xgqa, xm3600 = report.benchmarks
    (first,) = xgqa.runs.values()
    assert xgqa.languages[0] == "en" and set(xgqa.languages) == {"en", "de", "ru", "zh"}
    assert first.means["all"].value == pytest.approx((83.3333333 + 66.6666667 + 50 + 33.3333333) / 4)
    assert first.means["without_english"].value == pytest.approx(50)
    low, high = first.means["without_english"].interval or (0, 0)
    assert low < 50 < high
    assert first.gap and first.gap.value == pytest.approx(33.3333333)
    (captions,) = xm3600.runs.values()
    assert captions.fidelity == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert captions.fidelity_untold == ("id",)
    assert (xm3600.metric.name, set(captions.means)) == ("CIDEr", {"all", "without_english", "low", "mid", "high"})
    assert report.tests == [] and report.cautions == []


def test_the_english_of_marvl_is_nlvr2(run: Path) -> None:
    scores = read_scores(run)
    for score in scores:
        if score.benchmark == "xgqa" and score.language in ("en", "zh"):
            name = "nlvr2" if score.language == "en" else "marvl"
            write_items(run, name, score.language, read_items(run, "xgqa", score.language))
            shutil.copy(
                run / f"predictions/xgqa-{score.language}.jsonl", run / f"predictions/{name}-{score.language}.jsonl"
            )
            score.benchmark = name
    write_scores(run, [score for score in scores if score.benchmark in ("nlvr2", "marvl")])
    found = {benchmark.name: next(iter(benchmark.runs.values())) for benchmark in summarize([run]).benchmarks}
    marvl = found["marvl"]
    assert marvl.english and (marvl.english_from, marvl.english.value) == ("nlvr2", pytest.approx(83.3333333))
    assert marvl.gap and marvl.gap.value == pytest.approx(50)
    assert marvl.means["all"].value == pytest.approx(33.3333333)


def test_two_runs_are_tested_item_by_item(run: Path, worse: Path) -> None:
    report = summarize([run, worse])
    test = report.tests[0]
    assert (test.benchmark, test.first, test.second) == ("xgqa", "first", "<b>second")
    assert test.rows["de"].difference == pytest.approx(25 - 66.6666667)
    assert test.rows["en"].difference == 0 and test.rows["en"].p_value == 1
    assert test.adjusted["de"] == pytest.approx(min(1, 4 * test.rows["de"].p_value))
    assert test.rows["without_english"].difference == pytest.approx((25 - 66.6666667) / 3)


def test_runs_on_pictures_that_languages_do_not_share_are_written(run: Path, worse: Path, tmp_path: Path) -> None:
    for directory in (run, worse):
        for code in ("de", "en", "ru", "zh"):
            items = read_items(directory, "xgqa", code)
            own = [replace(item, images=(f"{code}.jpg", *item.images)) for item in items[:2]]
            write_items(directory, "xgqa", code, own)
    report_runs([run, worse], tmp_path / "to")
    tests = json.loads((tmp_path / "to/report.json").read_text())["tests"]
    assert all(0 < row["p_value"] <= 1 for test in tests for row in test["rows"].values())


def test_a_test_in_one_language_names_benchmark_language_and_run(run: Path, worse: Path, tmp_path: Path) -> None:
    for directory in (run, worse):
        kept = [score for score in read_scores(directory) if (score.benchmark, score.language) == ("xgqa", "de")]
        write_scores(directory, kept)
    report_runs([run, worse], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "xgqa, German, &lt;b&gt;second" in page.partition("<h3>In one language, against first</h3>")[2]


def test_runs_that_were_not_asked_the_same_are_told_not_tested(run: Path, worse: Path) -> None:
    items = read_items(worse, "xgqa", "ru")
    write_items(worse, "xgqa", "ru", [replace(items[0], id="other"), *items[1:]])
    scores = read_scores(worse)
    scores[0].fingerprint["variant"] = "mblip"
    write_scores(worse, scores)
    write_run(worse, replace(read_run(worse), limit=3))
    report = summarize([run, worse])
    assert "ru" not in report.tests[0].rows and "de" in report.tests[0].rows
    assert any("xgqa (ru)" in caution and "not tested" in caution for caution in report.cautions)
    assert any("differ in variant (en)" in caution for caution in report.cautions)
    assert any("first 3 images" in caution for caution in report.cautions)


def test_what_a_score_remarks_on_is_a_caution(run: Path, worse: Path, tmp_path: Path) -> None:
    scores = read_scores(worse)
    told = next(score for score in scores if (score.benchmark, score.language) == ("xgqa", "de"))
    told.fingerprint["remark"] = "2 answers differ from a gold answer in Unicode spelling alone"
    write_scores(worse, scores)
    said = "xgqa (de), <b>second: 2 answers differ from a gold answer in Unicode spelling alone."
    assert [one for one in summarize([run, worse]).cautions if "spelling" in one] == [said]
    report_runs([run, worse], tmp_path / "report", cards=0)
    for name in ("report.html", "report.md"):
        assert (
            "2 answers differ from a gold answer in Unicode spelling alone." in (tmp_path / "report" / name).read_text()
        )


def test_samples_show_many_scripts_and_say_which_pictures_lack(run: Path, pictures: Path) -> None:
    cards = choose_samples(summarize([run]), 2, images=[str(pictures)])
    captions = [card for card in cards if card.benchmark == "xm3600"]
    assert [[row.language for row in card.rows] for card in captions] == [["en", "ar", "ja", "id", "sw"]] * 2
    assert captions[0].pictures[0] and captions[0].pictures[0].startswith("data:image/jpeg;base64,")
    assert captions[1].pictures == (None,)
    assert captions[0].rows[1].answers["first"] == ("كلب بجانب كرة.", pytest.approx(5.89167224))


def test_every_form_says_the_same(run: Path, worse: Path) -> None:
    report = summarize([run, worse])
    rows = list(csv.DictReader(io.StringIO(to_csv(report))))
    stated = {
        (name, score.benchmark, score.language, metric): value
        for name, path in (("first", run), ("<b>second", worse))
        for score in read_scores(path)
        for metric, value in score.metrics.items()
    }
    assert {(r["run"], r["benchmark"], r["language"], r["metric"]): float(r["value"]) for r in rows} == stated
    assert len(rows) == len(stated)
    markdown = to_markdown(report)
    assert "| German | 66.7 [41.7, 91.7] | 25.0 [10.0, 40.0] |" in markdown
    assert "Pangea" in markdown and "&lt;b>second" in markdown
    latex = to_latex(report)
    assert latex.count("\\begin{tabular}{lrrrrrr}") == 1 and "first & 83.3 & 50.0 & 66.7 & 33.3 & 50.0 & 33.3" in latex
    data = json.loads(json.dumps(to_json(report), allow_nan=False))
    assert data["benchmarks"][0]["runs"]["first"]["scores"]["en"]["fingerprint"]["variant"] == "iglue"


def test_runs_are_named_by_model_and_by_folder_where_one_model_has_several(
    run: Path, worse: Path, tmp_path: Path
) -> None:
    again = shutil.copytree(run, tmp_path / "third-eval")
    assert list(summarize([run, worse, again]).runs) == ["first (first-eval)", "<b>second", "first (third-eval)"]
    write_run(worse, replace(read_run(worse), model="elsewhere/first"))
    assert list(summarize([run, worse]).runs) == ["runs/first", "elsewhere/first"]
    write_run(again, replace(read_run(again), model="Gregor/mblip-mt0-xl"))
    assert list(summarize([again]).runs) == ["mblip-mt0-xl"]


def test_published_values_name_their_source() -> None:
    values = load_published()
    assert len(values) >= 14
    assert all(row.source.url.startswith("https://") and row.source.settings for row in values)
    assert {"mBLIP mT0-XL", "mBLIP BLOOMZ-7B", "UC2"} <= {row.model for row in values}
    for row in values:
        if row.languages and row.others is not None:
            assert row.others == pytest.approx(sum(row.languages.values()) / len(row.languages), abs=0.06)


def test_the_page_is_offline_and_escaped(run: Path, worse: Path, pictures: Path, tmp_path: Path) -> None:
    report_runs([run, worse], tmp_path / "out", images=[str(pictures)])
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"report.html", "report.md", "report.csv", "report.tex", "report.json"}
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;b&gt;second" in page
    assert not re.search(r"(?:src|href)=[\"'](?!data:)|url\(|@import", page)
    assert '<bdi lang="ar" dir="auto">كلب بجانب كرة.</bdi>' in page
    assert '<dd dir="rtl">' in page and '<bdi lang="ja" dir="auto">赤いボールと犬。</bdi>' in page
    assert "they are left out of the mean: Indonesian" in page


def _rename(run: Path, old: str, new: str, metric: str) -> None:
    """Make a benchmark and its first metric those of another package."""
    scores = read_scores(run)
    for score in scores:
        if score.benchmark == old:
            items = read_items(run, old, score.language)
            own = [replace(item, values={metric: item.values["accuracy"]}) for item in items]
            write_items(run, new, score.language, own)
            shutil.copy(
                run / f"predictions/{old}-{score.language}.jsonl", run / f"predictions/{new}-{score.language}.jsonl"
            )
            score.benchmark, score.ci95 = new, {metric: score.ci95["accuracy"]}
            score.metrics = {metric: score.metrics["accuracy"]}
    write_scores(run, scores)


@pytest.mark.parametrize("higher", [True, False, None])
def test_a_benchmark_of_another_package_is_reported_by_what_its_run_wrote(
    run: Path, worse: Path, tmp_path: Path, higher: bool | None
) -> None:
    about = About("flock", (Metric("sheep", "%", higher, decimals=2), Metric("wool")), own_language=True)
    for directory in (run, worse):
        _rename(directory, "xgqa", "flock", "sheep")
        (directory / "benchmarks.json").write_text(json.dumps([asdict(about)]), encoding="utf-8")
    report_runs([run, worse], tmp_path / "out")
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    languages = page.partition("<h2>By language</h2>")[2]
    assert "<h3>flock, sheep, %</h3>" in languages and "<span>66.67</span>" in languages
    assert ("Lower is better. A mark every 25, up to 100." in languages) == (higher is False)
    data = json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    flock = next(benchmark for benchmark in data["benchmarks"] if benchmark["name"] == "flock")
    assert (flock["metric"], flock["lower_is_better"]) == ("sheep", higher is False)
    assert flock["metrics"]["sheep"]["higher_is_better"] is higher
    (test,) = (test for test in data["tests"] if test["benchmark"] == "flock")
    assert test["rows"]["de"]["difference"] == pytest.approx(25 - 66.6666667)
    assert "| German | 66.67 [41.67, 91.67] |" in (tmp_path / "out/report.md").read_text(encoding="utf-8")
    files = export_run(run, tmp_path / "lmms")
    results = json.loads(files[-1].read_text(encoding="utf-8"))
    assert results["results"]["mblip_flock_de"]["sheep,none"] == pytest.approx(2 / 3)
    assert results["higher_is_better"]["mblip_flock_de"] == {"sheep": higher is not False}


def test_runs_that_hold_a_metric_in_different_units_are_refused(run: Path, worse: Path, tmp_path: Path) -> None:
    for directory, unit in ((run, "%"), (worse, "")):
        about = [asdict(About("xgqa", (Metric("accuracy", unit),)))]
        (directory / "benchmarks.json").write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(InputError, match="accuracy of xgqa in different units"):
        report_runs([run, worse], tmp_path / "out")


def test_the_same_runs_give_the_same_bytes(run: Path, worse: Path, pictures: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        report_runs([run, worse], tmp_path / name, images=[str(pictures)])
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("largest", "axis"),
    [
        (100, [0, 25, 50, 75, 100]),
        (0.83, [0, 0.25, 0.5, 0.75, 1]),
        (5.47, [0, 2, 4, 6]),
        (0.0, [0, 0.25, 0.5, 0.75, 1]),
        (1.2, [0, 0.5, 1, 1.5]),
    ],
)
def test_axes_end_at_round_values(largest: float, axis: list[float]) -> None:
    assert ticks(largest) == pytest.approx(axis)


def test_benchmarks_of_one_language_show_all_their_metrics_and_no_gap(run: Path, tmp_path: Path) -> None:
    scores = read_scores(run)
    metrics = {"accuracy": 90.0, "precision": 0.875, "recall": 0.7, "f1": 0.8, "yes_ratio": 0.4, "unparsed": 0.0}
    scores.append(replace(scores[0], benchmark="pope_random", language="en", metrics=metrics, ci95={}))
    write_scores(run, scores)
    for kind in ("items", "predictions"):
        shutil.copy(run / f"{kind}/xgqa-en.jsonl", run / f"{kind}/pope_random-en.jsonl")
    report_runs([run], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    alone = page.partition("<h2>In one language</h2>")[2].partition("<h2>")[0]
    assert all(value in alone for value in ("pope_random", "0.875", "yes_ratio", "0.400"))
    assert "pope_random" not in page.partition("<h2>Means over languages</h2>")[2].partition("<h2>In one language")[0]
    # The two bars of a language stay together, and every axis is told.
    assert page.count('<div class="group">') >= 9 and "A mark every 25, up to 100." in page


def test_runs_with_other_metrics_of_a_benchmark_are_named_in_tables_of_their_own(
    run: Path, worse: Path, tmp_path: Path
) -> None:
    for directory, more in ((run, {}), (worse, {"f1": 0.8})):
        (german,) = [s for s in read_scores(directory) if (s.benchmark, s.language) == ("xgqa", "de")]
        write_scores(directory, [replace(german, metrics=german.metrics | more)])
    report_runs([run, worse], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert (
        page.partition("<h2>In one language</h2>")[2].partition("<h2>")[0].count("<b>xgqa</b><br><small>German</small>")
        == 2
    )


def test_scenes_are_drawn_without_data_and_read_in_their_direction(tmp_path: Path) -> None:
    from mblip.config import EvalRecipe
    from mblip.evaluation.evaluate import evaluate

    recipe = EvalRecipe(title="t", benchmarks=("scenes",), languages=("ar", "en"), limit=4)
    evaluate("dummy", recipe, tmp_path / "none", tmp_path / "run")
    report_runs([tmp_path / "run"], tmp_path / "out", cards=2)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 2 and "name its folder" not in page
    assert '<dd dir="rtl">' in page and "Language fidelity" in page


def test_the_page_in_a_browser(run: Path, worse: Path, pictures: Path, tmp_path: Path, chromium: str) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    report_runs([run, worse], tmp_path / "out", images=[str(pictures)])
    address = (tmp_path / "out" / "report.html").as_uri()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        complaints: list[str] = []
        requests: list[str] = []
        for name, width, height in (("wide", 1280, 900), ("phone", 390, 844)):
            page = browser.new_page(viewport={"width": width, "height": height})
            page.on("request", lambda request: requests.append(request.url))
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.goto(address)
            page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            tables = page.evaluate("[...document.querySelectorAll('.scroll')].map(e => e.scrollWidth - e.clientWidth)")
            assert tables and not any(tables)  # none has to be scrolled sideways
            assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
            arabic = page.locator('dd[dir=rtl] bdi[lang="ar"]').first
            box, cell = arabic.bounding_box(), arabic.locator("xpath=ancestor::dd").bounding_box()
            assert box and cell and box["x"] + box["width"] / 2 > cell["x"] + cell["width"] / 2  # set from the right
            page.close()
        browser.close()
    assert complaints == []
    assert [url for url in requests if url != address and not url.startswith("data:")] == []
    assert requests.count(address) == 2


def _remove(name: str) -> Callable[[Path], None]:
    return lambda run: (run / name).unlink()


def _write(name: str, text: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        (run / name).write_text(text, encoding="utf-8")

    return change


def _score(**changes: Any) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        scores = [asdict(score) for score in read_scores(run)]
        scores[0] |= changes
        (run / "scores.json").write_text(json.dumps(scores), encoding="utf-8")

    return change


def _empty_items(run: Path) -> None:
    write_items(run, "xgqa", "de", list[ItemScore]())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_remove("run.json"), "run.json"),
        (_remove("scores.json"), "scores.json"),
        (_write("scores.json", "[]"), "holds no scores"),
        (_write("scores.json", "[{"), "damaged"),
        (_write("run.json", "[]"), "not what mblip eval writes"),
        (_remove("items/xgqa-de.jsonl"), "xgqa-de.jsonl"),
        (_write("items/xgqa-de.jsonl", '{"id": 1'), "xgqa-de.jsonl"),
        (_empty_items, "holds no items"),
        (_remove("predictions/xm3600-ja.jsonl"), "xm3600-ja.jsonl"),
        (_score(benchmark="xgqaa"), "did you mean 'xgqa'"),
        (_write("benchmarks.json", "[{"), "benchmarks.json is damaged"),
        (_write("benchmarks.json", '{"xgqa": 1}'), "benchmarks.json is damaged"),
        (
            _write("benchmarks.json", '[{"name": "xgqa", "metrics": [{"name": "a", "decimals": 9999}]}]'),
            "metrics.0.decimals",
        ),
        (_write("benchmarks.json", '[{"name": "xgqa", "metrics": "accuracy"}]'), "0.metrics"),
        (_score(language="tlh"), "unknown language 'tlh'"),
        (_score(metrics={}), "has no metrics"),
        (_score(metrics={"accuracy": float("nan")}), "not a number"),
        (_score(metrics={"accuracy": "many"}), "not a number"),
        (_score(ci95={"accuracy": [1]}), "ci95"),
    ],
)
def test_broken_runs_end_in_one_sentence(run: Path, change: Callable[[Path], None], says: str, tmp_path: Path) -> None:
    change(run)
    with pytest.raises(InputError) as error:
        report_runs([run], tmp_path / "out")
    assert says in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_the_verb(run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(run), "--json", "--samples", "1"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["runs"]["first"]["kind"] == "mblip"
    assert (run / "report.html").exists()
    twice = CliRunner().invoke(app, ["report", str(run), str(run)])
    assert isinstance(twice.exception, InputError) and "named twice" in str(twice.exception)
    lost = CliRunner().invoke(app, ["report", str(run), "--data", str(tmp_path / "nowhere")])
    assert isinstance(lost.exception, InputError) and "is not a folder" in str(lost.exception)
    none = CliRunner().invoke(app, ["report", str(tmp_path / "nowhere")])
    assert isinstance(none.exception, InputError)
