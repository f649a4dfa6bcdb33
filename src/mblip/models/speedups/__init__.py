"""Speed-ups: optional faster ways beside the plain path in :mod:`mblip.models.vision_llm`.

A speed-up is a module with ``concerns(llm)``, whether a model of this kind could gain from it, ``reason_against(llm)``,
why this model cannot use it, and ``install(llm)``. Results equal those of the plain path up to rounding.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from types import ModuleType
from typing import Literal, Protocol

from mblip.errors import InputError, nearest
from mblip.models.language_model import LanguageModel
from mblip.models.speedups import fused_layers, packed_rows, shared_beams, shared_prefix

Name = Literal["packed_rows", "shared_beams", "shared_prefix", "fused_layers"]
SPEEDUPS: dict[str, ModuleType] = {
    "packed_rows": packed_rows,
    "shared_beams": shared_beams,
    "shared_prefix": shared_prefix,
    "fused_layers": fused_layers,
}
# Speed-ups of generation and scoring; the others are for training.
FOR_INFERENCE = ("shared_beams", "shared_prefix")
_log = logging.getLogger(__name__)


class SpedUp(Protocol):
    """A model whose speed-ups can be set."""

    llm: LanguageModel
    speedups: frozenset[str]


def speed_up(vlm: SpedUp, names: Collection[str] = FOR_INFERENCE) -> Mapping[str, str]:
    """Turn on the named speed-ups that the model can use, and turn off all others.

    Args:
        vlm: A vision-LLM, complete with its adapters.
        names: Keys of :data:`SPEEDUPS`; empty for the plain path.

    Returns:
        The reason for each named speed-up that models of this kind can use but this one cannot.

    Raises:
        InputError: A name is unknown.
    """
    unknown = [name for name in names if name not in SPEEDUPS]
    if unknown:
        raise InputError(f"speedups: there is no {unknown[0]!r}{nearest(unknown[0], SPEEDUPS)}")
    wanted = [name for name in names if SPEEDUPS[name].concerns(vlm.llm)]
    reasons = {name: SPEEDUPS[name].reason_against(vlm.llm) for name in wanted}
    on = [name for name in wanted if not reasons[name]]
    for name in on:
        SPEEDUPS[name].install(vlm.llm)
    vlm.speedups = frozenset(on)
    _log.info("speed-ups of the language model: %s", ", ".join(on) or "none")
    off = {name: reason for name, reason in reasons.items() if reason}
    for name, reason in off.items():
        kind = type(vlm.llm.model).__name__
        _log.warning("%s cannot be used with %s; results are the same, only slower: %s", name, kind, reason)
    return off
