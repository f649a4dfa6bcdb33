"""What the beams of a text have in common, made and kept once a text instead of once a beam.

Stock beam search of an encoder-decoder repeats the encoder's states for every beam, makes the decoder's keys and values
of all these copies, reads all the copies in every step, and copies them anew whenever beams change places, although
those of one text are all the same; and in its first step all the beams of a text are the same one. Here that step is taken
once a text, the keys and values are made in it, and the beams of a text are so many queries of them afterwards.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import transformers
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutput

from mblip.errors import InputError

# What T5, mT5 and umT5 call the attention to the encoder's states.
_CROSS_ATTENTION = "EncDecAttention"
# What transformers calls the argument that takes keys and values: from 5.24 on, and before.
_CACHE_NAMES = ("cache", "past_key_values")
_LOG = logging.getLogger(__name__)


def cache_name(language_model: Any) -> str:
    """The name of the argument in which a language model takes keys and values of tokens that it has read before.

    Raises:
        InputError: It has none that is known; under a wrong name they would be ignored without a word.
    """
    known = inspect.signature(language_model.forward).parameters
    for name in _CACHE_NAMES:
        if name in known:
            return name
    raise InputError(
        f"{type(language_model).__name__} takes no keys and values as {' or '.join(_CACHE_NAMES)}: it, or this version "
        "of transformers, is not supported"
    )


class _Common(DynamicLayer):  # type: ignore[misc]
    """Keys and values of the encoder's states; beams only ever change places within a text, where they are equal."""

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Nothing changes."""


class _Shared(EncoderDecoderCache):  # type: ignore[misc]
    """The cache of some texts, which several beams of each will read.

    Args:
        texts: How many.
        beams: Of each.
        copies: Of the encoder's keys and values that the beams of a text need.
    """

    def __init__(self, texts: int, beams: int, copies: int) -> None:
        common = DynamicCache()
        common.layer_class_to_replicate = _Common
        super().__init__(DynamicCache(), common)
        self.texts, self.beams, self.copies = texts, beams, copies
        self.is_spread = False

    def spread(self) -> None:
        """From a row a text, after the first step, to a row a beam."""
        self.is_spread = True
        self.self_attention_cache.batch_repeat_interleave(self.beams)
        if self.copies > 1:
            self.cross_attention_cache.batch_repeat_interleave(self.copies)


@contextmanager
def read_once(language_model: Any, embedded: Tensor, mask: Tensor, beams: int) -> Iterator[dict[str, Any]]:
    """Run an encoder, and make the decoder's keys and values of its states, once for all beams of a text.

    Args:
        language_model: An encoder-decoder.
        embedded: The prompts [texts, tokens, width].
        mask: [texts, tokens].
        beams: Of each text.

    A saving that cannot be had, or that did not take place, is logged as a warning; the answers are the same.

    Yields:
        What ``generate``, called inside the block, takes in place of ``inputs_embeds``.
    """
    states = language_model.get_encoder()(inputs_embeds=embedded, attention_mask=mask).last_hidden_state
    inputs: dict[str, Any] = {"encoder_outputs": BaseModelOutput(last_hidden_state=states), "attention_mask": mask}
    if not language_model._supports_default_dynamic_cache():
        _LOG.warning("%s has caches of its own kind: every beam has its copies", type(language_model).__name__)
        yield inputs
        return
    readers = [module for name, module in language_model.named_modules() if name.endswith(_CROSS_ATTENTION)]
    if not readers:
        _LOG.warning("%s has no %s: every beam has its copies", type(language_model).__name__, _CROSS_ATTENTION)
    shared = _Shared(len(embedded), beams, 1 if readers else beams)
    handles = [reader.register_forward_pre_hook(_as_queries, with_kwargs=True) for reader in readers]
    handles += [reader.register_forward_hook(_as_rows, with_kwargs=True) for reader in readers]
    handles.append(language_model.get_decoder().register_forward_pre_hook(_first_of_beams, with_kwargs=True))
    handles.append(language_model.register_forward_hook(_to_beams, with_kwargs=True))
    try:
        yield {**inputs, cache_name(language_model): shared}
        if not shared.is_spread and shared.get_seq_length():
            _LOG.warning(
                "the beams of a text were not shared: transformers %s hands %s its cache in a way that is not known. "
                "The answers are right, only slower",
                transformers.__version__, type(language_model).__name__,
            )  # fmt: skip
    finally:
        for handle in handles:
            handle.remove()


# All hooks look at the shapes, so that they may be there twice: several threads may generate with one model.
def _first_of_beams(_: nn.Module, given: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """The first step: of each text's equal beams the first, [texts * beams, ...] -> [texts, ...]."""
    cache = _shared(options)
    if cache is None or cache.is_spread:
        return None
    rows = cache.texts * cache.beams

    def first(value: Any) -> Any:
        # Without gaps: for rows with gaps torch would repeat the weights of keys and values for every text.
        return value[:: cache.beams].contiguous() if isinstance(value, Tensor) and len(value) == rows else value

    return tuple(map(first, given)), {name: first(value) for name, value in options.items()}


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
    return cache.texts if cache is not None and cache.is_spread and cache.copies == 1 else 0


def _shared(options: dict[str, Any]) -> _Shared | None:
    """The cache in common among a call's arguments, told by its kind, since its name differs by version."""
    return next((value for value in options.values() if isinstance(value, _Shared)), None)
