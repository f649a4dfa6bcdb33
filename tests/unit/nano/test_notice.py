"""A nano model that is shown a photograph says so; it says nothing about its own scenes, nor does any other model."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from mblip.inference.notices import notice_for
from mblip.nano.notice import NOTICE, is_nano, looks_like_a_scene
from mblip.nano.scenes import render, sample_scene
from mblip.nano.words import load_lexicon


def model(base: str, side: int = 224) -> Any:
    origin = SimpleNamespace(bases={"vision": SimpleNamespace(id=base)})
    return SimpleNamespace(
        origin=origin, model=SimpleNamespace(config=SimpleNamespace(vision_config=SimpleNamespace(image_size=side)))
    )


def scene(number: int, size: int = 64) -> Image.Image:
    return render(
        sample_scene(np.random.default_rng(1000 + number), 1 + number % 4, sorted(load_lexicon().emoji)), size
    )


def like_a_photograph(number: int) -> Image.Image:
    """Shapes of many sizes, light and grain: no plain background anywhere."""
    rng = np.random.default_rng(number)
    layers = [
        np.asarray(Image.fromarray(rng.integers(0, 256, (n, n, 3), np.uint8)).resize((200, 150), 3), np.float32)
        for n in (3, 7, 15, 40)
    ]
    picture = Image.fromarray(np.clip(sum(layers) / 4, 0, 255).astype(np.uint8))
    return picture.filter(ImageFilter.GaussianBlur(number % 3))


@pytest.mark.parametrize("size", [64, 200, 512])
def test_scenes_are_known_in_every_size_and_format(size: int) -> None:
    for number in range(40):
        picture = scene(number, size)
        assert looks_like_a_scene(picture)
        if size == 64:  # so small, JPEG's blocks are as large as the objects
            continue
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=80)
        assert looks_like_a_scene(Image.open(file))
    assert looks_like_a_scene(scene(1).convert("RGBA"))


def test_photographs_are_told() -> None:
    told = notice_for(model("nano:nano-blip2-en"))
    assert told is not None
    assert notice_for(model("Salesforce/blip2-flan-t5-xl")) is None
    for number in range(20):
        picture = like_a_photograph(number)
        assert not looks_like_a_scene(picture)
        assert told(picture) == NOTICE
    assert not looks_like_a_scene(like_a_photograph(1).convert("L"))
    assert told(scene(3)) is None


def test_a_nano_model_is_known_by_its_base_or_by_what_it_sees() -> None:
    assert is_nano(model("nano:nano-mlm"))
    assert is_nano(model("/some/export", side=64))
    assert not is_nano(model("/some/export"))
    exported = model("x", side=64)
    exported.origin = None
    assert is_nano(exported)
