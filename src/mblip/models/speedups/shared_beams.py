"""Compute and store what the beams of a text share once per text, instead of once per beam.

Stock beam search of an encoder-decoder repeats the encoder's states for every beam, computes the decoder's keys and
values for all copies, reads all copies in every step, and copies them again when beams change places, although the
copies of one text are equal. In the first step, all beams of a text are equal too. Here the first step runs once per
text and computes the keys and values; afterwards the beams of a text are several queries of them.
"""

from __future__ import annotations

import logging
from typing import Any

import transformers
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutput

from mblip.models.language_model import LanguageModel, Seq2SeqLanguageModel, cache_name

# Name of the cross-attention in T5, mT5 and umT5.
_CROSS_ATTENTION = "EncDecAttention"
_log = logging.getLogger(__name__)


class _Common(DynamicLayer):  # type: ignore[misc]
    """Keys and values of the encoder's states; beams change places only within a text, where these are equal."""

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Do nothing."""


class _Shared(EncoderDecoderCache):  # type: ignore[misc]
    """The cache of texts whose beams share it.

    Args:
        texts: Number of texts.
        beams: Number of beams per text.
    """

    def __init__(self, texts: int, beams: int) -> None:
        common = DynamicCache()
        common.layer_class_to_replicate = _Common
        super().__init__(DynamicCache(), common)
        self.texts, self.beams = texts, beams
        self.is_spread = False

    def spread(self) -> None:
        """After the first step, expand one row per text to one row per beam."""
        self.is_spread = True
        self.self_attention_cache.batch_repeat_interleave(self.beams)


def concerns(llm: LanguageModel) -> bool:
    """Whether a kind of model could gain: it has an encoder, whose states its beams can share."""
    return llm.is_encoder_decoder


def reason_against(llm: LanguageModel) -> str:
    """Why the beams of a text cannot share keys and values; empty if they can."""
    if not llm.model._supports_default_dynamic_cache():
        return "its cache of keys and values has an unknown format"
    if not _readers(llm):
        return f"it has no {_CROSS_ATTENTION} with keys and values to share"
    return ""


def install(llm: LanguageModel) -> None:
    """Install hooks that let the decoder read the inputs of :func:`inputs`; other calls are unchanged.

    The hooks stay on the model and depend only on the cache of each call, so several threads may generate at once.
    """
    assert isinstance(llm, Seq2SeqLanguageModel)
    decoder = llm.model.get_decoder()
    if _first_of_beams in decoder._forward_pre_hooks.values():
        return
    for reader in _readers(llm):
        reader.register_forward_pre_hook(_as_queries, with_kwargs=True)
        reader.register_forward_hook(_as_rows, with_kwargs=True)
    decoder.register_forward_pre_hook(_first_of_beams, with_kwargs=True)
    llm.model.register_forward_hook(_to_beams, with_kwargs=True)


def inputs(llm: LanguageModel, embedded: Tensor, mask: Tensor, beams: int) -> dict[str, Any]:
    """Arguments of ``generate`` that replace ``inputs_embeds``, for a model that :func:`install` was called on.

    Args:
        llm: An encoder-decoder.
        embedded: The embedded prompts [texts, tokens, width].
        mask: Their attention mask [texts, tokens].
        beams: Number of beams per text.
    """
    assert isinstance(llm, Seq2SeqLanguageModel)
    encoded = BaseModelOutput(last_hidden_state=llm.encode(embedded, mask))
    return {"encoder_outputs": encoded, "attention_mask": mask, cache_name(llm.model): _Shared(len(embedded), beams)}


def warn_if_unused(llm: LanguageModel, given: dict[str, Any]) -> None:
    """Warn after ``generate`` if the beams were not shared, as when transformers passes caches differently."""
    shared = next(value for value in given.values() if isinstance(value, _Shared))
    if not shared.is_spread and shared.get_seq_length():
        _log.warning(
            "the beams of a text were not shared: transformers %s passes its cache to %s in an unknown way. The "
            "answers are correct, only slower",
            transformers.__version__, type(llm.model).__name__,
        )  # fmt: skip


def _readers(llm: LanguageModel) -> list[nn.Module]:
    return [module for name, module in llm.model.named_modules() if name.endswith(_CROSS_ATTENTION)]


def take_first_beams(
    given: tuple[Any, ...], options: dict[str, Any], texts: int, beams: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Keep the first of each text's equal beams in the arguments of a call: [texts * beams, ...] -> [texts, ...]."""

    def first(value: Any) -> Any:
        # Contiguous, because otherwise torch would repeat the weights of keys and values for every text.
        return value[::beams].contiguous() if isinstance(value, Tensor) and len(value) == texts * beams else value

    return tuple(map(first, given)), {name: first(value) for name, value in options.items()}


def _first_of_beams(_: nn.Module, given: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """In the first step, keep the first of each text's equal beams: [texts * beams, ...] -> [texts, ...]."""
    cache = _shared(options)
    if cache is None or cache.is_spread:
        return None
    return take_first_beams(given, options, cache.texts, cache.beams)


def _to_beams(_: nn.Module, given: tuple[Any, ...], options: dict[str, Any], made: Any) -> Any:
    """Repeat the first step's logits of each text for all its beams; the output head runs once per text too."""
    cache = _shared(options)
    if cache is None or cache.is_spread:
        return None
    cache.spread()
    made.logits = made.logits.repeat_interleave(cache.beams, 0)
    return made


def _as_queries(_: nn.Module, given: tuple[Tensor, ...], options: dict[str, Any]) -> Any:
    """Arrange one token of each beam as queries: [texts * beams, 1, width] -> [texts, beams, width]."""
    hidden, *rest = given
    texts = _texts(options)
    if not texts or len(hidden) == texts:
        return None
    beams = len(hidden) // texts
    masks = {name: options[name][::beams] for name in ("mask", "attention_mask") if options.get(name) is not None}
    return (hidden.view(texts, beams, -1), *rest), {**options, **masks}


def _as_rows(_: nn.Module, given: tuple[Tensor, ...], options: dict[str, Any], made: Any) -> Any:
    """Arrange the output for the beams as rows: [texts, beams, width] -> [texts * beams, 1, width]."""
    seen, *rest = made
    return (seen.flatten(0, 1).unsqueeze(1), *rest) if len(seen) == _texts(options) else None


def _texts(options: dict[str, Any]) -> int:
    """Number of texts whose beams share keys and values in a call's cache; 0 if there is no such cache."""
    cache = _shared(options)
    return cache.texts if cache is not None and cache.is_spread else 0


def _shared(options: dict[str, Any]) -> _Shared | None:
    """The shared cache among a call's arguments, found by its class, as its name differs by version."""
    return next((value for value in options.values() if isinstance(value, _Shared)), None)
