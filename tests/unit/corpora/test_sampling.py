"""The English stage: kept once, refused when it is another's, ids unique."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mblip.config import DataRecipe, SourceSection
from mblip.corpora import sample_sources
from mblip.errors import InputError
from mblip.storage import hash_directory


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
    with pytest.raises(InputError, match="has the id 'own/0' twice"):
        sample_sources(_recipe(table), tmp_path / "work")
    assert not (tmp_path / "work/english/own/manifest.json").exists()
    stage = sample_sources(_recipe(table, "drop"), tmp_path / "work")["own"]
    assert (stage.manifest.rows, stage.manifest.drops) == (2500, {"duplicate id": 500})
    assert stage.manifest.licences == {"own": "CC0-1.0"}
    assert [e.texts["caption"] for e in stage.reader.rows(0, 2)] == ["text 0", "text 1"]


def test_stage_is_read_once_and_not_mixed_up(table: Path, tmp_path: Path) -> None:
    sample_sources(_recipe(table, "drop"), tmp_path / "work")
    before = hash_directory(tmp_path / "work")
    table.write_text("{}")
    sample_sources(_recipe(table, "drop"), tmp_path / "work")
    assert hash_directory(tmp_path / "work") == before
    with pytest.raises(InputError, match="holds the examples of another recipe"):
        sample_sources(_recipe(table, "drop", task="description"), tmp_path / "work")


def test_offsets_count_the_tasks_before_each_chunk(table: Path, tmp_path: Path) -> None:
    stage = sample_sources(_recipe(table, "drop"), tmp_path / "work")["own"]
    assert stage.offsets(1024) == [{}, {"caption": 1024}, {"caption": 2048}]


def test_two_sources_of_one_name_and_an_empty_one(table: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two sources of the recipe are called 'own'"):
        sample_sources(_recipe(table, "drop", ("own", "own")), tmp_path / "work")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(InputError, match="'own' yields no example"):
        sample_sources(_recipe(tmp_path / "empty.jsonl"), tmp_path / "other")
