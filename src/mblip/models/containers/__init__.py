"""The stock classes that a vision-LLM can be kept in, one file each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mblip.errors import InputError
from mblip.models.checkpoint import read_json
from mblip.models.containers.base import Container, Keep, part_of
from mblip.models.containers.blip2 import Blip2Container

CONTAINERS: dict[str, type[Container]] = {kind.model_type: kind for kind in (Blip2Container,)}


def container_of(model: Any) -> Container:
    """A stock model, seen as parts.

    Raises:
        InputError: No container has this class.
    """
    kind = container_kind(model.config)
    if kind is None:
        known = ", ".join(CONTAINERS)
        raise InputError(f"a {model.config.model_type} model is none of the vision-LLMs that are built here ({known})")
    return kind(model)


def container_kind(config: Any) -> type[Container] | None:
    """The container that a configuration belongs to; None where no container has it."""
    return CONTAINERS.get(config.model_type)


def eyes_of(folder: Path) -> tuple[type[Container], Any]:
    """The container of a checkpoint whose eyes are wanted, and the checkpoint's configuration.

    Raises:
        InputError: No container reads it.
    """
    kind = CONTAINERS.get(read_json(folder / "config.json").get("model_type", ""), Blip2Container)
    return kind, kind.read_config(folder)


__all__ = ["CONTAINERS", "Blip2Container", "Container", "Keep", "container_kind", "container_of", "eyes_of", "part_of"]
