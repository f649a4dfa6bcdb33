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
    """A model that was asked and gave no text, which is not an empty answer.

    Attributes:
        why: In words.
    """

    why: str


class Answerer(Protocol):
    """A model under evaluation.

    Attributes:
        model: As it was named.
        kind: See :class:`mblip.evaluation.results.Run`.
        identity: What tells it from another of the same name.
    """

    model: str
    kind: str
    identity: dict[str, Any]

    def decoding(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """The settings it will really decode with where a benchmark wants these."""
        ...

    def answers(
        self, requests: Sequence[Request], open_image: OpenImage, decoding: Mapping[str, Any]
    ) -> Iterator[tuple[Request, str | NoAnswer]]:
        """Every request once with its answer, in any order.

        Raises:
            UnreadableImage: From ``open_image``; the iterator has then ended, and may be asked again for the rest.
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
