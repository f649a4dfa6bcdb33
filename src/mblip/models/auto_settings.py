"""Settings that a recipe leaves to the machine (``auto``)."""

from __future__ import annotations

from typing import Any

from mblip.config import TrainRecipe


def resolve_auto(recipe: TrainRecipe, on_gpu: bool) -> TrainRecipe:
    """Replace each ``auto`` by the setting that fits a GPU's memory, or that is fastest on a CPU.

    On a CPU, int8, bf16 and recomputed layers only cost time.
    """
    changes: dict[str, Any] = {}
    if recipe.precision == "auto":
        changes["precision"] = "bf16" if on_gpu else "fp32"
    if "auto" in recipe.checkpointing:
        changes["checkpointing"] = ("llm",) if on_gpu else ()
    if recipe.model.quantization == "auto":
        changes["model"] = recipe.model.model_copy(update={"quantization": "int8" if on_gpu else "none"})
    return recipe.model_copy(update=changes)
