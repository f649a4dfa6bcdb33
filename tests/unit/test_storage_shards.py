from __future__ import annotations

import json
import pickle
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mblip.errors import InputError
from mblip.schema import Drop, Example, Instruction
from mblip.storage import (
    EXCLUSIONS,
    JsonlWriter,
    Manifest,
    ShardReader,
    ShardWriter,
    check_shards,
    language_of,
    read_drops,
    read_manifest,
    to_table,
    write_manifest,
    write_shard,
)
from mblip.storage import shards as module

LICENCES = {"coco": "CC-BY-4.0", "own": "MIT"}


def instruction(number: int) -> Instruction:
    source, task = ("coco", "caption") if number % 3 else ("own", "vqa")
    language = ("sw", "de", "en")[number % 5 % 3]
    images = tuple(f"{number // 5 + i:012d}.jpg" for i in range(1 + number % 2))
    return Instruction(
        f"{source}/{number}", source, task, images, f"Caption #{number}:", "Ñandú 🦤\n\0", "en", language
    )


def example(number: int) -> Example:
    texts = {"question": f"¿{number}?", "answer": "yes"} if number % 2 else {"caption": "a # ### b"}
    languages = {role: "es" if role == "question" else "en" for role in texts}
    return Example(f"own/{number}", "own", "vqa", (f"{number}.png",), texts, languages, "MIT")


