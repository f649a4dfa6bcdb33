"""What the runner asks of a model under evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

if TYPE_CHECKING:  # torch is not needed to say what is asked
    from mblip.models.generation import Request

OpenImage = Callable[[str], Image.Image]


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """An item without an answer: the model gave no text, which is not an empty answer, or its picture cannot be read.

    Attributes:
        why: In words.
        asked: Whether the model was, which it was not where a picture cannot be read.
    """

    why: str
    asked: bool = True


@dataclass(frozen=True, slots=True)
class RequestGroup:
    """Requests that are decoded alike.

    Attributes:
        requests: At least one.
        decoding: What :meth:`Answerer.decoding` gave for their benchmark.
    """

    requests: Sequence[Request]
    decoding: Mapping[str, Any]


class Answerer(Protocol):
    """A model under evaluation.

    Attributes:
        model: As it was named.
        kind: See :class:`mblip.evaluation.results.Run`.
        identity: Everything beside the decoding that decides its answers; the names are read by people.
    """

    model: str
    kind: str
    identity: dict[str, Any]

    def decoding(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """The settings it decodes with where a benchmark wants these, inherited ones included."""
        ...

    def refusal(self, request: Request, open_image: OpenImage) -> str:
        """Why it cannot take requests of this kind (several pictures); empty where it can.

        Args:
            request: The first of a benchmark.
            open_image: Gives its pictures.

        Raises:
            UnreadableImage: From ``open_image``.
        """
        ...

    def answers(
        self, groups: Sequence[RequestGroup], open_image: OpenImage
    ) -> Iterator[tuple[Request, str | NoAnswer]]:
        """Every request once with its answer, in any order.

        Raises:
            UnreadableImage: From ``open_image``; the iterator has then ended, and may be asked again for the rest.
            InputError: The model cannot answer at all.
        """
        ...

    def choices(
        self, requests: Sequence[Request], open_image: OpenImage, candidates: Sequence[str]
    ) -> Iterator[tuple[Request, str]]:
        """Every request once with the likeliest of the given answers, in any order.

        Raises:
            InputError: It cannot score given answers; UnreadableImage as in :meth:`answers`.
        """
        ...
