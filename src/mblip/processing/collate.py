"""Collate instructions and their pictures into one batch, with each picture once for all its texts."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mblip.config import MixSection
from mblip.processing.text import TextLayout
from mblip.processing.transforms import TrainTransform
from mblip.schema import Instruction
from mblip.storage import ImageStore, UnreadableImage


class Kept(Protocol):
    """Features of pictures kept outside the collator, so that the pictures need not be read again."""

    def holds(self, key: str) -> bool:
        """Whether a picture need not be read."""
        ...

    def number(self, key: str) -> int:
        """The number of a picture in the batch."""
        ...


class Collator:
    """Batches for :meth:`mblip.models.VisionLLM.forward`.

    The texts of an unreadable picture are left out; the picture is never replaced. The crop of a picture depends only
    on the seed and its key, not on texts or processes.

    Attributes:
        kept: Pictures that it holds are not read; None: all are.
    """

    def __init__(self, store: ImageStore, transform: TrainTransform, layout: TextLayout, section: MixSection) -> None:
        self.store, self.transform, self.layout, self.section = store, transform, layout, section
        self.kept: Kept | None = None

    def __call__(self, instructions: Sequence[Instruction], seed: Sequence[int]) -> dict[str, Tensor] | None:
        """Make ``pixel_values`` [images, 3, H, W], ``image_index`` [texts, images of a text], and the layout's tensors.

        A batch of texts without pictures has no images. With :attr:`kept` there are pixels of the pictures that it lacks
        alone, and ``picture_numbers`` and ``pixel_rows`` (-1 where there is none) [images].

        Returns:
            None if no text has all its pictures.
        """
        pixels: dict[str, NDArray[np.float32]] = {}
        unreadable: set[str] = set()
        for key in dict.fromkeys(key for instruction in instructions for key in instruction.images):
            if self.kept is not None and self.kept.holds(key):
                continue
            try:
                image = self.store.get(key, self.transform.needed)
            except UnreadableImage:
                unreadable.add(key)
                continue
            rng = np.random.default_rng([*seed, zlib.crc32(key.encode("utf-8", "surrogateescape"))])
            pixels[key] = self.transform(image, rng)
        kept = [row for row in instructions if not unreadable.intersection(row.images)]
        if not kept:
            return None
        used = dict.fromkeys(key for row in kept for key in row.images)
        place = {key: number for number, key in enumerate(used)}
        width = max(len(row.images) for row in kept)
        index = [[place[key] for key in row.images] + [-1] * (width - len(row.images)) for row in kept]
        texts = self.layout.pairs(
            [row.prompt for row in kept], [row.answer for row in kept], [len(row.images) for row in kept],
            self.section.max_prompt_tokens, self.section.max_answer_tokens, self.section.end_cut_answers,
        )  # fmt: skip
        read = [key for key in used if key in pixels]
        images = torch.from_numpy(np.stack([pixels[key] for key in read])) if read else self._no_images
        return {
            "pixel_values": images,
            "image_index": torch.tensor(index, dtype=torch.long).view(len(kept), width),
            **texts,
            **self._places(list(used), read),
        }

    def _places(self, used: list[str], read: list[str]) -> dict[str, Tensor]:
        if self.kept is None or not used:
            return {}
        row = {key: number for number, key in enumerate(read)}
        return {
            "picture_numbers": torch.tensor([self.kept.number(key) for key in used]),
            "pixel_rows": torch.tensor([row.get(key, -1) for key in used]),
        }

    @property
    def _no_images(self) -> Tensor:
        return torch.empty(0, 3, self.transform.size, self.transform.size)
