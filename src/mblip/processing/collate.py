"""Instructions and their pictures to one batch: each picture once, however many texts speak of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mblip.config import MixSection
from mblip.errors import InputError
from mblip.processing.text import TextLayout
from mblip.processing.transforms import TrainTransform
from mblip.schema import Instruction
from mblip.storage import ImageStore, UnreadableImage


class Collator:
    """Batches for :meth:`mblip.models.VisionLLM.forward`.

    A picture that cannot be read takes its texts out of the batch; it is told to ``on_unreadable``, never replaced.
    """

    def __init__(
        self,
        store: ImageStore,
        transform: TrainTransform,
        layout: TextLayout,
        section: MixSection,
        on_unreadable: Callable[[UnreadableImage], None],
    ) -> None:
        self.store, self.transform, self.layout, self.section = store, transform, layout, section
        self.on_unreadable = on_unreadable

    def __call__(self, instructions: Sequence[Instruction], rng: np.random.Generator) -> dict[str, Tensor]:
        """pixel_values [images, 3, H, W], image_index [texts, images of a text], and the layout's ids and labels.

        Raises:
            InputError: No picture of the batch can be read.
        """
        place: dict[str, int] = {}
        pixels: list[NDArray[np.float32]] = []
        unreadable: set[str] = set()
        for key in dict.fromkeys(key for instruction in instructions for key in instruction.images):
            try:
                image = self.store.get(key, self.transform.size)
            except UnreadableImage as error:
                unreadable.add(key)
                self.on_unreadable(error)
                continue
            place[key] = len(pixels)
            pixels.append(self.transform(image, rng))
        kept = [row for row in instructions if not unreadable.intersection(row.images)]
        if not kept:
            raise InputError(
                f"none of the pictures of a batch can be read, the first being {instructions[0].images[0]!r}"
            )
        width = max(len(row.images) for row in kept)
        index = [[place[key] for key in row.images] + [-1] * (width - len(row.images)) for row in kept]
        texts = self.layout.pairs(
            [row.prompt for row in kept], [row.answer for row in kept], [len(row.images) for row in kept],
            self.section.max_prompt_tokens, self.section.max_answer_tokens,
        )  # fmt: skip
        return {"pixel_values": torch.from_numpy(np.stack(pixels)), "image_index": torch.tensor(index), **texts}
