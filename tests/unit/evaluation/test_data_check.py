"""``mblip doctor DATA_ROOT``: what is complete, what is missing, where it is to be had."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests import evaluation_data as data
from typer.testing import CliRunner, Result

from mblip.cli.app import app
from mblip.errors import InputError
from mblip.evaluation.benchmarks import EVALUATED
from mblip.evaluation.data_check import Finding, check_data


def findings(root: Path) -> dict[tuple[str, str], Finding]:
    return {(finding.benchmark, finding.language): finding for finding in check_data(root)}


def test_an_empty_folder_lacks_everything_and_says_where_it_is_to_be_had(tmp_path: Path) -> None:
    found = findings(tmp_path)
    assert len(found) == sum(len(benchmark.languages) for benchmark in EVALUATED.values()) == 179
    for finding in found.values():
        assert not finding.is_complete and not finding.annotations and "holds no" in finding.problem
        assert "github.com" in finding.source or "https://" in finding.source
        assert all(place.startswith(str(tmp_path)) for place in finding.places) and finding.places
    with pytest.raises(InputError, match="is not a folder; name the one that holds the benchmarks"):
        findings(tmp_path / "none")


def test_what_a_root_has_and_lacks(tmp_path: Path) -> None:
    root = data.everything(tmp_path)
    for code in ("en", "de"):
        data.pictures(root, EVALUATED["xgqa"], code)
    for path in data.pictures(root, EVALUATED["marvl"], "sw")[1:]:
        path.unlink()
    (root / "XVNLI/annotations/fr/test.jsonl").write_text('{"gold_label": "perhaps"}\n')
    (root / "vqa/v2_OpenEnded_mscoco_val2014_questions.json").unlink()
    found = findings(root)
    complete = {key for key, finding in found.items() if finding.is_complete}
    assert {("xgqa", "en"), ("xgqa", "de"), ("babel_imagenet", "de")} <= complete
    assert (found["xgqa", "de"].items, found["xgqa", "de"].images) == (3, 2)
    marvl = found["marvl", "sw"]
    assert (marvl.images, marvl.missing) == (3, 2) and marvl.example.startswith("sw/images/80-Kalamu/")
    assert "record 1 has the gold_label 'perhaps'" in found["xvnli", "fr"].problem
    assert "put the file of questions beside it" in found["vqa", "en"].problem
    assert found["xgqa", "bn"].annotations == ""


def test_annotations_behind_links_are_found_once(tmp_path: Path) -> None:
    data.xgqa(tmp_path / "far")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/linked").symlink_to(tmp_path / "far")
    (tmp_path / "far/back").symlink_to(tmp_path / "root")
    assert findings(tmp_path / "root")["xgqa", "de"].items == 3


def test_the_command_line(tmp_path: Path) -> None:
    data.xgqa(tmp_path)
    data.pictures(tmp_path, EVALUATED["xgqa"], "de")
    (tmp_path / "gqa/images/n2.jpg").unlink()
    shown = CliRunner().invoke(app, ["doctor", str(tmp_path)]).stdout
    assert "xgqa: 0 of 8 languages complete\n" in shown
    annotations = tmp_path / "xGQA/annotations/zero_shot/testdev_balanced_questions_de.json"
    assert f"images missing (de en): up to 1 of 2, such as n2.jpg (named by {annotations}, item 3); looked in" in shown
    # All places, those that do not exist yet too: that is where the missing ones may be put.
    assert f"); looked in gqa/images, xGQA/images, images below {tmp_path}" in shown
    assert "no annotations (bn id ko pt ru zh); looked for zero_shot/testdev_balanced_questions_bn.json" in shown
    assert "get: questions: github.com/e-bug/iglue" in shown
    data.babel_imagenet(tmp_path)
    shown = CliRunner().invoke(app, ["doctor", str(tmp_path)]).stdout
    [line] = [line for line in shown.splitlines() if "has no labels in" in line]  # not one a language
    assert line.startswith("  af am ar ") and line.endswith("has no labels in these languages")
    rows = json.loads(CliRunner().invoke(app, ["doctor", str(tmp_path), "--json"]).stdout)
    assert len(rows) == 179 and rows[0]["benchmark"] == "babel_imagenet" and rows[0]["is_complete"] is False


def doctor(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["doctor", *map(str, arguments)])


def test_a_folder_lists_what_it_lacks_and_fails_where_what_it_has_cannot_be_used(tmp_path: Path) -> None:
    assert doctor(tmp_path).exit_code == 0  # it asks for nothing
    data.xgqa(tmp_path)
    for code in ("en", "de"):
        pictures = data.pictures(tmp_path, EVALUATED["xgqa"], code)
    shown = doctor(tmp_path)
    assert shown.exit_code == 0 and "xgqa: 2 of 8 languages complete (de en)" in shown.stdout
    pictures[0].rename(tmp_path / "elsewhere.jpg")  # a picture is missing
    assert doctor(tmp_path).exit_code == doctor(tmp_path, "--json").exit_code == 1
    (tmp_path / "elsewhere.jpg").rename(pictures[0])
    assert doctor(tmp_path).exit_code == 0
    (tmp_path / "XVNLI/annotations/fr").mkdir(parents=True)
    (tmp_path / "XVNLI/annotations/fr/test.jsonl").write_text('{"gold_label": "perhaps"}\n')  # a file is damaged
    assert doctor(tmp_path).exit_code == 1


def test_what_the_catalogue_lacks_is_not_said_to_be_in_it(tmp_path: Path) -> None:
    shown = doctor("m3exam", "--data", tmp_path)
    assert shown.exit_code == 1 and "multimodal-m3exam" in shown.stdout and "mblip data download" not in shown.stdout
    shown = doctor("xgqa", "--data", tmp_path)
    assert shown.exit_code == 1 and f"get all of it: mblip data download xgqa --to {tmp_path}" in shown.stdout


def test_languages_are_chosen_of_suites_alone(tmp_path: Path) -> None:
    for what in (str(tmp_path), "nano/align", "nano:nano-mlm"):
        with pytest.raises(InputError, match=f"--languages is only for a suite, and {what} is not a suite"):
            CliRunner().invoke(app, ["doctor", what, "--languages", "sw"], catch_exceptions=False)


@pytest.mark.parametrize("suite", ["xgqa", "one.yaml"])
def test_a_suite_fails_where_anything_that_it_asks_for_is_missing(
    suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.yaml").write_text("title: one\nkind: eval\nbenchmarks: [xgqa]\n")
    with pytest.raises(InputError, match="there is no folder data; download the benchmarks with: mblip data download"):
        CliRunner().invoke(app, ["doctor", suite], catch_exceptions=False)
    data.xgqa(tmp_path / "data")
    for code in ("en", "de"):
        data.pictures(tmp_path / "data", EVALUATED["xgqa"], code)
    assert doctor(suite).exit_code == doctor(suite, "--json").exit_code == 1  # six languages are missing
    assert doctor(suite, "--languages", "German,en").exit_code == 0
    assert doctor(suite, "--languages", "German,bn").exit_code == 1
    with pytest.raises(InputError, match="has no data in sw"):
        CliRunner().invoke(app, ["doctor", suite, "--languages", "sw"], catch_exceptions=False)
    if suite == "xgqa":
        with pytest.raises(InputError, match=r"has no field that 'languages=\[de\]' could change"):
            CliRunner().invoke(app, ["doctor", suite, "languages=[de]"], catch_exceptions=False)
    else:
        assert doctor(suite, "languages=[de]").exit_code == 0


def test_tables_of_a_suite_are_looked_at_like_benchmarks(tmp_path: Path) -> None:
    lacking = doctor("multi30k", "--data", tmp_path)
    assert lacking.exit_code == 1 and "multi30k: 0 of 4 languages complete" in lacking.stdout
    assert "xgqa" not in lacking.stdout and "multi30k/test_2016_flickr.en.tsv" in lacking.stdout
    (tmp_path / "multi30k").mkdir()
    (tmp_path / "flickr30k-images").mkdir()
    (tmp_path / "multi30k/test_2016_flickr.cs.tsv").write_text("image\tcaption\n1.jpg\tPes\n2.jpg\tKo\u010dka\n")
    assert "2 of 2, such as 1.jpg" in doctor("multi30k", "--data", tmp_path, "--languages", "cs").stdout
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / "flickr30k-images" / name).write_bytes(b"")
    assert doctor("multi30k", "--data", tmp_path, "--languages", "cs").exit_code == 0
    (row,) = json.loads(doctor("multi30k", "--data", tmp_path, "--languages", "cs", "--json").stdout)
    assert (row["benchmark"], row["language"], row["items"], row["is_complete"]) == ("multi30k", "cs", 2, True)
    (tmp_path / "multi30k/test_2016_flickr.cs.tsv").write_text("image\tcaption\n\tPes\n")
    shown = doctor("multi30k", "--data", tmp_path, "--languages", "cs")
    assert shown.exit_code == 1 and "row 1" in shown.stdout


def test_a_suite_that_makes_its_own_items_needs_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = doctor("scenes", "--languages", "German,sw")
    assert shown.exit_code == 0 and "scenes: 2 of 2 languages complete (de sw)\n" in shown.stdout
    assert "needs no data" in shown.stdout
    rows = json.loads(doctor("scenes", "--languages", "sw", "--json").stdout)
    assert [(row["language"], row["is_complete"], row["items"] > 0) for row in rows] == [("sw", True, True)]
    with pytest.raises(InputError, match="scenes has no data in quz"):
        CliRunner().invoke(app, ["doctor", "scenes", "--languages", "qu"], catch_exceptions=False)
    (tmp_path / "both.yaml").write_text("title: both\nkind: eval\nbenchmarks: [scenes, xgqa]\nlanguages: [de]\n")
    (tmp_path / "data").mkdir()
    shown = doctor("both.yaml")
    assert shown.exit_code == 1 and "scenes: 1 of 1" in shown.stdout and "xgqa: 0 of 1" in shown.stdout


@pytest.mark.parametrize("models", [["a.gguf"], ["a.gguf", "b.gguf"]])
@pytest.mark.parametrize("holds", ["benchmark", "raw files"])
def test_a_folder_of_data_may_hold_models(holds: str, models: list[str], tmp_path: Path) -> None:
    if holds == "benchmark":
        data.xgqa(tmp_path / "deep")
        data.pictures(tmp_path, EVALUATED["xgqa"], "de")
    else:
        (tmp_path / "images/train2014").mkdir(parents=True)
    for name in models:
        (tmp_path / name).write_bytes(b"GGUF\3\0\0\0")
    shown = doctor(tmp_path)
    assert "xgqa: " in shown.stdout and "usable" not in shown.stdout


def test_a_model_is_looked_at_too(tmp_path: Path) -> None:
    good = CliRunner().invoke(app, ["doctor", "nano:nano-blip2-en", "--json"])
    assert good.exit_code == 0 and json.loads(good.stdout)["is_usable"] is True
    (tmp_path / "config.json").write_text('{"model_type": "blip-2"}')
    bad = CliRunner().invoke(app, ["doctor", str(tmp_path)])
    assert bad.exit_code == 1 and "  problem: " in bad.stdout
    assert CliRunner().invoke(app, ["doctor", str(tmp_path / "none")]).exit_code == 1
    with pytest.raises(
        InputError, match="there is no folder, recipe or benchmark called 'nowhere'; create the folder"
    ):  # and nobody asks the Hub
        CliRunner().invoke(app, ["doctor", "nowhere"], catch_exceptions=False)
