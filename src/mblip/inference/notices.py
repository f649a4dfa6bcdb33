"""Notices from plug-ins about a model and its pictures, such as that it has seen no photographs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from mblip import plugins
from mblip.models.vision_llm import VisionLLM


@dataclass(frozen=True, slots=True)
class Notice:
    """A plug-in's notice about a model. Called with a picture, it returns a warning or None.

    Attributes:
        sees: The pictures that the model was made for, as the end of "It is made for ...".
        question: A question that the model can answer.
        check: The warning about a picture, or None.
    """

    sees: str
    question: str
    check: Callable[[Image.Image], str | None]

    def __call__(self, picture: Image.Image) -> str | None:
        """The warning about a picture, or None."""
        return self.check(picture)


def notice_for(model: VisionLLM) -> Notice | None:
    """Combine the notices of all plug-ins about a model; None if there is none."""
    own: list[Notice] = [notice for _, find in plugins.notices.usable() if (notice := find(model))]
    if not own:
        return None
    return Notice(
        "; ".join(notice.sees for notice in own),
        own[0].question,
        lambda picture: "; ".join(text for notice in own if (text := notice(picture))) or None,
    )
