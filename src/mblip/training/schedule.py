"""The learning rate as a function of the step."""

from __future__ import annotations

import math


def cosine(step: int, steps: int, warmup: int, floor: float = 0.0, from_zero: bool = False) -> float:
    """Share of the peak rate at a step (0-based): linear warm-up, then half a cosine down to ``floor``.

    Args:
        step: Which.
        steps: Of the whole run.
        warmup: Of them, how many the rate rises for.
        floor: Share that is left at the end.
        from_zero: The first step has the rate 0, as in transformers and the original, and each other that of the one before.
    """
    if step < warmup:
        return (step if from_zero else step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
