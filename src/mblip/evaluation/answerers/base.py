"""The interface of a model under evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

if TYPE_CHECKING:  # the interface itself needs no torch
    from mblip.models.generation import Request

OpenImage = Callable[[str], Image.Image]


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """An item without an answer: the model gave no text, which is not an empty answer, or its picture cannot be read.

    Attributes:
        why: The reason.
        asked: Whether the model was asked; it is not if a picture cannot be read.
    """

    why: str
    asked: bool = True


@dataclass(frozen=True, slots=True)
class RequestGroup:
    """Requests with the same decoding settings.

    Attributes:
        requests: One or more requests.
        decoding: The settings from :meth:`Answerer.decoding` for their benchmark.
    """

    requests: Sequence[Request]
    decoding: Mapping[str, Any]


class Answerer(Protocol):
    """A model under evaluation.

    Attributes:
        model: Name of the model.
        kind: See :class:`mblip.evaluation.results.Run`.
        identity: Everything besides the decoding that decides its answers, under readable names.
    """

    model: str
    kind: str
    identity: dict[str, Any]

    def decoding(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """The effective decoding settings for those of a benchmark, inherited ones included."""
        ...

    def refusal(self, request: Request, open_image: OpenImage) -> str:
        """Why the model cannot take requests of this kind (several pictures); empty if it can.

        Args:
            request: The first request of a benchmark.
            open_image: Opens its pictures.

        Raises:
            UnreadableImage: From ``open_image``.
        """
        ...

    def answers(
        self, groups: Sequence[RequestGroup], open_image: OpenImage
    ) -> Iterator[tuple[Request, str | NoAnswer]]:
        """Yield every request with its answer, in any order.

        Raises:
            UnreadableImage: From ``open_image``; the iterator has then ended, and may be called again for the rest.
            InputError: The model cannot answer at all.
        """
        ...

    def choices(
        self, requests: Sequence[Request], open_image: OpenImage, candidates: Sequence[str]
    ) -> Iterator[tuple[Request, str]]:
        """Yield every request with the likeliest of the given answers, in any order.

        Raises:
            InputError: The model cannot score given answers.
            UnreadableImage: As in :meth:`answers`.
        """
        ...
