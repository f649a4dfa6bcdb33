"""The parts of the model and how each part learns."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from mblip.config import PartsSection
from mblip.errors import InputError
from mblip.models.containers import part_of
from mblip.models.vision_llm import VisionLLM


def parameters_by_part(vlm: VisionLLM, trainable: bool = False) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Parameters (or only the trainable ones) with their names in the container, by part.

    The parts are those of the container (for BLIP-2 vision, queries, qformer, projection and llm), and lora.
    """
    prefixes = vlm.container.prefixes
    parts: dict[str, list[tuple[str, nn.Parameter]]] = {part: [] for part in (*prefixes.values(), "lora")}
    for name, parameter in vlm.model.named_parameters():
        if parameter.requires_grad or not trainable:
            parts[part_of(name, prefixes)].append((name, parameter))
    return parts


def count_parameters(vlm: VisionLLM, trainable: bool = False) -> dict[str, int]:
    """Number of parameters (or of trainable ones) in each part; tied weights count once."""
    parts = parameters_by_part(vlm, trainable)
    return {part: sum(_size(parameter) for _, parameter in found) for part, found in parts.items()}


def _size(parameter: nn.Parameter) -> int:
    state = getattr(parameter, "quant_state", None)  # NF4 packs two weights into a byte
    return parameter.numel() if state is None else int(state.shape.numel())


def _is_quantized(parameter: nn.Parameter) -> bool:
    return not parameter.is_floating_point() or getattr(parameter, "quant_state", None) is not None


def set_trainable(vlm: VisionLLM, parts: PartsSection) -> None:
    """Freeze and unfreeze by part; the queries go with the Q-Former.

    Raises:
        InputError: ``llm: lora`` without adapters (see :func:`~mblip.models.lora.add_lora`), or full training of a
            language model that is quantised.
    """
    found = parameters_by_part(vlm)
    if parts.llm == "lora" and not found["lora"]:
        raise InputError("parts.llm is lora, but the language model has no adapters; add them before training")
    if parts.llm == "full" and any(_is_quantized(p) for _, p in found["llm"]):
        raise InputError("parts.llm is full, but the language model is quantised; use lora, or quantization=none")
    learns = {
        "vision": parts.vision == "full",
        "queries": parts.qformer == "full",
        "qformer": parts.qformer == "full",
        "projection": parts.projection == "full",
        "llm": parts.llm == "full",
        "lora": parts.llm == "lora",
    }
    for part, parameters in found.items():
        for _, parameter in parameters:
            if not _is_quantized(parameter):  # quantised weights never have gradients
                parameter.requires_grad_(learns[part])


def recompute_layers(vlm: VisionLLM, parts: Collection[str]) -> None:
    """Recompute the layers of ``vision``, ``qformer`` or ``llm`` in the backward pass, instead of storing activations.

    Raises:
        InputError: A part does not support it.
    """
    modules = {**vlm.container.encoders, "llm": vlm.language_model}
    for part in parts:
        if part not in modules:
            raise InputError(f"checkpointing: a {vlm.container.model_type} model has no {part}; leave it out")
        if not modules[part].supports_gradient_checkpointing:
            raise InputError(f"checkpointing: {type(modules[part]).__name__} does not support it; leave {part} out")
        # Newer versions of transformers rename the method and warn about the old name.
        old = modules[part].gradient_checkpointing_enable
        getattr(modules[part], "activation_checkpointing_enable", old)({"use_reentrant": False})
