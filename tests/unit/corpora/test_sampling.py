"""The English stage: kept once, refused when it is another's, ids unique."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.folders import hash_directory
from tests.killed import At, Commands

from mblip.config import AllocationSection, DataRecipe, SourceSection, save_recipe
from mblip.corpora import reading, sample_sources, sampling
from mblip.corpora.provenance import changed_file, stamp_files
from mblip.errors import InputError
from mblip.mixture import build_mix
from mblip.translation import translate_sources


def _recipe(path: Path, bad_rows: str = "error", names: tuple[str, ...] = ("own",), **options: Any) -> DataRecipe:
    columns = {"image": "image", "caption": "text", "id": "id"}
    options = {"path": str(path), "columns": columns, "task": "caption", "licence": "CC0-1.0"} | options
    sources = tuple(SourceSection(name=name, reader="table", options=options) for name in names)
    return DataRecipe(title="t", sources=sources, bad_rows=bad_rows)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "own.jsonl"
    rows = [{"image": f"{n}.jpg", "text": f"text {n}", "id": str(n % 2500)} for n in range(3000)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_duplicate_ids_stop_or_are_counted(table: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"own.jsonl, row with id=0: duplicate id \(example 2501 of the source has"):
        sample_sources(_recipe(table), tmp_path / "work")
    assert not (tmp_path / "work/english/own/manifest.json").exists()
    stage = sample_sources(_recipe(table, "drop"), tmp_path / "work")["own"]
    assert (stage.manifest.rows, stage.manifest.drops) == (2500, {"duplicate id": 500})
    assert stage.manifest.licences == {"own": "CC0-1.0"}
    assert [e.texts["caption"] for e in stage.reader.rows(0, 2)] == ["text 0", "text 1"]


def test_stage_is_read_once_and_not_mixed_up(table: Path, tmp_path: Path) -> None:
    sample_sources(_recipe(table, "drop"), tmp_path / "work")
    before = hash_directory(tmp_path / "work")
    with pytest.raises(InputError, match="holds the examples of another recipe"):
        sample_sources(_recipe(table, "drop", task="description"), tmp_path / "work")
    table.write_bytes(table.read_bytes())  # written anew, but the same
    sample_sources(_recipe(table, "drop"), tmp_path / "work")
    table.unlink()  # a finished stage does without it
    sample_sources(_recipe(table, "drop"), tmp_path / "work")
    assert hash_directory(tmp_path / "work") == before


def test_a_changed_file_is_noticed_in_every_stage(table: Path, tmp_path: Path) -> None:
    recipe, work = _recipe(table, "drop"), tmp_path / "work"
    recipe = recipe.model_copy(update={"allocation": AllocationSection(languages=("en",))})
    translate_sources(recipe, work)
    build_mix(recipe, tmp_path / "mix", work=work)
    text = table.read_text()
    table.write_text(text.replace("text 7", "TEXT 7"))  # of the same length
    for step in (
        lambda: sample_sources(recipe, work), lambda: translate_sources(recipe, work),
        lambda: build_mix(recipe, tmp_path / "mix"), lambda: build_mix(recipe, tmp_path / "other", work=work),
    ):  # fmt: skip
        with pytest.raises(InputError, match=r"own.jsonl has changed since .* delete that folder"):
            step()
    shutil.rmtree(work / "english")
    sample_sources(recipe, work)
    with pytest.raises(InputError, match="holds translations of another recipe or of older English examples"):
        translate_sources(recipe, work)


def test_images_and_folders_of_shards_are_stamped_too(table: Path, tmp_path: Path) -> None:
    for name in ("n01", "n02"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "0.JPEG").touch()
    stamps = stamp_files([tmp_path / "train", tmp_path / "none"])
    assert changed_file(stamps) == ""
    (tmp_path / "train/n01/1.JPEG").touch()
    later = time.time_ns() + 10**9  # file systems tell milliseconds apart at best
    os.utime(tmp_path / "train/n01", ns=(later, later))
    assert changed_file(stamps) == str(tmp_path / "train")
    sample_sources(_recipe(table, "drop"), tmp_path / "work")
    options = {"captions": str(tmp_path / "work/english/own")}
    matching = DataRecipe(title="t", sources=(SourceSection(name="match", reader="matching", options=options),))
    sample_sources(matching, tmp_path / "work")
    shutil.rmtree(tmp_path / "work/english/own")
    table.write_text(table.read_text().replace("text 7", "TEXT 7"))
    sample_sources(_recipe(table, "drop"), tmp_path / "work")
    with pytest.raises(InputError, match=r"own/manifest.json has changed since .*english/match"):
        sample_sources(matching, tmp_path / "work")


def test_killed_reading_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        (tmp_path / "images" / f"{number}.png").parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / f"{number}.png")
    rows = [{"image": f"{n % 41}.png", "text": f"text {n}", "id": str(n % 3900)} for n in range(4000)]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = _recipe(path, "drop")
    source = recipe.sources[0].model_copy(update={"images": str(tmp_path / "images"), "decode_images": True})
    recipe = recipe.model_copy(update={"sources": (source,)})
    monkeypatch.setattr(sampling, "ROWS_PER_PART", 1024)
    whole = sample_sources(recipe, tmp_path / "whole")["own"]
    assert whole.manifest.drops == {"duplicate id": 100, "missing image": 95}
    assert len(list(whole.folder.glob("*.parquet"))) == 4
    opened: list[str] = []
    find = reading._image_problem
    for stop_after in (300, 1100, 900, 2):  # pictures looked at before the kill
        opened.clear()

        def look(store: Any, keys: tuple[str, ...], decode: bool, stop_after: int = stop_after) -> Any:
            opened.extend(keys)
            if len(opened) > stop_after:
                raise KeyboardInterrupt
            return find(store, keys, decode)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(reading, "_image_problem", look)
            sample_sources(recipe, tmp_path / "work")
        finished = {p: p.stat().st_mtime_ns for p in (tmp_path / "work").rglob("exclusions-*.jsonl")}
    assert len(finished) == 1
    with monkeypatch.context() as patch:
        opened.clear()
        patch.setattr(reading, "_image_problem", lambda *given: opened.extend(given[1]) or find(*given))
        sample_sources(recipe, tmp_path / "work")
    assert len(opened) < 3000, "pictures of finished parts were opened again"
    assert {p: p.stat().st_mtime_ns for p in finished} == finished
    assert hash_directory(tmp_path / "work") == hash_directory(tmp_path / "whole")


def test_process_killed_while_reading(commands: Commands, table: Path, tmp_path: Path) -> None:
    with table.open("a") as file:
        for n in range(3000, 90_000):
            file.write(json.dumps({"image": f"{n}.jpg", "text": f"text {n}", "id": str(n)}) + "\n")
    save_recipe(_recipe(table, "drop"), tmp_path / "recipe.yaml")
    arguments = ["data", "sample", str(tmp_path / "recipe.yaml"), "--work"]
    assert commands.run(*arguments, str(tmp_path / "whole")).code == 0
    folder = tmp_path / "work/english/own"
    held = 0
    for calls in (25, 45):  # a part is 20 calls
        commands.killed(At("reading", calls=calls), *arguments, str(tmp_path / "work"))
        finished = {p: p.stat().st_mtime_ns for p in folder.glob("exclusions-*.jsonl")}
        assert held < len(finished)
        held = len(finished)
    assert not (folder / "manifest.json").exists()
    assert commands.run(*arguments, str(tmp_path / "work")).code == 0
    assert {p: p.stat().st_mtime_ns for p in finished} == finished
    assert hash_directory(tmp_path / "work") == hash_directory(tmp_path / "whole")


def test_unfinished_stage_of_a_mended_file_starts_anew(table: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="duplicate id"):
        sample_sources(_recipe(table), tmp_path / "work")
    rows = [json.loads(line) | {"id": str(number)} for number, line in enumerate(table.read_text().splitlines())]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert sample_sources(_recipe(table), tmp_path / "work")["own"].manifest.rows == 3000


def test_offsets_count_the_tasks_before_each_chunk(table: Path, tmp_path: Path) -> None:
    stage = sample_sources(_recipe(table, "drop"), tmp_path / "work")["own"]
    assert stage.offsets(1024) == [{}, {"caption": 1024}, {"caption": 2048}]


def test_two_sources_of_one_name_and_an_empty_one(table: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two sources of the recipe have the name 'own'"):
        sample_sources(_recipe(table, "drop", ("own", "own")), tmp_path / "work")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(InputError, match="'own' yields no example"):
        sample_sources(_recipe(tmp_path / "empty.jsonl"), tmp_path / "other")


def test_nothing_stays_of_a_refused_reading(table: Path, tmp_path: Path) -> None:
    def refused(work: Path, recipe: DataRecipe) -> None:
        with pytest.raises(InputError):
            sample_sources(recipe, work)

    missing = _recipe(tmp_path / "none.jsonl", "drop")
    refused(tmp_path / "new/work", missing)
    assert not (tmp_path / "new").exists()
    (tmp_path / "own").mkdir()
    refused(tmp_path / "own", missing)
    assert list((tmp_path / "own").iterdir()) == []  # the folder that was there stays
    with pytest.raises(InputError, match=r"a raw file is missing: .*none.jsonl"):  # told before anything is read
        sample_sources(
            DataRecipe(
                title="t",
                sources=_recipe(table, "drop").sources + _recipe(tmp_path / "none.jsonl", names=("o",)).sources,
            ),
            tmp_path / "own",
        )
    assert list((tmp_path / "own").iterdir()) == []
    (tmp_path / "empty.jsonl").touch()
    both = _recipe(table, "drop").sources + _recipe(tmp_path / "empty.jsonl", names=("other",)).sources
    refused(tmp_path / "own", DataRecipe(title="t", sources=both, bad_rows="drop"))
    assert [path.name for path in (tmp_path / "own/english").iterdir()] == ["own"]  # what was read stays
