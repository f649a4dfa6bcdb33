from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mblip.config import MixSection
from mblip.errors import InputError
from mblip.processing.grouping import GroupedBatches, Mix, assign_micro_batches
from mblip.processing.transforms import TrainTransform, random_box
from mblip.schema import Instruction
from mblip.storage import ShardWriter, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [
        Instruction(f"s/{i}", "s", "caption", (f"picture{i // 3}",), "p", "a", "en", "de" if i % 2 else "sw")
        for i in range(60)
    ]
    with ShardWriter(tmp_path, Instruction) as writer:
        writer.extend(rows)
    write_manifest(tmp_path, Instruction, seed=0, recipe_hash="x", licences={"s": "MIT"})
    return tmp_path


def test_an_epoch_brings_every_text_once_and_pictures_together(folder: Path) -> None:
    mix = Mix(MixSection(mix=str(folder)))
    batches = GroupedBatches(mix, seed=1, global_batch=12)
    assert (len(mix), mix.pictures, batches.steps_per_epoch) == (60, 20, 5)
    rows = np.concatenate([batches.rows(step) for step in range(5)])
    assert sorted(rows) == list(range(60))
    for step in range(5):
        keys = [row.images[0] for row in mix.take(batches.rows(step))]
        assert len(set(keys)) == 4  # 12 texts of 3 a picture
    other = np.concatenate([batches.rows(step) for step in range(5, 10)])
    assert sorted(other) == list(range(60)) and list(other) != list(rows)


def texts_of(dealt: list[list[list[int]]]) -> list[int]:
    return sorted(position for rank in dealt for batch in rank for position in batch)


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("seed", range(20))
def test_a_batch_is_dealt_whole_in_equal_numbers_and_small_enough(ranks: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pictures = np.sort(rng.integers(0, 20, size=48)).tolist()
    dealt = assign_micro_batches(pictures, rng.integers(5, 60, size=(48, 2)).tolist(), 8, ranks)
    assert texts_of(dealt) == list(range(48))
    assert len({len(rank) for rank in dealt}) == 1
    assert max(len(batch) for rank in dealt for batch in rank) <= 8


def test_pictures_stay_together_and_lengths_come_together() -> None:
    pictures = [place // 2 for place in range(64)]
    lengths = [int(length) for length in np.random.default_rng(0).integers(4, 100, size=32).repeat(2)]
    [batches] = assign_micro_batches(pictures, [(length,) for length in lengths], 8)
    assert [len(batch) for batch in batches] == [8] * 8
    owners = [{pictures[position] for position in batch} for batch in batches]
    assert sum(map(len, owners)) == 32  # no picture in two batches
    padded = sum(8 * max(lengths[position] for position in batch) for batch in batches)
    in_order = sum(8 * max(lengths[i : i + 8]) for i in range(0, 64, 8))
    assert sum(lengths) <= padded < 1.15 * sum(lengths) < in_order
    longest = [max(lengths[position] for position in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


def test_prompts_and_answers_that_are_padded_apart_are_matched_both() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.permutation([(5, 30), (30, 5)] * 32)  # every sum is the same: it says nothing
    apart = assign_micro_batches(list(range(64)), lengths.tolist(), 8)[0]
    assert sum(8 * int(lengths[batch].max(0).sum()) for batch in apart) == lengths.sum()
    [together] = assign_micro_batches(list(range(64)), lengths.sum(1, keepdims=True).tolist(), 8)
    assert sum(8 * int(lengths[batch].max(0).sum()) for batch in together) > 1.5 * lengths.sum()


def test_a_batch_of_one_picture_is_cut_and_processes_never_go_empty() -> None:
    assert assign_micro_batches(["a"] * 5, [(1,)] * 5, 2) == [[[0, 1], [2, 3], [4]]]
    assert assign_micro_batches(["a"] * 4, [(1,)] * 4, 8, ranks=4) == [[[0]], [[1]], [[2]], [[3]]]
    assert assign_micro_batches(["a", "b"], [(9,), (1,)], 8) == [[[0, 1]]]


def test_pictures_are_held_out_whole(folder: Path) -> None:
    mix = Mix(MixSection(mix=str(folder)))
    rest, held = mix.split(10, seed=3)
    assert (len(held), len(rest)) == (12, 48)
    ids = [{row.images for row in part.take(np.arange(len(part)))} for part in (rest, held)]
    assert not ids[0] & ids[1]
    with pytest.raises(InputError, match="leaves nothing to train on"):
        mix.split(60, seed=3)


def test_languages_select_rows_and_a_wrong_one_is_named(folder: Path) -> None:
    assert len(Mix(MixSection(mix=str(folder), languages=("sw",)))) == 30
    assert len(Mix(MixSection(mix=str(folder), exclude_languages=("sw",)))) == 30
    with pytest.raises(InputError, match="answer_language 'fr'"):
        Mix(MixSection(mix=str(folder), languages=("fr",)))
    with pytest.raises(InputError, match="fewer than one batch"):
        GroupedBatches(Mix(MixSection(mix=str(folder))), 1, 128)


def test_the_crop_is_pillows_own_resize_of_a_box_inside_the_picture() -> None:
    image = Image.effect_noise((90, 50), 80).convert("RGB")
    transform = TrainTransform(32, (0.0,) * 3, (1.0,) * 3, (0.5, 1.0))
    got = transform(image, np.random.default_rng(4))
    box = random_box(90, 50, (0.5, 1.0), np.random.default_rng(4))
    wanted = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC, box=box), dtype=np.float32) / 255
    assert np.abs(got - wanted.transpose(2, 0, 1)).max() < 1e-6
    for seed in range(200):
        left, top, right, bottom = random_box(90, 50, (0.5, 1.0), np.random.default_rng(seed))
        assert 0 <= left < right <= 90 and 0 <= top < bottom <= 50
        assert 0.45 < (right - left) * (bottom - top) / 4500 <= 1.0
