"""Warn if a nano model, which knows only emoji scenes, gets another picture: its answer then means nothing."""

from __future__ import annotations

import numpy as np
from PIL import Image

from mblip.inference.notices import Notice
from mblip.inference.trained_languages import parse_languages
from mblip.languages import LANGUAGES
from mblip.models.vision_llm import VisionLLM
from mblip.nano.scenes import SIZE

SEES = (
    "emoji scenes: one to four things, such as a tulip and an ambulance, on a smooth background; it is a nano model "
    "for trying things out and does not know photographs"
)
QUESTION = "Name the object in {language}:"
NOTICE = (
    "this is a nano model, made for trying things out: it has learnt emoji scenes, and the picture does not look like "
    "one; unless the model was fine-tuned on such pictures, its answer is meaningless"
)
# The background of a scene is a bilinear ramp between four corner colours. 400 scenes of 64, 128 and 256 pixels, as PNG
# and, from 128 pixels on, as JPEG, each have at least 40.9 % of their pixels within 8 levels of one ramp (as JPEG of 64
# pixels, 94 % of them have). 10 of 11 photographs are below 40 %, and 92 % of 110 crops of them; a photograph before a
# plain wall cannot be recognised.
_SIDE, _LEVELS, _SHARE, _TRIES, _GREY = 32, 8, 0.40, 150, 4


def notice_for(model: VisionLLM) -> Notice | None:
    """The function that gives notices about a nano model's pictures; None for other models."""
    if not is_nano(model):
        return None
    trained = parse_languages(getattr(model.model.config, "trained_languages", None))
    language = "sw" if not trained or "sw" in trained else min(trained)
    question = QUESTION.format(language=LANGUAGES[language].name)
    return Notice(SEES, question, lambda picture: None if looks_like_a_scene(picture) else NOTICE)


def is_nano(model: VisionLLM) -> bool:
    """Whether a model has a shipped ``nano:`` base, or is a copy of one, as no other model uses 64 x 64 pixels."""
    bases = model.origin.bases.values() if model.origin else ()
    vision = getattr(model.model.config, "vision_config", None)
    return any(base.id.startswith("nano:") for base in bases) or getattr(vision, "image_size", None) == SIZE


def looks_like_a_scene(picture: Image.Image) -> bool:
    """Whether enough of a picture is the smooth background of a scene; takes under 10 ms for any size."""
    small = picture.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    colours = np.asarray(small, np.float32).reshape(-1, 3)
    if np.ptp(colours, axis=1).mean() < _GREY:  # in grey pictures, with one channel, a fit says little
        return False
    row, column = np.mgrid[0:_SIDE, 0:_SIDE].reshape(2, -1) / (_SIDE - 1)
    ramp = np.stack([np.ones_like(row), row, column, row * column], axis=1)
    # Objects are in the quarters, so the frame and the two middle lines mostly show the background.
    clear = np.flatnonzero((np.abs(row * (1 - row) - 0.125) > 0.124) | (np.abs(column * (1 - column) - 0.125) > 0.124))
    chosen = np.random.default_rng(0).choice(clear, (_TRIES, 4))
    corners = ramp[chosen]
    solvable = np.abs(np.linalg.det(corners)) > 0.02
    surfaces = ramp @ np.linalg.solve(corners[solvable], colours[chosen[solvable]])
    near = np.abs(surfaces - colours).max(axis=-1) <= _LEVELS
    return bool(near.mean(axis=1).max() > _SHARE)
