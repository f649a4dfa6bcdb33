"""Compute an image's keys and values once for all questions about it, in generation with decoder-only models.

A decoder-only model only attends to earlier tokens: its keys and values of an image, and of the words before it, do not
depend on the question that follows. Stock generation computes them again for every question and every beam, which is
most of the work if an image takes hundreds of tokens. Here they are computed once, used in the rows of all questions of
a batch, and kept for later batches. The words of a question are read once for all its beams, which are equal until the
first answer token.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from mblip.models.generation_options import leaves_cache
from mblip.models.language_model import (
    CausalLanguageModel,
    LanguageModel,
    cache_name,
    eval_mode,
    is_close,
)
from mblip.models.speedups.packed_rows import layer_kinds
from mblip.models.speedups.shared_beams import take_first_beams

# Kinds of layers by their mask, as transformers' configurations name them.
_FULL, _SLIDING = "full_attention", "sliding_attention"
# Tokens that fit behind a row before its keys and values are copied to a larger buffer.
_ROOM = 64

Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of one prefix by layer, each [heads, tokens, width]."""


class Prefixes:
    """A cache of the most recently used prefixes' keys and values; threads may share one.

    Args:
        limit: Bytes that are kept between batches.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: OrderedDict[Hashable, Layers] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Number of prefixes in the cache."""
        return len(self._kept)

    def get(self, key: Hashable) -> Layers | None:
        """Keys and values of a prefix; None if it is not in the cache."""
        with self._lock:
            if (found := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: Hashable, layers: Layers) -> None:
        """Add a prefix, and drop the least recently used ones beyond the limit."""
        with self._lock:
            if key not in self._kept:
                self._kept[key] = layers
                self._bytes += _bytes(layers)
            while self._bytes > self.limit and self._kept:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= _bytes(dropped)


@dataclass(frozen=True)
class Heads:
    """The prefixes of a batch.

    Attributes:
        lengths: Number of tokens of each text's prefix; 0 for none.
        keys: Key of each text's prefix; equal for texts that begin alike.
    """

    lengths: list[int]
    keys: list[Hashable]

    @property
    def is_shared(self) -> bool:
        """Whether any two texts have the same prefix."""
        with_prefix = [key for key, length in zip(self.keys, self.lengths, strict=True) if length]
        return len(set(with_prefix)) < len(with_prefix)


def heads_of(input_ids: Tensor, attention_mask: Tensor, placeholder: int, images: Sequence[Hashable]) -> Heads:
    """The prefixes of texts, which end with the last image token and are never the complete text.

    Args:
        input_ids: [texts, tokens], padded on the left.
        attention_mask: [texts, tokens].
        placeholder: Id of the image token.
        images: Key of each text's images.
    """
    places = torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device)
    ends = ((input_ids == placeholder) * places).amax(1)
    starts = input_ids.shape[1] - attention_mask.sum(1)
    lengths = (torch.minimum(ends, input_ids.new_tensor(input_ids.shape[1] - 1)) - starts).clamp_(min=0).tolist()
    rows = input_ids.tolist()
    places_of = zip(rows, starts.tolist(), lengths, images, strict=True)
    return Heads(lengths, [(seen, *row[start : start + size]) for row, start, size, seen in places_of])


def inputs(
    llm: LanguageModel, embedded: Tensor, mask: Tensor, heads: Heads, beams: int, store: Prefixes | None
) -> dict[str, Any]:
    """Arguments of ``generate`` that replace ``inputs_embeds`` and ``attention_mask``.

    Args:
        llm: A decoder-only model for which :func:`reason_against` is empty.
        embedded: The embedded prompts [texts, tokens, width], padded on the left.
        mask: Their attention mask [texts, tokens].
        heads: Their prefixes.
        beams: Number of beams per text.
        store: Prefixes of earlier batches, to which new ones are added; None to keep nothing.
    """
    assert isinstance(llm, CausalLanguageModel)
    lengths = torch.tensor(heads.lengths, device=embedded.device)
    longest = max(heads.lengths)
    tails = mask.sum(1) - lengths
    tail = int(tails.max())
    made = _read(llm, embedded, mask, heads, store)
    order = {key: number for number, key in enumerate(made)}
    owners = torch.tensor([order.get(key, -1) for key in heads.keys])  # layers may be on several devices
    layers = [_Shared(parts, owners, longest) for parts in zip(*made.values(), strict=True)]
    cache = _Beams(layers, len(embedded), beams)
    before = torch.arange(longest, device=mask.device) >= longest - lengths[:, None]
    after = torch.arange(tail, device=mask.device) >= tail - tails[:, None]
    # Only the number of tokens in the cache counts, not their values.
    words = torch.cat([embedded.new_zeros(len(embedded), longest, embedded.shape[2]), embedded[:, -tail:]], dim=1)
    return {
        "inputs_embeds": words,
        "attention_mask": torch.cat([before, after], dim=1).to(mask.dtype),
        cache_name(llm.model): cache,
    }


