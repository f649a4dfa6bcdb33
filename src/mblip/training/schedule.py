"""The learning rate as a function of the step."""

from __future__ import annotations

import math


def cosine(step: int, steps: int, warmup: int, floor: float = 0.0, from_zero: bool = False) -> float:
    """Share of the peak rate at a step (0-based): linear warm-up, then half a cosine down to ``floor``.

    Args:
        step: The step.
        steps: Number of steps of the run.
        warmup: Number of steps in which the rate rises.
        floor: Share of the peak rate at the end.
        from_zero: Begin with a rate of 0, as transformers and the original do; every later step has the rate of the
            step before.
    """
    if step < warmup:
        return (step if from_zero else step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
