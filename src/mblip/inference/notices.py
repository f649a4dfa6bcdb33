"""What a person should be told of a model and a picture, such as that the model cannot know such pictures; plug-ins know it."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from mblip import plugins
from mblip.models.vision_llm import VisionLLM

Notice = Callable[[Image.Image], str | None]
"""Of a picture, what to tell the person who shows it; None where there is nothing to tell."""


def notice_for(model: VisionLLM) -> Notice | None:
    """What has to be told of pictures that a model is shown; None for a model that nobody has anything to tell of."""
    own: list[Notice] = [notice for _, find in plugins.notices.usable() if (notice := find(model))]
    if not own:
        return None
    return lambda picture: "; ".join(text for notice in own if (text := notice(picture))) or None