def is_worth_it(
    llm: LanguageModel, heads: Heads, mask: Tensor, store: Prefixes | None, generation: Mapping[str, Any]
) -> bool:
    """Whether a batch can share prefixes and gains by it.

    Args:
        llm: The language model.
        heads: See :func:`heads_of`.
        mask: [texts, tokens].
        store: See :func:`inputs`.
        generation: Options of ``generate``.
    """
    if not any(heads.lengths) or not (heads.is_shared or store is not None):
        return False
    if not leaves_cache(generation):
        return False
    more = generation.get("max_new_tokens")
    more = generation.get("max_length", 0) if more is None else more
    words = mask.sum(1) - mask.new_tensor(heads.lengths)
    longest = int(words.max())
    # Questions of one length have no padding between the prefix and them: a window then sees what it sees without sharing.
    return bool((words == longest).all()) or fits(llm, max(heads.lengths) + longest + more)


def fits(llm: LanguageModel, length: int) -> bool:
    """Whether rows of so many tokens can share whatever their padding: a window of layers that see no more must hold them.

    Args:
        llm: The language model.
        length: Number of tokens of prompt and answer, padding included.
    """
    window = getattr(llm.config, "sliding_window", None)
    return window is None or _SLIDING not in layer_kinds(llm.config) or length <= window


def bytes_per_token(llm: LanguageModel) -> int:
    """Bytes of the keys and values of one token."""
    config = llm.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * llm.embeddings.weight.element_size())


def concerns(llm: LanguageModel) -> bool:
    """Whether a kind of model could gain: it is decoder-only."""
    return not llm.is_encoder_decoder


def reason_against(llm: LanguageModel) -> str:
    """Why a model cannot continue from a prefix's keys and values; empty if it can, with the same results.

    A layer that keeps anything but keys and values, or counts positions along the row, would lose the prefix. Two short
    texts are run to find out.
    """
    assert isinstance(llm, CausalLanguageModel)
    if not llm.model._supports_default_dynamic_cache():
        return "its cache of keys and values has an unknown format"
    if other := layer_kinds(llm.config) - {_FULL, _SLIDING}:
        return f"its layers ({', '.join(sorted(other))}) keep more than keys and values"
    ids = torch.arange(1, 15, device=llm.embeddings.weight.device).view(2, 7) % llm.embeddings.num_embeddings
    ids[1] = ids[0].roll(2)
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    heads = Heads([3, 3], ["", ""])
    with torch.no_grad(), eval_mode(llm.model):
        embedded = llm.embeddings(ids)
        try:
            apart = llm.hidden_states(embedded, mask)
            given = inputs(llm, embedded, mask, heads, 1, None)
            cache = given[cache_name(llm.model)]
            words = given["inputs_embeds"][:, 3:]
            together = llm.hidden_states(words, given["attention_mask"], cache=cache)
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
            return f"its code does not accept this cache ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
    if not is_close(together[:, -2:], apart[:, -2:]):
        return "it continues differently from a prefix than from the complete text"
    return ""


def install(llm: LanguageModel) -> None:
    """Install hooks that take the first step of :func:`inputs` once for all beams; other calls are unchanged.

    The hooks stay on the model and depend only on the cache of each call, so several threads may generate at once.
    """
    if _first_of_beams not in llm.model._forward_pre_hooks.values():
        llm.model.register_forward_pre_hook(_first_of_beams, with_kwargs=True)
        llm.model.register_forward_hook(_to_beams, with_kwargs=True)


class _Beams(Cache):  # type: ignore[misc]
    """The cache of texts whose beams share it.

    Args:
        layers: Layers of the cache, with one row per text.
        texts: Number of texts.
        beams: Number of beams per text.
    """

    def __init__(self, layers: list[Any], texts: int, beams: int) -> None:
        super().__init__(layers=layers)
        self.texts, self.beams = texts, beams
        self.is_spread = beams == 1


def _own(options: Mapping[str, Any]) -> _Beams | None:
    """The unexpanded cache among a call's arguments, found by its class, as its name differs by version."""
    return next((value for value in options.values() if isinstance(value, _Beams) and not value.is_spread), None)


