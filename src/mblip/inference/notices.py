"""Notices from plug-ins about a model and a picture, such as that the model does not know such pictures."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from mblip import plugins
from mblip.models.vision_llm import VisionLLM

Notice = Callable[[Image.Image], str | None]
"""A function that returns the notice for a picture, or None."""


def notice_for(model: VisionLLM) -> Notice | None:
    """The function that gives notices about a model's pictures; None if no plug-in has one."""
    own: list[Notice] = [notice for _, find in plugins.notices.usable() if (notice := find(model))]
    if not own:
        return None
    return lambda picture: "; ".join(text for notice in own if (text := notice(picture))) or None
