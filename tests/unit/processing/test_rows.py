"""Mixes mapped from disk: the same rows, groups and batches as in memory, and as before they were mapped at all."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mblip.config import MixSection
from mblip.errors import InputError
from mblip.processing import rows as module
from mblip.processing.grouping import GroupedBatches, Mix
from mblip.processing.rows import open_rows
from mblip.schema import Instruction
from mblip.storage import ShardReader, ShardWriter, write_manifest

KINDS = ("side by side", "scattered", "with texts", "texts alone")


def make(folder: Path, kind: str, count: int = 3000, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    pictures = np.sort(rng.integers(0, count // 3, count))
    if kind == "scattered":
        rng.shuffle(pictures)
    bare = rng.random(count) < {"with texts": 0.4, "texts alone": 1.0}.get(kind, 0.0)
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(3):
        with ShardWriter(folder, Instruction, stem=f"mix-{shard}") as writer:
            for i in range(shard * count // 3, (shard + 1) * count // 3):
                images = (
                    () if bare[i] else (f"p{pictures[i]}", "second") if pictures[i] % 7 == 0 else (f"p{pictures[i]}",)
                )
                task, language = ("vqa", "caption")[i % 2], ("de", "sw", "en")[i % 3]
                writer.write(Instruction(f"s/{i}", "s", task, images, f"prompt {i}", f"answer ñ {i}", "en", language))
    write_manifest(folder, Instruction, seed=0, recipe_hash="x", licences={"s": "MIT"})
    return folder


def order_in_full(rows: list[Instruction], seed: int, epoch: int) -> list[str]:
    """The order of an epoch as it was computed at once, before rows were mapped; it decides every run's batches."""
    keys = ["\0".join(row.images) for row in rows]
    groups = pa.array(keys).dictionary_encode().indices.to_numpy().astype(np.int64)
    bare = np.array([not row.images for row in rows])
    if bare.any():
        groups[bare] = groups.max() + 1 + np.arange(bare.sum())
        groups = np.unique(groups, return_inverse=True)[1]
    members, starts = np.argsort(groups, kind="stable"), np.concatenate([[0], np.cumsum(np.bincount(groups))])
    rng = np.random.default_rng([seed, epoch])
    count = len(starts) - 1
    pictures = rng.permutation(count)
    shuffled = members[np.argsort(rng.random(len(members)), kind="stable")]
    rank = np.empty(count, dtype=np.int64)
    rank[pictures] = np.arange(count)
    owner = np.empty(len(shuffled), dtype=np.int64)
    owner[members] = np.repeat(np.arange(count), np.diff(starts))
    return [rows[row].id for row in shuffled[np.argsort(rank[owner[shuffled]], kind="stable")]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mapped_from", [0, 10**9], ids=["mapped", "in memory"])
def test_every_batch_is_the_one_of_the_order_computed_at_once(tmp_path: Path, kind: str, mapped_from: int) -> None:
    folder = make(tmp_path / "mix", kind)
    rows = list(ShardReader(folder, Instruction))
    for section, kept in (
        (MixSection(mix=str(folder)), rows),
        (MixSection(mix=str(folder), languages=("de", "sw")), [row for row in rows if row.answer_language != "en"]),
        (MixSection(mix=str(folder), tasks=("vqa",), exclude_languages=("sw",)),
         [row for row in rows if row.task == "vqa" and row.answer_language != "sw"]),
    ):  # fmt: skip
        mix = Mix(section, mapped_from)
        assert mix.languages() == {row.answer_language for row in kept}
        batches = GroupedBatches(mix, 5, 32)
        for epoch in range(2):
            wanted = order_in_full(kept, 5, epoch)
            steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
            found = [row.id for step in steps for row in mix.take(batches.rows(step))]
            assert found == wanted[: len(found)] and len(found) > len(kept) - 32


@pytest.mark.parametrize("kind", KINDS[:3])
def test_mapped_rows_are_split_and_parted_as_in_memory(tmp_path: Path, kind: str) -> None:
    section = MixSection(mix=str(make(tmp_path / "mix", kind)))
    both = [Mix(section, mapped_from) for mapped_from in (0, 10**9)]
    parts = [[*mix.split(40, 3), *([mix.part(text_only=True)] if mix.text_only else [])] for mix in both]
    for one, other in zip(*parts, strict=True):
        assert (len(one), one.pictures, one.text_only) == (len(other), other.pictures, other.text_only)
        assert one.take(np.arange(len(one))) == other.take(np.arange(len(other)))
        assert list(one.order(1, 2)[0:50]) == list(other.order(1, 2)[0:50])


def test_the_unpacked_file_is_made_once_and_anew_for_another_mix(tmp_path: Path) -> None:
    folder = make(tmp_path / "mix", "scattered")
    first = open_rows(folder, 0)
    (file,) = (folder / module.UNPACKED).iterdir()
    made = file.stat().st_mtime_ns
    assert len(open_rows(folder, 0)) == 3000 and file.stat().st_mtime_ns == made
    wanted = list(ShardReader(folder, Instruction))
    assert first.take(np.arange(3000)) == wanted
    for path in folder.glob("*.parquet"):
        path.unlink()
    make(folder, "side by side", seed=1)
    assert open_rows(folder, 0).take(np.array([7, 2999, 0])) == [
        list(ShardReader(folder, Instruction))[i] for i in (7, 2999, 0)
    ]
    assert [path != file for path in (folder / module.UNPACKED).iterdir()] == [True]
    list(ShardReader(folder, Instruction))  # the folder is still a mix


def test_a_folder_that_cannot_be_written_is_unpacked_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path / "mix", "scattered", 300)
    (folder / module.UNPACKED).write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert len(open_rows(folder, 0)) == 300
    assert len(list((tmp_path / "cache/mblip/unpacked").glob("*.arrow"))) == 1
    (tmp_path / "elsewhere").write_text("in the way, too")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(InputError, match="can be written: make one writable"):
        open_rows(folder, 0)


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    folder = make(tmp_path / "mix", "scattered", 300)
    open_rows(folder, 0)
    (file,) = (folder / module.UNPACKED).iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"is damaged .* delete it"):
        open_rows(folder, 0)


