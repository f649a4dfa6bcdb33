"""Compose pictures on the fly: one to four emoji on a 2 x 2 grid over a random background.

A picture has a key such as ``fox@0+red apple@3#17``: concepts with their cells in reading order, and the seed of
everything random (size, position, flip, background). The key determines every pixel.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mblip.nano.words import load_lexicon

SIZE = 64
CELLS = 4
NOTHING = "-"  # text for a cell without an object


@dataclass(frozen=True, slots=True)
class Scene:
    """Objects as (concept, cell), with cells 0..3 in reading order and at most one object per cell."""

    objects: tuple[tuple[str, int], ...]
    variation: int

    @property
    def concepts(self) -> tuple[str, ...]:
        """The concepts in reading order, with repeated objects repeated."""
        return tuple(concept for concept, _ in self.objects)

    @property
    def cells(self) -> tuple[str, ...]:
        """The content of each cell, in reading order."""
        by_cell = {cell: concept for concept, cell in self.objects}
        return tuple(by_cell.get(cell, NOTHING) for cell in range(CELLS))

    @property
    def key(self) -> str:
        """The text that describes the scene completely."""
        return "+".join(f"{concept}@{cell}" for concept, cell in self.objects) + f"#{self.variation}"

    @classmethod
    def from_key(cls, key: str) -> Scene:
        """Read a key.

        Raises:
            ValueError: The text is not a scene key, has an unknown concept, or cells out of order.
        """
        body, mark, variation = key.rpartition("#")
        pairs = [part.rpartition("@") for part in body.split("+")]
        if (
            not mark
            or not variation.isdecimal()
            or not all(at and cell in ("0", "1", "2", "3") for _, at, cell in pairs)
        ):
            raise ValueError(f"{key!r} is not a scene key such as 'fox@0+red apple@3#17'")
        objects = tuple((concept, int(cell)) for concept, _, cell in pairs)
        unknown = [concept for concept, _ in objects if concept not in load_lexicon().emoji]
        cells = [cell for _, cell in objects]
        if unknown or cells != sorted(set(cells)):
            raise ValueError(
                f"scene key {key!r}: {'unknown concept ' + unknown[0] if unknown else 'cells out of order'}"
            )
        return cls(objects, int(variation))


def sample_scene(rng: np.random.Generator, count: int, concepts: Sequence[str], repeat: float = 0.0) -> Scene:
    """Draw a scene of ``count`` objects; with probability ``repeat`` one concept occurs in several cells."""
    cells = sorted(rng.choice(CELLS, size=count, replace=False).tolist())
    chosen = [concepts[i] for i in rng.choice(len(concepts), size=count, replace=False)]
    if count > 1 and rng.random() < repeat:
        copies = int(rng.integers(2, count + 1))
        for place in rng.choice(count, size=copies, replace=False).tolist():
            chosen[place] = chosen[0] if copies == count else chosen[count - 1]
    return Scene(tuple(zip(chosen, cells, strict=True)), int(rng.integers(2**31)))


def render(scene: Scene, size: int = SIZE) -> Image.Image:
    """Draw a scene as an RGB picture of size x size pixels; any size shows the same scene."""
    rng = np.random.default_rng([zlib.crc32(scene.key.encode()), scene.variation])
    corners = rng.uniform(20, 235, size=(2, 2, 3)).astype(np.float32)
    ramp = np.linspace(0, 1, size, dtype=np.float32)[:, None]
    left, right = (corners[0, i] * (1 - ramp) + corners[1, i] * ramp for i in (0, 1))
    canvas = left[:, None] * (1 - ramp)[None] + right[:, None] * ramp[None]
    cell_size = size / 2
    for concept, cell in scene.objects:
        share, x, y, flip = rng.uniform(0.68, 0.98), rng.random(), rng.random(), rng.random() < 0.5
        edge = max(1, round(share * cell_size))
        sprite = _sprite(load_lexicon().emoji[concept], edge)
        if flip:
            sprite = sprite[:, ::-1]
        top = int((cell // 2) * cell_size + y * (cell_size - edge))
        start = int((cell % 2) * cell_size + x * (cell_size - edge))
        region = canvas[top : top + edge, start : start + edge]
        region *= 1 - sprite[..., 3:]
        region += sprite[..., :3]
    return Image.fromarray(canvas.clip(0, 255).astype(np.uint8))


@lru_cache(maxsize=8192)
def _sprite(emoji: str, edge: int) -> NDArray[np.float32]:
    """An emoji as [edge, edge, RGBA], with premultiplied colour (0..255) and alpha 0..1."""
    picture = Image.open(io.BytesIO(_strikes().read(f"{ord(emoji):x}.png"))).convert("RGBA")
    square = Image.new("RGBA", (max(picture.size),) * 2)
    square.paste(picture, ((square.width - picture.width) // 2, (square.height - picture.height) // 2))
    pixels = np.asarray(square.resize((edge, edge), Image.Resampling.BICUBIC, reducing_gap=None), dtype=np.float32)
    alpha = pixels[..., 3:] / 255
    return np.concatenate([pixels[..., :3] * alpha, alpha], axis=-1)


@lru_cache(maxsize=1)
def _strikes() -> zipfile.ZipFile:
    data = resources.files("mblip.nano").joinpath("data/sprites.zip").read_bytes()
    return zipfile.ZipFile(io.BytesIO(data))
