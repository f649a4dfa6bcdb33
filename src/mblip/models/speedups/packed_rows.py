"""Pack several texts into one row of a batch: little padding, and decoder-only models read an image once for its texts.

Attention masks separate the texts of a packed row. A decoder-only model only attends to earlier tokens: the states of
an image, and of the tokens before it, do not depend on the text that follows. Texts with the same beginning share these
states and continue from their positions.

The result equals that of one row per text, up to rounding.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mblip.models.language_model import (
    CausalLanguageModel,
    LanguageModel,
    Seq2SeqLanguageModel,
    eval_mode,
    is_close,
)
from mblip.processing.text import IGNORED, TextLayout

# A row's attention costs its length squared. Relative to the model's matrix products, each token costs length / (2 x
# width) tokens more. 0.5 was the fastest of 0.5, 2, 6 and 20 with T5 and BLOOM models of width 512 (docs/log.md).
_ATTENTION = 0.5
# Kinds of layers by their mask, as transformers' configurations name them.
_FULL, _SLIDING = "full_attention", "sliding_attention"
_ALIBI = "build_alibi_tensor"
# Positions of the packed rows that this thread computes.
_POSITIONS: ContextVar[Tensor | None] = ContextVar("positions", default=None)


@dataclass(frozen=True)
class Packing:
    """The places of a padded batch's tokens in packed rows.

    Attributes:
        sources: [rows, length], index of each packed token in the flattened batch; 0 at padding.
        groups: [rows, length], the first of the texts that share an image's tokens; -1 at padding.
        texts: [rows, length], the token's text; -1 for tokens that the texts of a group share, and at padding.
        positions: [rows, length], the token's position in its text.
        places: [texts, tokens], index of each token of the batch in the flattened rows; 0 at padding.
    """

    sources: Tensor
    groups: Tensor
    texts: Tensor
    positions: Tensor
    places: Tensor

    def backward(self, window: int | None = None) -> Tensor:
        """Causal attention mask [rows, 1, length, length]; with ``window``, over that many positions only."""
        own = self.texts[:, :, None] == self.texts[:, None, :]
        seen = self._together(self) & (own | (self.texts == -1)[:, None, :])
        seen = seen.tril()
        if window is not None:
            seen &= self.positions[:, :, None] - self.positions[:, None, :] < window
        return seen.unsqueeze(1)

    def across(self, other: Packing) -> Tensor:
        """Attention mask without causality to another packing or itself [rows, 1, length, other length]."""
        # Padding attends to everything, because a softmax over nothing is NaN.
        return (self._together(other) | (self.groups == -1)[:, :, None]).unsqueeze(1)

    def _together(self, other: Packing) -> Tensor:
        return self.groups[:, :, None] == other.groups[:, None, :]

    def pack(self, values: Tensor) -> Tensor:
        """Pack values of the batch: [texts, tokens, ...] -> [rows, length, ...]."""
        return values.flatten(0, 1)[self.sources]

    def unpack(self, values: Tensor) -> Tensor:
        """Unpack values of packed rows: [rows, length, ...] -> [texts, tokens, ...]."""
        return values.flatten(0, 1)[self.places]


def pack_causal(
    attention_mask: Tensor, placeholders: Tensor, image_index: Tensor, width: int, ids: Tensor | None = None
) -> Packing | None:
    """Pack a batch of a decoder-only model.

    Args:
        attention_mask: [texts, tokens], padded on the right.
        placeholders: [texts, tokens], whether a token belongs to an image.
        image_index: [texts, images of a text]; -1 pads texts with fewer images.
        width: Width of the model, for the relative cost of attention in long rows.
        ids: [texts, tokens]. Texts with equal ids up to the last placeholder share those tokens. Without ids, the
            placeholders must come first.

    Returns:
        The packing; None if one row per text is as cheap, or the batch has another layout.
    """
    lengths = _lengths(attention_mask)
    heads = _lengths(placeholders) if ids is None else _ends(placeholders)
    if lengths is None or heads is None:
        return None
    members: dict[Any, list[int]] = {}
    words = (
        [()] * len(heads) if ids is None else [tuple(row[:end]) for row, end in zip(ids.tolist(), heads, strict=True)]
    )
    for text, (images, before) in enumerate(zip(image_index.tolist(), words, strict=True)):
        shared = tuple(image for image in images if image >= 0)
        # A text without an image shares nothing.
        members.setdefault((*shared, before) if shared else text, []).append(text)
    groups = list(members.values())
    sizes = [(_size(group, lengths, heads),) for group in groups]
    rows = _rows(sizes, width, len(lengths) * _cost(attention_mask.shape[1], width))
    if rows is None:
        return None
    return _lay([[groups[number] for number in row] for row in rows], lengths, heads, attention_mask)


def pack_pairs(attention_mask: Tensor, labelled: Tensor, width: int) -> tuple[Packing, Packing] | None:
    """Pack a batch of an encoder-decoder, prompts and answers; a text is in the same row of both.

    Args:
        attention_mask: [texts, tokens], padded on the right.
        labelled: [texts, answer tokens], whether the answer has a token; padded on the right.
        width: See :func:`pack_causal`.

    Returns:
        The packings of prompts and answers; None if one row per text is as cheap, or the batch has another layout.
    """
    read, written = _lengths(attention_mask), _lengths(labelled)
    if read is None or written is None:
        return None
    apart = _cost(attention_mask.shape[1], width) + _cost(labelled.shape[1], width)
    rows = _rows(list(zip(read, written, strict=True)), width, len(read) * apart)
    if rows is None:
        return None
    texts, nothing = [[[text] for text in row] for row in rows], [0] * len(read)
    return _lay(texts, read, nothing, attention_mask), _lay(texts, written, nothing, labelled)


def _lengths(present: Tensor) -> list[int] | None:
    """Number of tokens in each row; None if padding comes before a token."""
    there = present.bool().cpu()
    counts = there.sum(1)
    if not torch.equal(there, torch.arange(there.shape[1]) < counts[:, None]):
        return None
    lengths: list[int] = counts.tolist()
    return lengths


def _ends(placeholders: Tensor) -> list[int]:
    """Number of tokens in each row up to its last placeholder; 0 without placeholders."""
    there = placeholders.cpu()
    places = torch.arange(1, there.shape[1] + 1)
    ends: list[int] = (there * places).amax(1).tolist()
    return ends


def _size(group: list[int], lengths: list[int], heads: list[int]) -> int:
    """Number of tokens of a group's texts, with shared tokens counted once."""
    return heads[group[0]] + sum(lengths[text] - heads[text] for text in group)


