"""Example pictures for ``mblip demo``: emoji scenes, drawn here, so that they need no network; the nano models know them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mblip.nano.scenes import render, sample_scene
from mblip.nano.words import load_lexicon

COUNT = 4
_SIZE = 256


def draw(folder: Path) -> list[Path]:
    """Draw the pictures into a folder."""
    concepts = sorted(load_lexicon().emoji)
    paths = []
    for number in range(COUNT):
        scene = sample_scene(np.random.default_rng(number), 1 + number % 2, concepts)
        paths.append(folder / f"scene-{number + 1}.png")
        render(scene, _SIZE).save(paths[-1])
    return paths
