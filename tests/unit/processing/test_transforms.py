from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mblip.processing.transforms import TrainTransform, random_box
from mblip.storage import FolderStore

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def photo(width: int, height: int) -> Image.Image:
    """Smooth colours, as photos have them."""
    x, y = np.meshgrid(np.linspace(0, 6, width), np.linspace(0, 4, height))
    channels = [np.sin(x) * np.cos(y), np.cos(x + y), np.sin(2 * y - x)]
    return Image.fromarray(((np.stack(channels, -1) + 1) * 127.5).astype(np.uint8))


def test_a_large_jpeg_is_decoded_small_but_never_so_small_that_a_crop_is_blown_up(tmp_path: Path) -> None:
    transform = TrainTransform(224, MEAN, STD, (0.5, 1.0))
    assert transform.needed == 366
    assert TrainTransform(224, MEAN, STD, (1.0, 1.0)).needed == 224
    photo(3200, 2400).save(tmp_path / "large.jpg", quality=95)
    photo(640, 480).save(tmp_path / "small.jpg", quality=95)
    store = FolderStore(tmp_path)
    assert store.get("large.jpg", transform.needed).size == (800, 600)
    assert store.get("small.jpg", transform.needed).size == (640, 480)
    for seed in range(200):
        left, top, right, bottom = random_box(366, 366, (0.5, 1.0), np.random.default_rng(seed))
        assert min(right - left, bottom - top) >= 223  # a crop's sides are rounded
    whole = TrainTransform(224, MEAN, STD, (1.0, 1.0))
    rng = np.random.default_rng(0)
    reduced, full = (whole(store.get("large.jpg", size), rng) for size in (whole.needed, 0))
    assert np.abs(reduced - full).mean() < 0.02


def test_pixels_are_normalised_and_mirrored_half_of_the_time() -> None:
    image = photo(60, 60)
    plain = TrainTransform(60, MEAN, STD, (1.0, 1.0))(image, np.random.default_rng(0))
    wanted = (np.asarray(image, np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    assert np.abs(plain - wanted.transpose(2, 0, 1)).max() < 1e-6
    flipping = TrainTransform(60, MEAN, STD, (1.0, 1.0), flip=True)
    mirrored = [np.array_equal(flipping(image, np.random.default_rng(seed)), plain[:, :, ::-1]) for seed in range(200)]
    assert 70 < sum(mirrored) < 130


@pytest.mark.parametrize("size", [(900, 40), (40, 900), (1, 1), (3, 2)])
def test_odd_shapes_are_cropped_too(size: tuple[int, int]) -> None:
    for seed in range(20):
        pixels = TrainTransform(32, MEAN, STD)(photo(*size), np.random.default_rng(seed))
        assert pixels.shape == (3, 32, 32) and np.isfinite(pixels).all()