def _lay(rows: list[list[list[int]]], lengths: list[int], heads: list[int], like: Tensor) -> Packing:
    """Build the packing from groups of texts by row; the head that a group shares is taken from its first text."""
    texts, tokens = like.shape
    length = max(sum(_size(group, lengths, heads) for group in groups) for groups in rows)
    sources, groups_of, owners, positions = (torch.full((len(rows), length), fill) for fill in (0, -1, -1, 0))
    places = torch.zeros(texts, tokens, dtype=torch.long)
    for row, groups in enumerate(rows):
        start = 0
        for group in groups:
            for order, text in enumerate(group):
                head, end = heads[text], lengths[text]
                first = head if order else 0
                span = slice(start, start + end - first)
                positions[row, span] = torch.arange(first, end)
                sources[row, span] = torch.arange(text * tokens + first, text * tokens + end)
                groups_of[row, span] = group[0]
                owners[row, start + head - first : span.stop] = text
                places[text, first:end] = torch.arange(row * length + start, row * length + span.stop)
                places[text, :first] = places[group[0], :first]
                start = span.stop
    return Packing(*(made.to(like.device) for made in (sources, groups_of, owners, positions, places)))


def _rows(sizes: Sequence[tuple[int, ...]], width: int, limit: float) -> list[list[int]] | None:
    """Assign groups of these sizes to rows at the lowest cost; None if that is not below the limit."""
    order = sorted(range(len(sizes)), key=lambda number: -sum(sizes[number]))
    best = None
    for count in range(1, len(sizes) + 1):
        heap = [(0, row) for row in range(count)]
        rows: list[list[int]] = [[] for _ in range(count)]
        for number in order:  # longest first, each into the shortest row
            used, row = heap[0]
            heapq.heapreplace(heap, (used + sum(sizes[number]), row))
            rows[row].append(number)
        totals = [[sum(size) for size in zip(*(sizes[number] for number in row), strict=True)] for row in rows]
        cost = count * sum(_cost(max(total), width) for total in zip(*totals, strict=True))
        if cost < limit:
            best, limit = rows, cost
    return best


