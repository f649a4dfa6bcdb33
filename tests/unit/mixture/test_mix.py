"""The mix: what was planned is there or dropped with a reason, the bytes follow from the recipe alone."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from tests.folders import hash_directory
from tests.killed import At, Commands

from mblip.config import AllocationSection, DataRecipe, SourceSection, load_recipe, save_recipe
from mblip.errors import InputError
from mblip.mixture import build_mix, plan_mix, plan_what_is_there, write_card
from mblip.mixture import mix as module
from mblip.mixture.plan import PartialPlan
from mblip.processing.rows import open_rows
from mblip.schema import Instruction
from mblip.storage import ShardReader, check_shards, exclusive_lock, read_drops, read_manifest
from mblip.translation import is_held_out

SMALL = ("sources.scenes.options.scenes=600", "sources.scenes.options.texts=6")


def _recipe(*overrides: str) -> DataRecipe:
    return load_recipe(DataRecipe, "data/nano_scenes", (*SMALL, *overrides))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS_PER_CHUNK", 1024)
    monkeypatch.setattr(module, "ROWS_PER_BOX", 800)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS_PER_CHUNK", 1024)
        patch.setattr(module, "ROWS_PER_BOX", 800)
        folder = tmp_path_factory.mktemp("mix") / "mix"
        build_mix(_recipe(), folder)
    return folder


@pytest.fixture(scope="module")
def instructions(folder: Path) -> list[Instruction]:
    return list(ShardReader(folder, Instruction))


def test_rows_and_drops_are_the_plan(folder: Path, instructions: list[Instruction]) -> None:
    manifest = check_shards(folder)
    planned: Counter[tuple[str, str, str]] = Counter()
    for source, tasks in plan_mix(_recipe()).items():
        for task, languages in tasks.items():
            planned.update({(source, task, language): count for language, count in languages.items()})
    found = Counter((d.source, d.task, d.language) for d in read_drops(folder))
    for source, tasks in manifest.counts.items():
        for task, languages in tasks.items():
            found.update({(source, task, language): count for language, count in languages.items()})
    assert planned.total() == 3600
    assert found == planned
    assert manifest.rows == len(instructions)
    assert set(manifest.drops) == {"never shown", "no translation", "duplicate"}


@pytest.mark.parametrize("name", ["own.parquet", "mix-old.parquet"])
def test_a_folder_with_tables_of_ones_own_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(InputError, match=f"holds {name}, which is not part of a mix; name another folder"):
        build_mix(_recipe(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["README.md", "recipe.yaml", "exclusions.jsonl"])
def test_files_of_ones_own_are_not_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"mine")
    (tmp_path / "photo.jpg").write_bytes(b"mine too")
    with pytest.raises(InputError, match=f"holds a file {name}, which the mix would overwrite; name another folder"):
        build_mix(_recipe(), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {name: b"mine", "photo.jpg": b"mine too"}


def test_a_second_process_is_refused_in_the_folder_of_a_mix(tmp_path: Path) -> None:
    (tmp_path / "mix").mkdir()
    with (
        exclusive_lock(tmp_path / "mix", "building a mix"),
        pytest.raises(InputError, match="mix: another process is building a mix there; wait for it"),
    ):
        build_mix(_recipe(), tmp_path / "mix")
    assert not any((tmp_path / "mix").iterdir())


@pytest.mark.parametrize("cut", [0, 100, -200])
def test_a_shard_that_is_cut_off_is_named(folder: Path, tmp_path: Path, cut: int) -> None:
    shutil.copytree(folder, tmp_path / "mix")
    shard = next(iter(sorted((tmp_path / "mix").glob("*.parquet"))))
    shard.write_bytes(shard.read_bytes()[:cut])
    for step in (read_manifest, write_card, lambda path: build_mix(_recipe(), path), open_rows):
        with pytest.raises(InputError, match=f"{shard.name} is damaged or not a Parquet file"):
            step(tmp_path / "mix")


def test_a_mix_without_an_instruction_says_why(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    recipe = _recipe(f"images={tmp_path / 'pictures'}", "sources.scenes.options.scenes=20")
    for _ in range(2):
        with pytest.raises(
            InputError,
            match=r"no example reached the mix \(\d+ missing image\); .*exclusions.jsonl has the reason for each",
        ):
            build_mix(recipe, tmp_path / "mix")
    assert not (tmp_path / "mix/manifest.json").exists()


@pytest.mark.parametrize("sampled", [False, True])
def test_the_plan_tells_what_is_left_out_and_what_no_template_fits(tmp_path: Path, sampled: bool) -> None:
    rows = [{"image": "a.jpg", "text": text} for text in ("A boat.", "", "Two boats.", 5, "a\0b")]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def plan(role: str) -> PartialPlan:
        options = {"path": str(tmp_path / "own.jsonl"), "columns": {"image": "image", role: "text"}, "task": "caption"}
        source = SourceSection(name="own", reader="table", options=options | {"licence": "x"})
        recipe = DataRecipe(
            title="t",
            sources=(source,),
            bad_rows="drop",
            allocation=AllocationSection(method="uniform", languages=("en",)),
        )
        return plan_what_is_there(recipe, tmp_path / role if sampled else None)

    found = plan("caption")
    assert found == PartialPlan({"own": {"caption": {"en": 2}}}, {"own": {"bad row": 2, "unusable text": 1}}, {})
    found = plan("question")
    assert found.counts == {} and "has no text 'caption', which the template" in found.missing["own"]


def test_texts_of_a_picture_stand_together_and_pictures_are_shuffled(instructions: list[Instruction]) -> None:
    keys = [row.images for row in instructions]
    groups = [key for key, before in zip(keys, [None, *keys], strict=False) if key != before]
    assert len(groups) == len(set(groups)) > 550
    scenes = list(dict.fromkeys(int(row.id.split("-")[1]) for row in instructions))
    ordered = sum(a < b for a, b in itertools.pairwise(scenes))
    assert 0.4 < ordered / len(scenes) < 0.6
    assert len(set(keys)) < len(keys) / 3
    assert len({row.answer_language for row in instructions[:200]}) > 50


def test_nothing_twice_and_nothing_never_shown(instructions: list[Instruction]) -> None:
    contents = Counter((row.images, row.prompt, row.answer) for row in instructions)
    assert contents.most_common(1)[0][1] == 1
    from mblip.nano.words import load_lexicon

    lexicon = load_lexicon()
    forbidden = {
        (language, lexicon.name(concept, language))
        for language in lexicon.languages for concept in lexicon.concepts if is_held_out(concept, language, 0.2)
    }  # fmt: skip
    checked = 0
    for row in instructions:
        words = row.answer.rstrip("?").split(", ")
        if row.task in ("presence", "count", "matching"):
            words += row.prompt.partition("?")[0].rpartition(": ")[2].removeprefix("How many ").split(", ")
        for word in words:
            checked += 1
            assert (row.prompt_language if word in row.prompt else row.answer_language, word) not in forbidden
    assert checked > len(instructions)


def test_same_recipe_same_bytes_for_any_number_of_workers(folder: Path, tmp_path: Path) -> None:
    build_mix(_recipe(), tmp_path / "again")
    assert hash_directory(tmp_path / "again") == hash_directory(folder)


# Two chunks of the real size.
COMMAND = ["data", "mix", "nano_scenes", "sources.scenes.options.scenes=14000", "--to"]


@pytest.fixture(scope="module")
def whole(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "mix"
    assert commands.run(*COMMAND, str(folder)).code == 0
    return folder


@pytest.mark.slow
def test_two_workers(commands: Commands, whole: Path, tmp_path: Path) -> None:
    assert commands.run(*COMMAND, str(tmp_path / "mix"), "--workers", "2").code == 0
    assert hash_directory(tmp_path / "mix") == hash_directory(whole)


def test_another_seed_is_another_mix(folder: Path, tmp_path: Path) -> None:
    build_mix(_recipe("seed=2"), tmp_path / "mix")
    assert hash_directory(tmp_path / "mix") != hash_directory(folder)


@pytest.mark.parametrize("stop_after", [0, 1, 3, 5, 6])
def test_interrupted_run_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    steps = 0

    def breaking(step: object) -> object:
        def run(job: object) -> int:
            nonlocal steps
            if steps == stop_after:
                raise KeyboardInterrupt
            steps += 1
            return step(job)  # type: ignore[operator]

        return run

    with monkeypatch.context() as patch:
        patch.setattr(module, "_deal", breaking(module._deal))
        patch.setattr(module, "_collect", breaking(module._collect))
        with pytest.raises(KeyboardInterrupt):
            build_mix(_recipe(), tmp_path / "mix")
    assert not (tmp_path / "mix" / "manifest.json").exists()
    done = []
    with monkeypatch.context() as patch:
        write = module._write_boxes
        patch.setattr(module, "_write_boxes", lambda chunk, rows: done.append(chunk.path) or write(chunk, rows))
        build_mix(_recipe(), tmp_path / "mix")
    assert len(done) == max(0, 4 - stop_after)
    assert hash_directory(tmp_path / "mix") == hash_directory(folder)


def test_killed_run_goes_on(commands: Commands, whole: Path, tmp_path: Path) -> None:
    arguments = [*COMMAND, str(tmp_path / "mix")]
    commands.killed(At("writing instructions"), *arguments)
    assert list((tmp_path / "mix").glob(".work/boxes/*/*.arrow"))
    assert not (tmp_path / "mix" / "manifest.json").exists()
    assert commands.run(*arguments).code == 0
    assert hash_directory(tmp_path / "mix") == hash_directory(whole)
    assert not (tmp_path / "mix" / ".work").exists()


def test_finished_mix_is_left_alone_and_another_recipe_refused(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    build_mix(_recipe("title=other words"), folder)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    with pytest.raises(InputError, match="holds the mix of another recipe"):
        build_mix(_recipe("seed=5"), folder)


def test_leftovers_of_another_recipe_do_not_stay(folder: Path, tmp_path: Path) -> None:
    build_mix(
        _recipe("seed=9", "sources.scenes.options.scenes=900", "sources.scenes.options.texts=6"), tmp_path / "mix"
    )
    (tmp_path / "mix" / "manifest.json").unlink()
    build_mix(_recipe(), tmp_path / "mix")
    assert hash_directory(tmp_path / "mix") == hash_directory(folder)


@pytest.mark.parametrize(("override", "message"), [
    ("templates=[nanoo]", "did you mean 'nano'"),
    ("translation.engine=lexikon", "did you mean 'lexicon'"),
    ("allocation.languages=[xx]", "unknown language 'xx'"),
    ("allocation.task_languages={presense: [de]}", "no template is for a task 'presense'; did you mean 'presence'"),
    ("allocation.disjoint=[[naming, captoin]]", "allocation.disjoint: no template is for a task 'captoin'"),
    ("translation.short_answers.tasks=[vqa]", "short_answers.tasks: no template is for a task 'vqa'"),
    ("sources.scnes.options.scenes=3", "'sources' has no item 'scnes'; did you mean 'scenes'. Available: scenes"),
    ("sources.1.options.scenes=3", "'sources' has no item '1'; available: scenes"),
    ("sources.scenes=3", "'sources' is a list; set a field of one of its items, or all of it"),
    ("sources.scenes.reader=scnes", "no reader 'scnes'; did you mean 'scenes'"),
    ("sources.scenes.options.scense=3", "no option 'scense'; did you mean 'scenes'"),
    ("sources.scenes.options.scenes=many", "option 'scenes': input should be a valid integer"),
])  # fmt: skip
def test_wrong_settings_write_nothing(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_mix(_recipe(override), tmp_path / "mix")
    assert not list(tmp_path.rglob("*.parquet")) and not list(tmp_path.rglob("*.jsonl"))


def test_plan_counts_what_is_there_and_says_what_is_not(commands: Commands, tmp_path: Path) -> None:
    rows = [{"image": f"{n}.jpg", "text": f"text {n}"} for n in range(50)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = {"path": str(tmp_path / "own.jsonl"), "columns": {"image": "image", "caption": "text"}, "task": "caption"}
    web = {"path": str(tmp_path / "ccs.json"), "pipeline": "en_core_web_none"}
    (tmp_path / "ccs.json").write_text("[]")
    sources = (
        SourceSection(name="web", reader="web_capfilt", options=web),
        SourceSection(name="own", reader="table", options=own | {"licence": "own"}),
        SourceSection(name="gqa", reader="gqa", options={"path": str(tmp_path / "none.json")}),
    )
    save_recipe(DataRecipe(title="t", sources=sources), tmp_path / "recipe.yaml")
    command = ["data", "plan", str(tmp_path / "recipe.yaml"), "--json"]
    for work in ((), ("--work", str(tmp_path / "work"))):
        done = commands.run(*command, *work)
        assert done.code == 0 and sum(json.loads(done.out)["own"]["caption"].values()) == 50
        assert "not counted: web: there is no spaCy pipeline 'en_core_web_none'" in done.err
        assert "not counted: gqa: cannot read" in done.err
    done = commands.run(*command, f"sources.own.options.path={tmp_path}/none")
    assert (done.code, done.out) == (2, "") and "no source of" in done.err


def test_languages_left_out_are_left_out_of_sources_in_their_own_languages(tmp_path: Path) -> None:
    rows = [{"image": f"{n}.jpg", "text": f"text {n}", "lang": ("sw", "de", "en")[n % 3]} for n in range(30)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"image": "image", "caption": "text"}
    options = {"path": str(tmp_path / "own.jsonl"), "columns": columns, "task": "caption", "licence": "own"}
    options |= {"language_column": "lang"}
    source = SourceSection(name="own", reader="table", options=options, translate=False)
    recipe = DataRecipe(title="t", sources=(source,), allocation=AllocationSection(exclude_languages=("sw",)))
    manifest = build_mix(recipe, tmp_path / "mix")
    assert (manifest.by_language, manifest.drops) == ({"de": 10, "en": 10}, {"language left out": 10})


@pytest.mark.parametrize(("options", "content", "message"), [
    ({"task": "captoin"}, '{"i": "a", "c": "x"}\n', "no template is for its task 'captoin'; did you mean 'caption'"),
    ({"columns": {"image": "i", "text": "c"}}, '{"i": "a", "c": "x"}\n', "has no text 'caption', which the template"),
    ({"language": "de"}, '{"i": "a", "c": "x"}\n', "1 example in 'de', but only English is translated"),
    ({}, "", r"own.jsonl has no row that fits its options"),
    ({}, '{"i": "a", "c": "x"', r"line 1 is not valid JSON \(the file is cut off\)"),
])  # fmt: skip
def test_nothing_is_translated_before_the_templates_fit(
    commands: Commands, tmp_path: Path, options: dict[str, object], content: str, message: str
) -> None:
    (tmp_path / "own.jsonl").write_text(content)
    given = {"columns": {"image": "i", "caption": "c"}, "task": "caption", "licence": "own"} | options
    source = SourceSection(name="own", reader="table", options={"path": str(tmp_path / "own.jsonl"), **given})
    recipe = DataRecipe(title="t", sources=(source,), allocation=AllocationSection(languages=("sw",)))
    save_recipe(recipe, tmp_path / "recipe.yaml")
    for verb, to in (("sample", "--work"), ("translate", "--work"), ("mix", "--to")):
        done = commands.run("data", verb, str(tmp_path / "recipe.yaml"), to, str(tmp_path / verb))
        assert done.code == 2 and re.search(message, done.err), done.err
        assert not list((tmp_path / verb).rglob("translated")) and not list((tmp_path / verb).rglob("mix-*"))
    if not content.endswith("}\n"):
        assert not (tmp_path / "mix").exists() and not list((tmp_path / "sample").rglob("*.*"))


def test_a_folder_that_was_there_stays_where_nothing_can_be_read(tmp_path: Path) -> None:
    options = {"path": str(tmp_path / "none.json")}
    recipe = DataRecipe(title="t", sources=(SourceSection(name="gqa", reader="gqa", options=options),))
    (tmp_path / "mix" / "mine").mkdir(parents=True)
    for folder in (tmp_path / "mix", tmp_path / "new"):
        with pytest.raises(InputError):
            build_mix(recipe, folder)
    assert [path.name for path in (tmp_path / "mix").iterdir()] == ["mine"] and not (tmp_path / "new").exists()


def test_english_alone_and_a_language_left_out(tmp_path: Path) -> None:
    english = build_mix(_recipe("allocation.languages=[en]"), tmp_path / "en")
    assert set(english.by_language) == {"en"} and set(english.drops) == {"duplicate"}
    without = build_mix(_recipe("allocation.exclude_languages=[no, sw]"), tmp_path / "x")
    assert len(without.by_language) == 83 and not {"no", "sw"} & set(without.by_language)


def test_command_line(commands: Commands, folder: Path) -> None:
    def run(*arguments: str) -> str:
        done = commands.run("data", *arguments)
        assert done.code == 0, done.err
        return done.out

    plan = json.loads(run("plan", "nano_scenes", *SMALL, "--json"))
    assert sum(sum(languages.values()) for languages in plan["scenes"].values()) == 3600
    shown = json.loads(run("inspect", str(folder), "--language", "German", "--task", "naming", "--rows", "2", "--json"))
    assert [(r["answer_language"], r["task"]) for r in shown["records"]] == [("de", "naming")] * 2
    plain = run("plan", "nano_scenes", *SMALL)
    assert "examples in 85 languages" in plain and " question_generation " in plain
    for wrong in (("--task", "namign"), ("--language", "ceb")):
        done = commands.run("data", "inspect", str(folder), *wrong)
        assert done.code == 2 and "has no record with the" in done.err
