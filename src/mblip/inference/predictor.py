"""Captions and answers for people: a thin front over the model's own ``generate``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mblip.languages import find_language
from mblip.models.mblip import VisionLLM
from mblip.processing.images import Picture

# The paper's settings for free generation.
GENERATION = {"num_beams": 5, "repetition_penalty": 1.5, "max_new_tokens": 50}


def caption(vlm: VisionLLM, images: Sequence[Picture], languages: Sequence[str], **generation: Any) -> list[list[str]]:
    """A caption of each image in each language: [images][languages].

    Raises:
        InputError: A picture cannot be read, or a language is not one of the 96.
    """
    names = [find_language(language).name for language in languages]
    pairs = [(image, f"Caption in {name}:") for image in images for name in names]
    texts = vlm.generate([image for image, _ in pairs], [prompt for _, prompt in pairs], **{**GENERATION, **generation})
    return [texts[i : i + len(names)] for i in range(0, len(texts), len(names))]


def answer(vlm: VisionLLM, image: Picture, question: str, language: str, **generation: Any) -> str:
    """A short answer to a question about an image, in the language asked for.

    Raises:
        InputError: The picture cannot be read, or the language is not one of the 96.
    """
    prompt = f"Question: {question.rstrip('?')}? Answer in {find_language(language).name}:"
    return vlm.generate([image], [prompt], **{**GENERATION, **generation})[0]