def _cost(length: int, width: int) -> float:
    return length * (1 + _ATTENTION * length / width)


def hidden_states(llm: LanguageModel, embedded: Tensor, batch: dict[str, Tensor], layout: TextLayout) -> Tensor | None:
    """The states that the output head reads, computed in packed rows; None if one row per text is as cheap.

    Args:
        llm: A language model for which :func:`reason_against` is empty.
        embedded: [texts, tokens, width].
        batch: The batch that the model's forward takes.
        layout: Knows the ids of image tokens and padding.

    Returns:
        [texts, tokens, width]; for an encoder-decoder, states of the answer's tokens.
    """
    placeholders = batch["input_ids"] == layout.image_token_id
    if isinstance(llm, Seq2SeqLanguageModel):
        return _read_pairs(llm, embedded, batch["attention_mask"], batch["labels"], layout.pad_token_id)
    assert isinstance(llm, CausalLanguageModel)
    return _read_causal(llm, embedded, batch["attention_mask"], placeholders, batch["image_index"], batch["input_ids"])


def _read_pairs(
    llm: Seq2SeqLanguageModel, embedded: Tensor, attention_mask: Tensor, labels: Tensor, pad_token_id: int
) -> Tensor | None:
    pair = pack_pairs(attention_mask, labels != IGNORED, llm.hidden_size)
    if pair is None:
        return None
    source, target = pair
    encoded = llm.encode(source.pack(embedded), _mask(llm, source.across(source), embedded))
    given = target.pack(llm.decoder_input_ids(labels, pad_token_id))
    masks = (_mask(llm, seen, embedded) for seen in (target.across(source), target.backward()))
    return target.unpack(llm.hidden_states(given, encoded, *masks))


def _read_causal(
    llm: CausalLanguageModel,
    embedded: Tensor,
    attention_mask: Tensor,
    placeholders: Tensor,
    image_index: Tensor,
    ids: Tensor | None = None,
) -> Tensor | None:
    packing = pack_causal(attention_mask, placeholders, image_index, llm.hidden_size, ids)
    if packing is None:
        return None
    window = getattr(llm.config, "sliding_window", None)
    masks = {
        kind: _mask(llm, packing.backward(window if kind == _SLIDING else None), embedded)
        for kind in layer_kinds(llm.config)
    }
    mask = masks if len(masks) > 1 else next(iter(masks.values()))
    with _distances_of(packing):
        return packing.unpack(llm.hidden_states(packing.pack(embedded), mask, packing.positions))


def _mask(llm: LanguageModel, seen: Tensor, embedded: Tensor) -> Tensor:
    """The attention mask in the form that the model takes: ``eager`` attention adds it to the scores."""
    if llm.config._attn_implementation != "eager":
        return seen
    lowest = torch.finfo(embedded.dtype).min
    return torch.zeros((), dtype=embedded.dtype, device=seen.device).masked_fill(~seen, lowest)


def concerns(llm: LanguageModel) -> bool:
    """Whether a kind of model could gain: every kind does, as all of them read padding."""
    return True


