"""The learning rate as a function of the step."""

from __future__ import annotations

import math


def cosine(step: int, steps: int, warmup: int, floor: float = 0.0) -> float:
    """Share of the peak rate at a step (0-based): linear warm-up, then half a cosine down to ``floor``."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
