"""Translation on disk: killed anywhere and run again, every row is there once and every byte the same."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.folders import hash_directory
from tests.killed import At, Commands

from mblip.config import DataRecipe, load_recipe
from mblip.errors import InputError, ResourceError
from mblip.mixture import build_mix, plan_mix
from mblip.storage import check_shards
from mblip.translation import stage as module
from mblip.translation import translate_sources

OVERRIDES = ("sources.scenes.options.scenes=3000", "translation.rows_per_task=1024")
PARTS = 9


def _recipe(*overrides: str) -> DataRecipe:
    return load_recipe(DataRecipe, "data/nano_scenes", (*OVERRIDES, *overrides))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("work")
    translate_sources(_recipe(), work)
    return work


def test_rows_and_drops_are_the_plan(whole: Path) -> None:
    folder = whole / "translated/scenes"
    manifest = check_shards(folder)
    assert len(list(folder.glob("*.parquet"))) == len(list(folder.glob("exclusions-*.jsonl"))) == PARTS
    found: Counter[tuple[str, str]] = Counter()
    for task, languages in manifest.counts["scenes"].items():
        found.update({(task, language): count for language, count in languages.items()})
    for path in folder.glob("exclusions-*.jsonl"):
        found.update((row["task"], row["language"]) for row in map(json.loads, path.read_text().splitlines()))
    planned = plan_mix(_recipe(), whole)["scenes"]
    assert found == {(task, code): count for task, languages in planned.items() for code, count in languages.items()}


def test_mix_of_the_stage_is_the_mix_without_it(whole: Path, tmp_path: Path) -> None:
    staged = build_mix(_recipe(), tmp_path / "staged", work=whole)
    direct = build_mix(_recipe(), tmp_path / "direct")
    assert (staged.shards, staged.drops, staged.counts) == (direct.shards, direct.drops, direct.counts)


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_point(commands: Commands, whole: Path, tmp_path: Path, seed: int) -> None:
    arguments = ["data", "translate", "nano_scenes", *OVERRIDES, "--work", str(tmp_path)]
    draw = random.Random(seed)
    folder = tmp_path / "translated/scenes"
    for stage, calls in (("reading", 1), ("translating", draw.randint(2, 9)), ("translating", draw.randint(2, 9))):
        commands.killed(At(stage, calls=calls), *arguments)
        finished = {path: path.stat().st_mtime_ns for path in folder.glob("exclusions-*.jsonl")}
        # A shard without its mark is the one part that is made again.
        assert len(list(folder.glob("*.parquet"))) - len(finished) in (0, 1)
    assert commands.run(*arguments).code == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert hash_directory(tmp_path) == hash_directory(whole)


def test_two_workers(whole: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mblip", "data", "translate", "nano_scenes", *OVERRIDES, "--workers", "2"]
    subprocess.run([*command, "--work", str(tmp_path)], check=True, capture_output=True)
    assert hash_directory(tmp_path) == hash_directory(whole)


def test_workers_end_with_a_killed_parent_and_leave_what_goes_on(
    commands: Commands, whole: Path, tmp_path: Path
) -> None:
    arguments = ["data", "translate", "nano_scenes", *OVERRIDES, "--workers", "2", "--work", str(tmp_path)]
    process = commands.stop(At("translating", calls=2), *arguments)
    workers = _children(process)
    commands.kill(process)
    deadline = time.monotonic() + 120
    assert len(workers) >= 2 and list((tmp_path / "translated").rglob("exclusions-*.jsonl"))
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]
    assert commands.run(*arguments).code == 0
    assert hash_directory(tmp_path) == hash_directory(whole)


def _children(parent: int) -> list[int]:
    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/stat") if _parent(path) == parent]


def _parent(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:  # it ended meanwhile
        return 0


def test_a_worker_that_is_killed_is_a_clear_error(tmp_path: Path) -> None:
    from mblip.corpora.jobs import run_jobs
    from mblip.progress import silent

    with pytest.raises(ResourceError, match=r"a worker was killed while translating, .* fewer workers"):
        run_jobs(_kill_this_process, [1, 2, 3], 2, "translating", silent)


def _kill_this_process(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_another_recipe_is_refused_whether_finished_or_not(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds translations of another recipe"):
        translate_sources(_recipe("translation.held_out=0.5"), whole)
    with pytest.raises(InputError, match="holds translations of another recipe"):
        build_mix(_recipe("allocation.exclude_languages=[sw]"), tmp_path / "mix", work=whole)
    parts: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        original = module.write_part

        def once(part: module.Part) -> None:
            if parts:
                raise KeyboardInterrupt
            parts.append(part)
            original(part)

        patch.setattr(module, "write_part", once)
        with pytest.raises(KeyboardInterrupt):
            translate_sources(_recipe(), tmp_path / "work")
    with pytest.raises(InputError, match="holds part of a translation by another recipe"):
        translate_sources(_recipe("translation.held_out=0.5"), tmp_path / "work")
    translate_sources(_recipe(), tmp_path / "work")
    assert hash_directory(tmp_path / "work") == hash_directory(whole)


def test_everything_dropped_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="every example of 'scenes' was dropped"):
        translate_sources(
            _recipe("allocation={languages: [ga]}", "sources.scenes.options.tasks={presence: 1}"), tmp_path
        )


def test_examples_without_their_image_are_left_out_untranslated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["dog face", "cat face", "red apple", "nothing known"]
    rows = [{"image": f"{n}.jpg", "caption": words[3 if n % 5 == 0 else n % 3]} for n in range(100)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "images").mkdir()
    for number in range(100):
        if number % 5:  # those that the engine could not translate are those that are missing
            (tmp_path / "images" / f"{number}.jpg").touch()
    options = {"path": str(tmp_path / "own.jsonl"), "columns": {"image": "image", "caption": "caption"}}
    options |= {"task": "caption", "licence": "own"}
    recipe = load_recipe(
        DataRecipe, "data/nano_scenes",
        (f"images={tmp_path / 'images'}", "translation.held_out=0", "templates=[paper]",
         f"sources=[{{name: own, reader: table, options: {json.dumps(options)}}}]", "allocation={languages: [en, de, sw]}"),
    )  # fmt: skip
    manifest = build_mix(recipe, tmp_path / "mix")
    assert manifest.drops["missing image"] == 20 and manifest.rows + sum(manifest.drops.values()) == 100
    staged = translate_sources(recipe, tmp_path / "work")["own"]
    assert staged.drops == {name: count for name, count in manifest.drops.items() if name != "duplicate"}
    again = build_mix(recipe, tmp_path / "staged", work=tmp_path / "work")
    assert (again.shards, again.drops) == (manifest.shards, manifest.drops)
    kept = build_mix(recipe.model_copy(update={"images": ""}), tmp_path / "kept")
    assert "missing image" not in kept.drops
    with pytest.raises(InputError, match="is not an image store"):
        build_mix(recipe.model_copy(update={"images": str(tmp_path / "none")}), tmp_path / "x")