def write(folder: Path, kind: type[Any], records: list[Any]) -> None:
    with ShardWriter(folder, kind) as shards:
        shards.extend(records)
    assert shards.rows == len(records)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups of 8 and shards of 32, so that a hundred records cross every border."""
    monkeypatch.setattr(module, "ROWS_PER_GROUP", 8)
    monkeypatch.setattr(module, "ROWS_PER_SHARD", 32)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("kind", "make"), [(Instruction, instruction), (Example, example)])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 32, 33, 100])
def test_round_trip(tmp_path: Path, kind: type[Any], make: Callable[[int], Any], count: int) -> None:
    records = [make(number) for number in range(count)]
    write(tmp_path, kind, records)
    assert len(list(tmp_path.iterdir())) == (count + 31) // 32
    reader: ShardReader[Any] = ShardReader(tmp_path, kind)
    assert len(reader) == count
    assert list(reader) == records
    order = list(range(count))
    random.Random(0).shuffle(order)
    assert [reader[row] for row in order] == [records[row] for row in order]
    assert reader.take([*order[:5], order[0]]) == [records[row] for row in [*order[:5], order[0]]]
    assert pickle.loads(pickle.dumps(reader))[count - 1] == records[-1]
    ids = [identifier for (identifiers,) in reader.columns("id") for identifier in identifiers]
    assert ids == [record.id for record in records]
    for row in (-1, count):
        with pytest.raises(IndexError):
            reader[row]


def test_same_records_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, Instruction, [instruction(number) for number in range(3000)])
    first, second = (next((tmp_path / name).iterdir()) for name in ("a", "b"))
    assert first.name == second.name == "shard-00000.parquet"
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.usefixtures("small")
def test_never_more_than_a_row_group_in_memory(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, Instruction) as shards:
        for number in range(100):
            shards.write(instruction(number))
            assert len(shards._buffer) < 8
            assert len(list(tmp_path.glob("*.parquet"))) == (number + 1) // 32


@pytest.mark.usefixtures("small")
def test_an_exception_keeps_whole_shards_and_drops_the_open_one(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, Instruction) as shards:
        shards.extend(instruction(number) for number in range(50))
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["shard-00000.parquet"]
    assert list(ShardReader(tmp_path, Instruction)) == [instruction(number) for number in range(32)]
    with pytest.raises(InputError, match=r"no manifest.json: .*is unfinished; run the command that makes it again"):
        read_manifest(tmp_path)
    with pytest.raises(InputError, match=r"there is no folder .*none; mblip data sample makes"):
        read_manifest(tmp_path / "none")


def test_a_killed_writer_leaves_no_shard_and_a_rerun_the_same_bytes(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from mblip.schema import Drop\n"
        "from mblip.storage import ShardWriter\n"
        "with ShardWriter(sys.argv[1], Drop) as shards:\n"
        "    for i in range(3000): shards.write(Drop(str(i), 's', 'r'))\n"
        "    if sys.argv[2] == 'kill': os.kill(os.getpid(), signal.SIGKILL)\n"
    )

    def run(folder: str, how: str) -> int:
        return subprocess.run([sys.executable, "-c", script, str(tmp_path / folder), how], check=False).returncode

    assert run("killed", "kill") == -signal.SIGKILL
    assert list((tmp_path / "killed").glob("*.parquet")) == []
    assert run("killed", "finish") == 0
    assert run("whole", "finish") == 0
    killed, whole = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("killed", "whole"))
    assert killed == whole


def test_parallel_writers_share_a_folder(tmp_path: Path) -> None:
    for task in (1, 0):
        with ShardWriter(tmp_path, Instruction, stem=f"task-{task:03d}") as shards:
            shards.extend(instruction(task * 10 + number) for number in range(10))
    assert [record.id for record in ShardReader(tmp_path, Instruction)] == [instruction(i).id for i in range(20)]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("start", "stop"), [(0, 100), (0, 1), (7, 9), (8, 16), (31, 70), (99, 100), (95, 200), (40, 40)]
)
def test_rows_of_a_range(tmp_path: Path, start: int, stop: int) -> None:
    records = [instruction(number) for number in range(100)]
    write(tmp_path, Instruction, records)
    assert list(ShardReader(tmp_path, Instruction).rows(start, stop)) == records[start:stop]


@pytest.mark.parametrize(("kind", "make"), [(Instruction, instruction), (Example, example)])
def test_a_shard_from_a_table_has_the_bytes_of_the_writer(
    tmp_path: Path, kind: type[Any], make: Callable[[int], Any]
) -> None:
    records = [make(number) for number in range(2500)]
    write(tmp_path, kind, records)
    write_shard(tmp_path / "whole.parquet", to_table(records, kind), kind)
    assert (tmp_path / "whole.parquet").read_bytes() == (tmp_path / "shard-00000.parquet").read_bytes()


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("answer", "half a \ud83d pair", r"\\ud83d"),
        ("answer", None, "None"),
        ("prompt", 3, "3"),
        ("images", ("a.jpg", None), "None"),
        ("images", 3, "3"),
    ],
)
def test_what_cannot_be_stored_names_the_record(tmp_path: Path, field: str, value: Any, shown: str) -> None:
    records = [instruction(number) for number in range(5)]
    setattr(records[3], field, value)
    with pytest.raises(InputError, match=rf"'own/3': '{field}' cannot be stored as text: .*{shown}"):
        write(tmp_path, Instruction, records)
    assert not list(tmp_path.glob("*"))


def test_broken_shards_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no Parquet shards"):
        ShardReader(tmp_path, Instruction)
    write(tmp_path, Instruction, [instruction(number) for number in range(2000)])
    path = tmp_path / "shard-00000.parquet"
    whole = path.read_bytes()
    with pytest.raises(InputError, match=r"holds the columns id, source, .* not those of Example"):
        ShardReader(tmp_path, Example)
    for cut in (0, 3, 100, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(
            InputError, match=r"shard-00000.parquet is damaged or not a Parquet file \(.*write it again"
        ):
            ShardReader(tmp_path, Instruction)
    path.write_bytes(whole[:50] + bytes(200) + whole[250:])
    with pytest.raises(InputError, match=r"shard-00000.parquet, row group 0 is damaged"):
        list(ShardReader(tmp_path, Instruction))


def test_a_replaced_shard_is_not_served_from_memory(tmp_path: Path) -> None:
    write(tmp_path, Instruction, [instruction(number) for number in range(10)])
    assert ShardReader(tmp_path, Instruction)[0].id == "own/0"
    write(tmp_path, Instruction, [instruction(number) for number in range(1, 11)])
    assert ShardReader(tmp_path, Instruction)[0].id == "coco/1"


# --- manifest


@pytest.fixture
def mix(tmp_path: Path) -> Path:
    write(tmp_path, Instruction, [instruction(number) for number in range(100)])
    with JsonlWriter(tmp_path / EXCLUSIONS) as drops:
        for number in range(4):
            drops.write(Drop(f"coco/x{number}", "coco", "copied source" if number else "empty"))
    write_manifest(tmp_path, Instruction, seed=7, recipe_hash="abc", licences=LICENCES)
    return tmp_path


def test_manifest_counts_what_is_there(mix: Path) -> None:
    manifest = read_manifest(mix)
    records = [instruction(number) for number in range(100)]
    assert manifest.kind == "Instruction"
    assert manifest.rows == 100
    assert manifest.counts["own"]["vqa"]["de"] == sum(r.source == "own" and r.answer_language == "de" for r in records)
    assert manifest.by_source == {"coco": 66, "own": 34}
    assert manifest.by_task == {"caption": 66, "vqa": 34}
    assert manifest.by_language == {"de": 40, "en": 20, "sw": 40}
    assert manifest.drops == {"copied source": 3, "empty": 1}
    assert (manifest.seed, manifest.recipe_hash, manifest.licences) == (7, "abc", LICENCES)
    assert {"mblip", "python", "pyarrow"} <= manifest.versions.keys()
    assert [drop.id for drop in read_drops(mix)] == [f"coco/x{number}" for number in range(4)]
    assert check_shards(mix) == manifest


def test_manifest_is_the_same_for_any_number_of_writers(mix: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("parallel")
    for task in range(3):
        with ShardWriter(other, Instruction, stem=f"task-{task}") as shards:
            shards.extend(instruction(number) for number in range(100) if number % 3 == task)
        with JsonlWriter(other / f"exclusions-{task}.jsonl") as drops:
            for number in range(4):
                if number % 3 == task:
                    drops.write(Drop(f"coco/x{number}", "coco", "copied source" if number else "empty"))
    manifest = write_manifest(other, Instruction, seed=7, recipe_hash="abc", licences=LICENCES)
    assert (manifest.counts, manifest.drops) == (read_manifest(mix).counts, read_manifest(mix).drops)


def test_manifest_has_no_time_and_no_path(mix: Path) -> None:
    before = (mix / "manifest.json").read_bytes()
    write_manifest(mix, Instruction, seed=7, recipe_hash="abc", licences=LICENCES)
    assert (mix / "manifest.json").read_bytes() == before
    assert str(mix).encode() not in before


@pytest.mark.parametrize(
    ("languages", "counted"),
    [(("sw", "en"), "sw"), (("en", "sw"), "sw"), (("en",), "en"), ((), "en"), (("de", "sw"), "de")],
)
def test_language_of(languages: tuple[str, ...], counted: str) -> None:
    assert language_of(languages) == counted


def test_examples_count_under_the_language_they_were_allotted_to(tmp_path: Path) -> None:
    write(tmp_path, Example, [example(number) for number in range(10)])
    assert write_manifest(tmp_path, Example, seed=0, recipe_hash="", licences=LICENCES).by_language == {
        "en": 5,
        "es": 5,
    }


def test_a_source_without_a_licence_is_refused(tmp_path: Path) -> None:
    write(tmp_path, Example, [example(0)])
    with pytest.raises(InputError, match="'own', but the source has no licence"):
        write_manifest(tmp_path, Example, seed=0, recipe_hash="", licences={})
    assert not (tmp_path / "manifest.json").exists()


def _edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "manifest.json"
        row = json.loads(path.read_text())
        change(row)
        path.write_text(json.dumps(row))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "shard-00000.parquet").unlink(), "lists other shards than the folder holds: shard-00000"),
        (lambda f: write(f, Instruction, [instruction(0)]), "states 100 rows in the shards, but there are 1;"),
        (lambda f: shutil.copy(f / "shard-00000.parquet", f / "z.parquet"), "z.parquet is only in one"),
        (lambda f: (f / EXCLUSIONS).unlink(), "states 4 records in the exclusion files, but there are 0"),
        (lambda f: (f / "manifest.json").write_text("{"), "manifest.json cannot be read"),
        (lambda f: (f / "manifest.json").write_text("[]"), "does not hold a JSON object"),
        (_edit(lambda row: row.pop("seed")), "lacks 'seed'"),
        (_edit(lambda row: row["by_task"].update(vqa=1)), "'by_task' does not follow from 'counts'"),
        (_edit(lambda row: row["counts"]["own"]["vqa"].update(de=0)), "states 100 rows by source, task and language"),
    ],
)  # fmt: skip
def test_a_manifest_that_does_not_fit_is_refused(mix: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(mix)
    with pytest.raises(InputError, match=message):
        read_manifest(mix)


def test_check_shards_finds_one_changed_byte(mix: Path) -> None:
    path = mix / "shard-00000.parquet"
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    assert isinstance(read_manifest(mix), Manifest)
    with pytest.raises(InputError, match=r"shard-00000.parquet has changed"):
        check_shards(mix)
