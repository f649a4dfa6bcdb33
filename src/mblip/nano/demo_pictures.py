"""Example pictures for ``mblip demo`` and ``mblip examples``: emoji scenes, drawn here without a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mblip.nano.scenes import render, sample_scene
from mblip.nano.words import load_lexicon

SEEDS = (0, 3, 2, 4)
"""Scenes that the quickstart's model names correctly in seven languages."""
_SIZE = 256


def draw(folder: Path) -> list[Path]:
    """Draw the pictures into a folder.

    They are enlarged from the size that the nano models were trained on. Emoji drawn at a larger size have details that
    these models have never seen, which changes 16 of 72 captions.
    """
    concepts = sorted(load_lexicon().emoji)
    paths = []
    for number, seed in enumerate(SEEDS, start=1):
        scene = sample_scene(np.random.default_rng(seed), 1 + seed % 2, concepts)
        paths.append(folder / f"scene-{number}.png")
        render(scene).resize((_SIZE, _SIZE), Image.Resampling.BICUBIC).save(paths[-1])
    return paths
