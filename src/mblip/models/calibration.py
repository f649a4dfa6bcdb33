"""Measure how long a recipe's micro-batch takes on this device, with random weights of the right shape."""

from __future__ import annotations

import time
from typing import Any

import torch

from mblip.config import TrainRecipe
from mblip.models.auto_settings import resolve_auto
from mblip.models.planning import Plan, synthetic_states
from mblip.models.prepare import compute_dtype, make_trainable, without_values
from mblip.models.quantize import check_kind, quantize
from mblip.models.skeleton import container_config, skeleton
from mblip.models.speedups import speed_up

_TILE = 1 << 20


def calibrate(plan: Plan, recipe: TrainRecipe, device: torch.device, repeats: int = 3) -> None:
    """Run a few micro-batches and write seconds, peak memory and the hours that follow into the plan.

    Every text is as long as the recipe allows, so the hours are an upper bound. They leave out the optimiser's step,
    which comes once in many micro-batches, and the reading of pictures, which happens at the same time.

    Args:
        plan: The recipe's plan; it is changed.
        recipe: The recipe to run.
        device: The device to run on.
        repeats: Timed micro-batches, after one that is not timed.

    Raises:
        torch.OutOfMemoryError: The micro-batch does not fit the device.
    """
    recipe = resolve_auto(recipe, on_gpu=device.type != "cpu")
    dtype = compute_dtype(recipe)
    kind = check_kind(recipe.model.quantization) or "none"
    # A quantised model must never have to fit the device as a whole before it is quantised.
    with torch.device("cpu" if kind != "none" else device):
        vlm = skeleton(container_config(recipe.model), dtype)
    tile = torch.randn(_TILE) * 0.02
    for parameter in vlm.parameters():
        flat = parameter.data.view(-1)
        for start in range(0, len(flat), _TILE):
            flat[start : start + _TILE] = tile[: len(flat) - start].to(flat)
    quantize(vlm.language_model, kind, dtype, device)
    vlm.model.to(device)
    make_trainable(vlm, recipe)
    speed_up(vlm, without_values(recipe.speedups))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            states = synthetic_states(vlm, plan.batch, device)
            targets = torch.zeros(len(states), dtype=torch.long, device=device)
            vlm.llm.loss_sum(states, targets).backward()  # type: ignore[no-untyped-call]
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    best = min(seconds[1:])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    found: dict[str, Any] = {"device": name, "seconds": best, "texts_per_second": plan.batch["texts"] / best}
    if device.type == "cuda":
        found["peak_bytes"] = torch.cuda.max_memory_allocated(device)
    plan.calibration = found
    if plan.steps is not None:
        plan.hours = plan.steps * recipe.optim.global_batch / plan.batch["texts"] * best / 3600
