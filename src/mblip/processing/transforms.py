"""Training pictures without torchvision: RandomResizedCrop, optional flip, normalisation (paper, section 3.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class TrainTransform:
    """Turns a picture into normalised pixels; all randomness comes from the generator.

    Attributes:
        size: Side of the square result, in pixels.
        mean: Mean per channel, on the scale 0..1.
        std: Standard deviation per channel, on the scale 0..1.
        scale: Area of the crop as a share of the picture, drawn uniformly; (1, 1) resizes the complete picture instead.
        flip: Mirror half of the pictures. Off by default, because it makes left/right answers and writing wrong.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: tuple[float, float] = (0.5, 1.0)
    flip: bool = False

    @classmethod
    def of(cls, image_processor: Any, scale: tuple[float, float], flip: bool) -> TrainTransform:
        """The transform with the size and normalisation of a stock image processor."""
        mean, std = tuple(image_processor.image_mean), tuple(image_processor.image_std)
        crops = getattr(image_processor, "do_center_crop", False) and image_processor.crop_size
        size = dict(image_processor.crop_size if crops else image_processor.size)
        side = size.get("height") or size.get("shortest_edge") or size["longest_edge"]
        return cls(int(side), mean, std, scale, flip)

    @property
    def needed(self) -> int:
        """The minimum shorter side of a decoded picture for which no crop has to be enlarged."""
        smallest = 1.0 if self.scale == (1.0, 1.0) else math.sqrt(self.scale[0] * 3 / 4)
        return math.ceil(self.size / smallest)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> NDArray[np.float32]:
        """Transform an RGB picture to [3, size, size]."""
        box = None if self.scale == (1.0, 1.0) else random_box(image.width, image.height, self.scale, rng)
        if box is not None or image.size != (self.size, self.size):
            image = image.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box)
        if self.flip and rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = np.asarray(image, dtype=np.float32) / 255
        normalised = (pixels - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def random_box(
    width: int, height: int, scale: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A crop (left, top, right, bottom) of random area and an aspect ratio of 3/4 to 4/3, like RandomResizedCrop.

    After ten draws that do not fit, it is the largest centred crop of an allowed ratio.
    """
    for _ in range(10):
        area = rng.uniform(*scale) * width * height
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    ratio = min(max(width / height, 3 / 4), 4 / 3)
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
