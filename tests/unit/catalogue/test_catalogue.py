"""The shipped catalogue, catalogues of one's own, and what recipes and suites come to."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from mblip import plugins
from mblip.catalogue.checking import check_needs
from mblip.catalogue.entries import SetFile, load_catalogue, read_catalogue
from mblip.catalogue.names import unsafe
from mblip.catalogue.wanted import ByHand, check_raw_files, find_wanted, finds, open_recipe, raw_paths, read_elsewhere
from mblip.cli.app import app
from mblip.config import DataRecipe, EvalRecipe, TrainRecipe, load_recipe, shipped_recipes
from mblip.errors import InputError
from mblip.evaluation.benchmarks import EVALUATED, MADE

CATALOGUE = load_catalogue()


def names(*wanted: str) -> list[str]:
    return [entry.name for entry in find_wanted(wanted, CATALOGUE).sets]


def test_every_set_is_described() -> None:
    assert len(CATALOGUE) >= 40
    assert [name for name, entry in CATALOGUE.items() if not entry.licence or not entry.title or not entry.page] == []
    assert [name for name, entry in CATALOGUE.items() if entry.by_hand and not entry.ask] == []
    pinned = [file.url for entry in CATALOGUE.values() for file in entry.files if "raw.githubusercontent" in file.url]
    assert len(pinned) > 40
    assert [
        url for url in pinned if not re.search(r"/[0-9a-f]{40}/", url)
    ] == []  # the content of a commit never changes


def test_every_benchmark_and_every_raw_file_of_a_recipe_is_in_the_catalogue() -> None:
    assert [name for name in EVALUATED if not find_wanted([name], CATALOGUE).sets] == []
    recipes = {name: open_recipe(name) for name in shipped_recipes() if "/" in name}
    assert len(recipes) > 20
    for name, recipe in recipes.items():
        if isinstance(recipe, DataRecipe | TrainRecipe) and name != "train/finetune_own":
            assert find_wanted([name], CATALOGUE).by_hand == [], name
        if isinstance(recipe, EvalRecipe):
            found = find_wanted([name], CATALOGUE)
            assert found.sets or found.by_hand, name


def test_what_benchmarks_look_for_lies_where_they_look() -> None:
    """The file names and folders of the catalogue are those that the benchmarks declare."""
    listing = [
        Path(give)
        for entry in CATALOGUE.values()
        for file in entry.files
        if not file.is_checkpoint
        for give in file.gives
    ]
    lacking = []
    for name, benchmark in EVALUATED.items():
        patterns = [*benchmark.files, *benchmark.english_files]
        if not any(path.match(pattern.format(code="*")) for path in listing for pattern in patterns):
            lacking.append(name)
        if not any(str(path) in benchmark.images or str(path.parent) in benchmark.images for path in listing):
            lacking.append(f"{name}: pictures")
    assert lacking == ["maxm"]  # whose archive holds maxm_v1_xx.json, below a folder that its page does not name


def test_names_recipes_suites_and_checkpoints() -> None:
    assert names("xgqa") == ["xgqa", "gqa_images"]
    assert names("pope", "chair") == ["pope", "coco_val2014", "chair", "coco_captions"]
    assert names("pope_seem_gqa_random") == ["pope_seem_gqa", "gqa_images"]
    assert {"pope", "pope_seem_aokvqa", "pope_seem_gqa", "chair"} <= set(names("hallucination"))
    assert {"web_capfilt", "imagenet_train", "nllb-1.3b", "coco_train2014"} <= set(names("paper_v2"))
    assert find_wanted(["paper_v2"], CATALOGUE).next == [
        "mblip data engine nllb-1.3b --to data/nllb-200-distilled-1.3B-int8"
    ]
    assert names("mt0_xl_align") == ["blip2_flan_t5_xl", "mt0_xl"]
    assert names("bigscience/mt0-xl", "org/name@v1") == ["mt0_xl", "org/name@v1"]
    with pytest.raises(InputError, match="nothing in the catalogue is called 'xgq'; did you mean 'xgqa'"):
        names("xgq")


def test_a_suite_may_have_benchmarks_that_read_nothing_and_says_which_data_the_catalogue_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plugins.benchmarks, "_things", dict(plugins.benchmarks._things))
    made = dataclasses.replace(MADE["scenes"], name="made")
    plugins.benchmarks.register("made", made)
    plugins.benchmarks.register("read", dataclasses.replace(made, name="read", files=("read.json",)))

    def suite(*benchmarks: str) -> list[str]:
        found = find_wanted([EvalRecipe(title="my suite", benchmarks=benchmarks)], CATALOGUE)
        return [entry.name for entry in found.sets]

    assert suite("made", "scenes") == [] and suite("made", "xgqa") == ["xgqa", "gqa_images"]
    with pytest.raises(InputError, match="no data for the benchmark 'read' of my suite"):
        suite("made", "read")


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    recipe = tmp_path / "own.yaml"
    sources: list[dict[str, Any]] = [
        {"name": "coco", "reader": "coco", "options": {"path": "elsewhere/dataset_coco.json"}},
        {"name": "mine", "reader": "table", "options": {"path": "no/mine.csv", "columns": {"image": "i"}, "task": "caption",
                                                       "licence": "CC0"}},
    ]  # fmt: skip
    recipe.write_text(yaml.safe_dump({"title": "own", "sources": sources}))
    wanted = find_wanted([str(recipe)], CATALOGUE)
    assert [entry.name for entry in wanted.sets] == ["coco_captions"]
    assert wanted.by_hand == [ByHand(("no/mine.csv",), "raw data of mine", below=False)]
    assert raw_paths(load_recipe(DataRecipe, recipe)) == {"elsewhere/dataset_coco.json": "coco", "no/mine.csv": "mine"}
    assert wanted.by_hand[0].is_there(tmp_path) is False
    sources[1]["options"] |= {"language_column": "meta.lang", "licence": "CC-BY 4.0/own"}
    recipe.write_text(yaml.safe_dump({"title": "own", "sources": sources}))
    assert find_wanted([str(recipe)], CATALOGUE).by_hand == wanted.by_hand
    hit = finds("/x/y/dataset_coco.json", CATALOGUE)
    assert hit and hit[0].name == "coco_captions" and finds("dataset_cocoo.json", CATALOGUE) is None


def test_a_file_that_a_recipe_reads_elsewhere_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere/coco/annotations/captions_train2014.json"
    source = {"name": "coco", "reader": "coco", "options": {"path": str(path)}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"title": "own", "sources": [source]}))
    wanted = find_wanted([str(tmp_path / "own.yaml")], CATALOGUE)
    place = tmp_path / "data/coco/annotations/captions_train2014.json"
    assert read_elsewhere(wanted, CATALOGUE, tmp_path / "data") == {}  # it is at neither place
    place.parent.mkdir(parents=True)
    place.touch()
    assert read_elsewhere(wanted, CATALOGUE, tmp_path / "data") == {str(path): place}
    path.parent.mkdir(parents=True)
    path.touch()
    assert read_elsewhere(wanted, CATALOGUE, tmp_path / "data") == {}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: [", "is not readable YAML"),
        ("- a", "must map names of data sets"),
        ("a: 1", "'a' must be a data set"),
        ("a: {files: [{urll: 'http://h/x'}]}", "unknown field 'files.0.urll'; did you mean 'url'"),
        ("a: {files: [{url: 'ftp://h/x'}]}", "must begin with http://"),
        ("a: {files: [{url: 'http:///x'}]}", "must begin with http://"),
        ("a: {files: [{url: 'hf://one'}]}", "must read hf://"),
        ("a: {files: [{url: 'http://h/x', path: ../x}]}", "leaves its folder by '..'"),
        ("a: {files: [{url: 'http://h/x', path: /x}]}", "is absolute"),
        ("a: {files: [{url: 'http://h/x.zip', unpack: ../../x}]}", "leaves its folder by '..'"),
        ("a: {files: [{url: 'http://h/'}]}", "needs a 'path'"),
        ("a: {files: [{url: 'http://h/x', sha256: abc}]}", "sha256"),
        ("a: {files: [{url: 'http://h/x', bytes: -1}]}", "bytes"),
        ("a: {licence: CC0, ask: by mail}", "data set 'a': it names neither 'files' nor 'needs'"),
        ("a: {needs: [b]}\na: {needs: [c]}", "two fields have the name 'a'; remove one"),
        (
            "a: {files: [{url: 'http://h/x'}, {url: 'http://h/y', path: x/y}]}",
            "a file at 'x' and another inside it, 'x/y'",
        ),
        ("a: {files: [{url: 'http://h/x'}, {url: 'http://h/y', path: x}]}", "two files for one path 'x'"),
    ],
)
def test_mistakes_in_a_catalogue(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_catalogue(path)
    assert said in str(caught.value) and str(path) in str(caught.value)


def test_a_catalogue_in_another_encoding_is_told(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_bytes("a: {licence: caf\u00e9, needs: [xgqa]}".encode("latin-1"))
    with pytest.raises(InputError, match=r"own\.yaml, line 1: the byte 0xE9 is not UTF-8; save the file as UTF-8"):
        read_catalogue(tmp_path / "own.yaml")


def test_own_sets_go_first_and_needs_are_looked_up(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("xgqa: {files: [{url: 'http://h/x.json', bytes: 3}]}\nmine: {needs: [xgqa]}")
    own = load_catalogue(path)
    assert [entry.name for entry in find_wanted(["mine"], own).sets] == ["mine", "xgqa"] and own["xgqa"].bytes == 3
    path.write_text("mine: {needs: [xgqaa]}")
    with pytest.raises(InputError, match="needs 'xgqaa', which no catalogue has; did you mean 'xgqa'"):
        load_catalogue(path)


def test_files() -> None:
    file = SetFile(url="https://h/a/b%20c.tar.gz?x=y")
    assert (file.target, file.folder, file.gives) == ("b c.tar.gz", ".", [])
    assert SetFile(url="http://h/x", path="d/x.zip", unpack="in", holds=("t",)).gives == ["d/in/t"]
    assert SetFile(url="http://h/x.tar", unpack=False).folder is None
    hub = SetFile(url="hf://datasets/o/n@v1/f/g.json").hub
    assert hub and (hub.repository, hub.is_dataset, hub.revision, hub.file) == ("o/n", True, "v1", "f/g.json")
    assert SetFile(url="hf://o/n").is_checkpoint
    assert [name for name in ("a", "a/b", "./a", "ü") if unsafe(name)] == []


def test_missing_raw_files_are_told_together(tmp_path: Path) -> None:
    (tmp_path / "there.json").write_text("[]")
    paths = [
        tmp_path / name for name in ("dataset_coco.json", "there.json", "imagenet/train", "detail_23k.json", "mine.csv")
    ]
    with pytest.raises(InputError) as caught:
        check_raw_files(paths, "the sources a, b")
    told = str(caught.value)
    assert told.startswith("4 raw files are missing: ") and "there.json" not in told
    assert f"mblip data download coco_captions imagenet_train llava_instruct --to {tmp_path}" in told
    assert f"download or name {tmp_path}/mine.csv in the options of its source" in told
    check_raw_files(paths[1:2], "")


def doctor(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["doctor", *arguments])


def test_doctor_of_a_data_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = doctor("paper_v2")
    assert found.exit_code == 1 and "missing  data/dataset_coco.json" in found.output
    assert "0 of 11 there; all at once: mblip data download paper_v2" in found.output
    assert "must be requested: https://www.image-net.org" in found.output and not list(tmp_path.iterdir())
    (tmp_path / "data/imagenet/train").mkdir(parents=True)
    (tmp_path / "data/dataset_coco.json").write_text('{"images": []}\n')
    (tmp_path / "data/detail_23k.json").write_text('[{"id": "3')
    (tmp_path / "data/conversation_58k.json").touch()
    (tmp_path / "data/babel_imagenet.json").write_text("{}")
    recipe = open_recipe("paper_v2")
    assert isinstance(recipe, DataRecipe)
    states = {
        need.what: (need.state, need.problem)
        for need in check_needs(recipe, find_wanted([recipe], CATALOGUE), CATALOGUE)
    }
    assert states["data/dataset_coco.json"] == ("there", "")
    assert states["data/detail_23k.json"] == ("damaged", "it is cut off in the middle")
    assert states["data/conversation_58k.json"] == ("damaged", "it is empty")
    assert states["data/babel_imagenet.json"] == ("damaged", "it has 2 bytes instead of 1,312,075")
    assert states["data/imagenet/train"] == ("damaged", "the folder is empty")
    assert states["data/aokvqa_v1p0_train.json"] == ("missing", "")


def test_doctor_of_training_and_suites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = doctor("mt0_xl_align", "data.images=pictures")
    assert found.exit_code == 1
    assert "missing  bigscience/mt0-xl (checkpoint)\n         do: mblip data download mt0_xl" in found.output
    assert "missing  pictures (pictures)" in found.output and "missing  runs/mix (mix)" in found.output
    assert doctor("nano_scenes").exit_code == 0 and doctor("nano/vision").output == "nano/vision needs no data\n"
    suite = doctor("hallucination")
    assert "there is no folder data; download the benchmarks with: mblip data download hallucination" in str(
        suite.exception
    )
    (tmp_path / "data").mkdir()
    suite = doctor("hallucination", "--data", "data")
    assert suite.exit_code == 1 and "or: mblip data download pope --to data" in suite.output
    assert "xgqa" not in suite.output and "get all of it: mblip data download hallucination --to data" in suite.output


def test_training_names_all_that_is_missing_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mblip.training.inputs import check_paths

    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(TrainRecipe, "finetune_gqa", ("model.run=", "model.vision=a/b", "model.llm=a/b"))
    with pytest.raises(InputError) as caught:
        check_paths(recipe)
    told = str(caught.value)
    assert (
        "'data/gqa/images' is not an image store" in told
        and "there is no data/gqa/train_balanced_questions.json" in told
    )
    assert told.endswith("download with: mblip data download gqa_images gqa_questions --to data")
