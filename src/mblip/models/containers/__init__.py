"""The stock classes that a vision-LLM can be kept in, one file each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mblip.errors import InputError
from mblip.models.checkpoint import read_json
from mblip.models.containers.base import Container, Keep, finite, part_of
from mblip.models.containers.blip2 import Blip2Container
from mblip.models.containers.llava import LlavaContainer

CONTAINERS: dict[str, type[Container]] = {kind.model_type: kind for kind in (Blip2Container, LlavaContainer)}
# The container of each kind of bridge between vision encoder and language model.
BRIDGES: dict[str, type[Container]] = {"qformer": Blip2Container, "mlp": LlavaContainer}


def container_of(model: Any) -> Container:
    """The container of a stock model.

    Raises:
        InputError: No container holds this class.
    """
    kind = container_kind(model.config)
    if kind is None:
        known = ", ".join(CONTAINERS)
        raise InputError(f"a {model.config.model_type} model is not a vision-LLM that mblip builds ({known})")
    return kind(model)


def container_kind(config: Any) -> type[Container] | None:
    """The container class of a configuration; None if there is none."""
    return CONTAINERS.get(config.model_type)


def whole_of(folder: Path) -> tuple[type[Container], Any]:
    """The container class of a complete vision-LLM checkpoint, and its configuration.

    Raises:
        InputError: No container reads it.
    """
    kind = CONTAINERS.get(read_json(folder / "config.json").get("model_type", ""), Blip2Container)
    return kind, kind.read_config(folder)


def bridge_for(model_type: str | None, bridge: str | None) -> str:
    """The bridge behind a checkpoint's eyes: the one named, else the Q-Former of a BLIP-2, else an MLP.

    Raises:
        InputError: The named bridge does not fit these eyes.
    """
    own = "qformer" if model_type == Blip2Container.model_type else "mlp"
    chosen = bridge or own
    if chosen not in BRIDGES:
        raise InputError(f"bridge {bridge!r} is unknown; it is {' or '.join(BRIDGES)}")
    if chosen == "qformer" != own:
        raise InputError(
            f"bridge=qformer needs the vision encoder of a BLIP-2, but the vision model is a {model_type!r} checkpoint: use "
            "bridge=mlp"
        )
    return chosen


def eyes_of(
    folder: Path, bridge: str | None = None, layer: int | list[int] | None = None, strategy: str | None = None
) -> tuple[type[Container], Any]:
    """The container class for the vision encoder of a checkpoint, and a configuration that describes them.

    Args:
        folder: A BLIP-2, a vision tower, a dual encoder or a checkpoint of the LLaVA family.
        bridge: ``qformer`` or ``mlp``; None chooses the one that suits the checkpoint.
        layer: See :meth:`LlavaContainer.read_eyes`.
        strategy: See :meth:`LlavaContainer.read_eyes`.

    Raises:
        InputError: No container can hold this vision encoder, or the settings belong to another container.
    """
    kind = BRIDGES[bridge_for(read_json(folder / "config.json").get("model_type"), bridge)]
    if kind is LlavaContainer:
        return kind, LlavaContainer.read_eyes(folder, layer, strategy)
    if layer is not None or strategy is not None:
        raise InputError("vision_feature_layer and vision_feature_select_strategy are for bridge=mlp: leave them out")
    return kind, kind.read_config(folder)


__all__ = [
    "BRIDGES",
    "CONTAINERS",
    "Blip2Container",
    "Container",
    "Keep",
    "LlavaContainer",
    "bridge_for",
    "container_kind",
    "container_of",
    "eyes_of",
    "finite",
    "part_of",
    "whole_of",
]
