"""A stand-in that opens every picture and says yes or no by the item's id, to test everything but a model."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mblip.evaluation.answerers.base import OpenImage, RequestGroup
    from mblip.models.generation import Request


class DummyAnswerer:
    """See :class:`~mblip.evaluation.answerers.base.Answerer`."""

    model = kind = "dummy"

    def __init__(self) -> None:
        self.identity: dict[str, Any] = {}

    def decoding(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """No settings."""
        return {}

    def refusal(self, request: Request, open_image: OpenImage) -> str:
        """Always empty: it takes every request."""
        return ""

    def answers(self, groups: Sequence[RequestGroup], open_image: OpenImage) -> Iterator[tuple[Request, str]]:
        """Yield ``yes`` or ``no`` for each request."""
        return self.choices([r for group in groups for r in group.requests], open_image, ("yes", "no"))

    def choices(
        self, requests: Sequence[Request], open_image: OpenImage, candidates: Sequence[str]
    ) -> Iterator[tuple[Request, str]]:
        """Yield one of the candidates, always the same one for a request."""
        opened: set[str] = set()
        for request in requests:
            for key in request.images:
                if key not in opened:
                    open_image(key)
                    opened.add(key)
            yield request, candidates[zlib.crc32(request.id.encode()) % len(candidates)]
