"""The share of answers that run in circles, of the bare model and of captions as people get them.

    python benchmarks/loops.py RUN [PICTURES]

RUN is a run on a nano base, such as the quickstart's; its captions of three and four things are those that it knows worst. Each
is asked for in four languages, by the default decoding and by two others, and with answers kept from ending before 40 tokens,
which makes any model repeat itself. A loop is a phrase that stands three times in a row.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessorList

from mblip.inference.predictor import load_model
from mblip.nano.scenes import render, sample_scene
from mblip.nano.words import load_lexicon

LANGUAGES = ("en", "de", "sw", "ja")
LOOP = re.compile(r"(?P<unit>\w.{0,60}?)(?:[\s,]*(?P=unit)){2,}", re.DOTALL)
DECODING: dict[str, dict[str, Any]] = {
    "default (5 beams, penalty 1.5)": {},
    "5 beams": {"repetition_penalty": 1.0},
    "greedy": {"num_beams": 1, "repetition_penalty": 1.0},
    "default, at least 40 tokens": {"min_new_tokens": 40},
    "greedy, at least 40 tokens": {"num_beams": 1, "repetition_penalty": 1.0, "min_new_tokens": 40},
}


def main() -> None:
    """Print a row for each number of things and decoding."""
    torch.set_num_threads(1)
    model, names = load_model(Path(sys.argv[1])), list(load_lexicon().concepts)
    pictures = int(sys.argv[2]) if len(sys.argv) > 2 else 24
    print("| things | decoding | answers | loops, bare | loops | changed |\n|---|---|---|---|---|---|")
    for things in (1, 2, 3, 4):
        draw = np.random.default_rng(things)
        images = [render(sample_scene(draw, things, names)) for _ in range(pictures)]
        for name, generation in DECODING.items():
            kept = flat(model.caption(images, LANGUAGES, **generation))
            bare = flat(model.caption(images, LANGUAGES, logits_processor=LogitsProcessorList(), **generation))
            looped = [sum(bool(LOOP.search(text.lower())) for text in texts) / len(kept) for texts in (bare, kept)]
            changed = sum(one != other for one, other in zip(kept, bare, strict=True)) / len(kept)
            print(
                f"| {things} | {name} | {len(kept)} | {looped[0]:.1%} | {looped[1]:.1%} | {changed:.1%} |", flush=True
            )


def flat(texts: list[list[str]]) -> list[str]:
    """All texts in one list."""
    return [text for row in texts for text in row]


if __name__ == "__main__":
    main()
