"""What the beams of a text have in common, made and kept once a text instead of once a beam.

Stock beam search of an encoder-decoder repeats the encoder's states for every beam, makes the decoder's keys and values
of all these copies, reads all the copies in every step, and copies them anew whenever beams change places, although
those of one text are all the same; and in its first step all the beams of a text are the same one. Here that step is taken
once a text, the keys and values are made in it, and the beams of a text are so many queries of them afterwards.
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

# What T5, mT5 and umT5 call the attention to the encoder's states.
_CROSS_ATTENTION = "EncDecAttention"
_log = logging.getLogger(__name__)


class _Common(DynamicLayer):  # type: ignore[misc]
    """Keys and values of the encoder's states; beams only ever change places within a text, where they are equal."""

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Nothing changes."""


class _Shared(EncoderDecoderCache):  # type: ignore[misc]
    """The cache of some texts, which several beams of each will read.

    Args:
        texts: Number of texts.
        beams: Beams of each text.
    """

    def __init__(self, texts: int, beams: int) -> None:
        common = DynamicCache()
        common.layer_class_to_replicate = _Common
        super().__init__(DynamicCache(), common)
        self.texts, self.beams = texts, beams
        self.is_spread = False

    def spread(self) -> None:
        """From a row a text, after the first step, to a row a beam."""
        self.is_spread = True
        self.self_attention_cache.batch_repeat_interleave(self.beams)


def concerns(llm: LanguageModel) -> bool:
    """Whether a kind of model could gain: one with an encoder, whose states its beams could share."""
    return llm.is_encoder_decoder


def reason_against(llm: LanguageModel) -> str:
    """Why the beams of a text cannot share keys and values; empty where they can."""
    if not llm.model._supports_default_dynamic_cache():
        return "its cache of keys and values is of its own kind"
    if not _readers(llm):
        return f"it has no {_CROSS_ATTENTION}, whose keys and values could be shared"
    return ""


def install(llm: LanguageModel) -> None:
    """Let the decoder read what :func:`inputs` prepares; whatever else it is given it computes as before.

    The hooks stay on the model and look at nothing but the cache of each call, so several threads may generate at once.
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
    """What ``generate`` takes in place of ``inputs_embeds``, for a model that :func:`install` was called on.

    Args:
        llm: An encoder-decoder.
        embedded: The prompts [texts, tokens, width].
        mask: [texts, tokens].
        beams: Beams of each text.
    """
    assert isinstance(llm, Seq2SeqLanguageModel)
    encoded = BaseModelOutput(last_hidden_state=llm.encode(embedded, mask))
    return {"encoder_outputs": encoded, "attention_mask": mask, cache_name(llm.model): _Shared(len(embedded), beams)}


def warn_if_unused(llm: LanguageModel, given: dict[str, Any]) -> None:
    """After ``generate``: say so where the beams were not shared, as when a version of transformers hands on caches anew."""
    shared = next(value for value in given.values() if isinstance(value, _Shared))
    if not shared.is_spread and shared.get_seq_length():
        _log.warning(
            "the beams of a text were not shared: transformers %s hands %s its cache in a way that is not known. The "
            "answers are right, only slower",
            transformers.__version__, type(llm.model).__name__,
        )  # fmt: skip


def _readers(llm: LanguageModel) -> list[nn.Module]:
    return [module for name, module in llm.model.named_modules() if name.endswith(_CROSS_ATTENTION)]


def take_first_beams(
    given: tuple[Any, ...], options: dict[str, Any], texts: int, beams: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with the first of each text's equal beams: [texts * beams, ...] -> [texts, ...]."""

    def first(value: Any) -> Any:
        # Without gaps: for rows with gaps torch would repeat the weights of keys and values for every text.
        return value[::beams].contiguous() if isinstance(value, Tensor) and len(value) == texts * beams else value

    return tuple(map(first, given)), {name: first(value) for name, value in options.items()}


def _first_of_beams(_: nn.Module, given: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """The first step: of each text's equal beams the first, [texts * beams, ...] -> [texts, ...]."""
    cache = _shared(options)
    if cache is None or cache.is_spread:
        return None
    return take_first_beams(given, options, cache.texts, cache.beams)


def _to_beams(_: nn.Module, given: tuple[Any, ...], options: dict[str, Any], made: Any) -> Any:
    """The first step's logits of each text, for all its beams: the output head is run once a text too."""
    cache = _shared(options)
    if cache is None or cache.is_spread:
        return None
    cache.spread()
    made.logits = made.logits.repeat_interleave(cache.beams, 0)
    return made


def _as_queries(_: nn.Module, given: tuple[Tensor, ...], options: dict[str, Any]) -> Any:
    """One token of each beam [texts * beams, 1, width] -> [texts, beams, width]."""
    hidden, *rest = given
    texts = _texts(options)
    if not texts or len(hidden) == texts:
        return None
    beams = len(hidden) // texts
    masks = {name: options[name][::beams] for name in ("mask", "attention_mask") if options.get(name) is not None}
    return (hidden.view(texts, beams, -1), *rest), {**options, **masks}


def _as_rows(_: nn.Module, given: tuple[Tensor, ...], options: dict[str, Any], made: Any) -> Any:
    """What the beams saw [texts, beams, width] -> [texts * beams, 1, width]."""
    seen, *rest = made
    return (seen.flatten(0, 1).unsqueeze(1), *rest) if len(seen) == _texts(options) else None


def _texts(options: dict[str, Any]) -> int:
    """The texts whose keys and values are in common in a call's cache; 0 where there are none."""
    cache = _shared(options)
    return cache.texts if cache is not None and cache.is_spread else 0


def _shared(options: dict[str, Any]) -> _Shared | None:
    """The cache in common among a call's arguments, told by its kind, since its name differs by version."""
    return next((value for value in options.values() if isinstance(value, _Shared)), None)