def reason_against(llm: LanguageModel) -> str:
    """Why a model cannot read packed rows; empty if it can, with the same results as in one row per text.

    A layer that carries a state along the row, or ignores its mask, would let texts read each other. A model that takes
    no positions would give texts wrong ones. Two short texts are run to find out.
    """
    if llm.config._attn_implementation not in ("eager", "sdpa"):
        return f"its attention ({llm.config._attn_implementation}) does not support the masks of packed rows"
    if isinstance(llm, CausalLanguageModel):
        if not llm.takes_positions and not hasattr(llm.base, _ALIBI):
            return "it does not accept position_ids"
        if other := layer_kinds(llm.config) - {_FULL, _SLIDING}:
            return f"its layers ({', '.join(sorted(other))}) carry a state along the sequence"
    ids = torch.arange(1, 25, device=llm.embeddings.weight.device).view(2, 12) % llm.embeddings.num_embeddings
    mask, labels = torch.ones_like(ids), ids.clone()
    mask[1, 3:] = 0
    heads = torch.zeros_like(ids, dtype=torch.bool)
    with torch.no_grad(), eval_mode(llm.model):
        embedded = llm.embeddings(ids)
        embedded[1, :2] = embedded[0, :2]  # both texts begin alike, as two texts about one image do
        try:
            if isinstance(llm, Seq2SeqLanguageModel):
                labels[1, 2:] = IGNORED
                apart = llm.hidden_states(llm.decoder_input_ids(labels, 0), llm.encode(embedded, mask), mask)
                together = _read_pairs(llm, embedded, mask, labels, 0)
                own = slice(0, 2)
            else:
                assert isinstance(llm, CausalLanguageModel)
                apart, heads[:, :2] = llm.hidden_states(embedded, mask), True
                install(llm)
                together = _read_causal(llm, embedded, mask, heads, torch.zeros_like(ids[:, :1]))
                own = slice(2, 3)
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            return (
                f"its code does not accept these masks ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
            )
    # Compare the second text, which could have read the first.
    if together is None or not is_close(together[1, own], apart[1, own]):
        return "its texts read each other in packed rows"
    return ""


def install(llm: LanguageModel) -> None:
    """Let a model with attention biases by distance instead of positions (BLOOM) use the distances of packed rows.

    Only calls from :func:`hidden_states` change, each in its own thread.
    """
    if not isinstance(llm, CausalLanguageModel) or llm.takes_positions or not hasattr(llm.base, _ALIBI):
        return
    build = getattr(llm.base, _ALIBI)
    if not isinstance(build, _Alibi):
        setattr(llm.base, _ALIBI, _Alibi(build))


class _Alibi:
    """Builds attention biases as the model does; in packed rows, by each token's position in its text.

    Args:
        build: The model's own method.
    """

    def __init__(self, build: Any) -> None:
        self.build = build

    def __call__(self, attention_mask: Tensor, num_heads: int, dtype: torch.dtype) -> Tensor:
        positions = _POSITIONS.get()
        if positions is None:
            built: Tensor = self.build(attention_mask, num_heads, dtype)
            return built
        rows, length = positions.shape
        every = positions.new_ones(rows, int(positions.max()) + 1)
        bias = self.build(every, num_heads, dtype).view(rows, num_heads, -1)
        picked: Tensor = bias.gather(2, positions[:, None].expand(-1, num_heads, -1))
        return picked.view(rows * num_heads, 1, length)


@contextmanager
def _distances_of(packing: Packing) -> Iterator[None]:
    token = _POSITIONS.set(packing.positions)
    try:
        yield
    finally:
        _POSITIONS.reset(token)


def layer_kinds(config: Any) -> set[str]:
    """The kinds of a language model's layers, as transformers' configurations name them."""
    everywhere = _SLIDING if getattr(config, "sliding_window", None) else _FULL
    return set(getattr(config, "layer_types", None) or [everywhere])