@pytest.mark.parametrize("mapped_from", [0, 1 << 30])
def test_a_shard_with_damaged_rows_is_named(tmp_path: Path, mapped_from: int) -> None:
    folder = make(tmp_path / "mix", "scattered")
    shard = folder / "mix-1-00000.parquet"
    content = bytearray(shard.read_bytes())
    content[4:2000] = bytes(1996)  # the footer stays whole
    shard.write_bytes(content)
    with pytest.raises(InputError, match=r"mix-1-00000.parquet is damaged \(.*\); make the mix again"):
        open_rows(folder, mapped_from)


def test_processes_that_open_a_mix_at_once_unpack_it_once(tmp_path: Path) -> None:
    folder = make(tmp_path / "mix", "scattered", 3000)
    context = multiprocessing.get_context("fork")
    pool = context.Pool(4)
    counts = pool.map(_count, [folder] * 4)
    pool.close()  # Pool's block would end its processes by SIGTERM, for which a handler may be set
    pool.join()
    assert counts == [3000] * 4
    assert len([path for path in (folder / module.UNPACKED).iterdir() if path.suffix == ".arrow"]) == 1


def _count(folder: Path) -> int:
    return len(open_rows(folder, 0))


def test_columns_with_few_values_are_stored_as_numbers(tmp_path: Path) -> None:
    folder = make(tmp_path / "mix", "scattered", 3000)
    batch = next(open_rows(folder, 0).batches("task", "prompt"))
    assert pa.types.is_dictionary(batch.schema.field("task").type) and pc.count(batch["prompt"]).as_py() > 0
