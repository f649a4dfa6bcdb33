"""Collate instructions and their pictures into one batch, with each picture once for all its texts."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mblip.config import MixSection
from mblip.processing.text import TextLayout
from mblip.processing.transforms import TrainTransform
from mblip.schema import Instruction
from mblip.storage import ImageStore, UnreadableImage


class Collator:
    """Batches for :meth:`mblip.models.VisionLLM.forward`.

    The texts of an unreadable picture are left out; the picture is never replaced. The crop of a picture depends only
    on the seed and its key, not on texts or processes.
    """

    def __init__(self, store: ImageStore, transform: TrainTransform, layout: TextLayout, section: MixSection) -> None:
        self.store, self.transform, self.layout, self.section = store, transform, layout, section

    def __call__(self, instructions: Sequence[Instruction], seed: Sequence[int]) -> dict[str, Tensor] | None:
        """Make ``pixel_values`` [images, 3, H, W], ``image_index`` [texts, images of a text], and the layout's tensors.

        A batch of texts without pictures has no images.

        Returns:
            None if no text has all its pictures.
        """
        pixels: dict[str, NDArray[np.float32]] = {}
        unreadable: set[str] = set()
        for key in dict.fromkeys(key for instruction in instructions for key in instruction.images):
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
        images = torch.from_numpy(np.stack([pixels[key] for key in used])) if used else self._no_images
        return {
            "pixel_values": images,
            "image_index": torch.tensor(index, dtype=torch.long).view(len(kept), width),
            **texts,
        }

    @property
    def _no_images(self) -> Tensor:
        return torch.empty(0, 3, self.transform.size, self.transform.size)