def _first_of_beams(_: nn.Module, given: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """In the first step, keep the first of each text's equal beams: [texts * beams, ...] -> [texts, ...]."""
    cache = _own(options)
    if cache is None:
        return None
    return take_first_beams(given, options, cache.texts, cache.beams)


def _to_beams(_: nn.Module, given: tuple[Any, ...], options: dict[str, Any], made: Any) -> Any:
    """After the first step, expand one row per text to one row per beam."""
    cache = _own(options)
    if cache is None:
        return None
    cache.is_spread = True
    cache.batch_repeat_interleave(cache.beams)
    made.logits = made.logits.repeat_interleave(cache.beams, 0)
    return made


class _Shared(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer: a prefix in every row, and spare room behind it, so that rows grow without copies.

    Args:
        layers: Keys and values of each prefix, each [heads, tokens, width].
        owners: [rows], the prefix of each row; -1 for none.
        length: Length of the longest prefix; shorter ones are padded on the left.
    """

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]], owners: Tensor, length: int) -> None:
        super().__init__()
        keys, _ = layers[0]
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self.prefix = self.length = length
        self._keys, self._values = (self._placed([layer[place] for layer in layers], owners) for place in (0, 1))
        self._show()

    def _placed(self, parts: Sequence[Tensor], owners: Tensor) -> Tensor:
        heads, _, width = parts[0].shape
        placed = parts[0].new_zeros(len(owners), heads, self.prefix + _ROOM, width)
        for number, part in enumerate(parts):
            rows = (owners == number).nonzero().squeeze(1)
            placed[rows, :, self.prefix - part.shape[1] : self.prefix] = part
        return placed

    def _show(self) -> None:
        self.keys, self.values = self._keys[:, :, : self.length], self._values[:, :, : self.length]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Add tokens [rows, heads, tokens, width]; returns all keys and all values so far."""
        end = self.length + key_states.shape[2]
        if end > self._keys.shape[2]:
            room = (*self._keys.shape[:2], end - self.prefix + _ROOM, self._keys.shape[3])
            grown = []
            for old in (self._keys, self._values):
                grown.append(torch.cat([old[:, :, : self.length], old.new_zeros(room)], dim=2))
            self._keys, self._values = grown
        self._keys[:, :, self.length : end], self._values[:, :, self.length : end] = key_states, value_states
        self.length = end
        self._show()
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Number of tokens so far, the prefix with its padding included."""
        return self.length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder beams; the prefix is not moved, as beams change places only within a text."""
        own = slice(self.prefix, self.length)
        for whole in (self._keys, self._values):
            whole[:, :, own] = whole[beam_idx.to(whole.device), :, own]

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows."""
        self._keys, self._values = (whole[indices.to(whole.device)] for whole in (self._keys, self._values))
        self._show()

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        self._keys, self._values = (whole.repeat_interleave(repeats, 0) for whole in (self._keys, self._values))
        self._show()

    def crop(self, tokens_to_remove: int) -> None:
        """Remove tokens at the end; the number is negative."""
        self.length -= abs(tokens_to_remove)
        self._show()


def _read(
    llm: CausalLanguageModel, embedded: Tensor, mask: Tensor, heads: Heads, store: Prefixes | None
) -> dict[Hashable, Layers]:
    """Compute keys and values of the batch's prefixes, each once, in batches of equal length."""
    first: dict[Hashable, int] = {}
    for text, (key, length) in enumerate(zip(heads.keys, heads.lengths, strict=True)):
        if length:
            first.setdefault(key, text)
    found = {key: store.get(key) if store is not None else None for key in first}
    by_length: dict[int, list[Hashable]] = {}
    for key, text in first.items():
        if found[key] is None:
            by_length.setdefault(heads.lengths[text], []).append(key)
    starts = (embedded.shape[1] - mask.sum(1)).tolist()
    for length, keys in by_length.items():
        rows = [embedded[first[key], starts[first[key]] : starts[first[key]] + length] for key in keys]
        cache = DynamicCache()
        stacked = torch.stack(rows)
        llm.hidden_states(stacked, torch.ones(stacked.shape[:2], dtype=mask.dtype, device=mask.device), cache=cache)
        for number, key in enumerate(keys):
            # Each row is copied, because a view of it would keep the batch in memory.
            layers = [(layer.keys[number].clone(), layer.values[number].clone()) for layer in cache.layers]
            found[key] = layers
            if store is not None:
                store.put(key, layers)
    return {key: layers for key, layers in found.items() if layers is not None}


def _bytes(layers: Layers) -> int:
    return sum(tensor.numel() * tensor.element_size() for pair in layers for tensor in pair)
