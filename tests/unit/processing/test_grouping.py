from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mblip.config import MixSection
from mblip.errors import InputError
from mblip.processing.grouping import GroupedBatches, Mix
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


def test_ranks_share_a_batch(folder: Path) -> None:
    mix = Mix(MixSection(mix=str(folder)))
    whole = GroupedBatches(mix, 1, 12).rows(2)
    parts = [GroupedBatches(mix, 1, 12, rank, 2).rows(2) for rank in (0, 1)]
    assert list(np.concatenate(parts)) == list(whole)


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
