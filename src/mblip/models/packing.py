"""Texts side by side in one row of a batch: no padding, and for a decoder-only model an image's tokens once for its texts.

The attention masks of a packed row keep each text to itself. A decoder-only model looks back only, and the image stands
first: its states are the same whatever text follows, so that texts of one image share them, and go on from its positions.
What comes out is what a row for each text gives, but for rounding.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from mblip.models.generation import evaluating
from mblip.processing.text import IGNORED

if TYPE_CHECKING:
    from mblip.models.mblip import VisionLLM

_LOG = logging.getLogger(__name__)

# Attention of a row costs its length squared: beside the products of a model this wide, as if each token were
# length / (2 x width) more of them. Of 0.5, 2, 6 and 20 the quickest with T5 and BLOOM kinds 512 wide (docs/log.md).
_ATTENTION = 0.5
# Layers that differ in their mask, as transformers' configurations name them.
_FULL, _SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Packing:
    """Where the tokens of a padded batch stand in packed rows.

    Attributes:
        sources: [rows, length], of each packed token its place in the flattened batch; 0 at padding.
        groups: [rows, length], the first of the texts that share an image's tokens; -1 at padding.
        texts: [rows, length], its text; -1 in what the texts of its group share, and at padding.
        positions: [rows, length], its place in its text.
        places: [texts, tokens], of each token of the batch its place in the flattened rows; 0 at padding.
    """

    sources: Tensor
    groups: Tensor
    texts: Tensor
    positions: Tensor
    places: Tensor

    def backward(self, window: int | None = None) -> Tensor:
        """Who sees whom looking back [rows, 1, length, length]; with ``window``, only so many positions."""
        own = self.texts[:, :, None] == self.texts[:, None, :]
        seen = self._together(self) & (own | (self.texts == -1)[:, None, :])
        seen = seen.tril()
        if window is not None:
            seen &= self.positions[:, :, None] - self.positions[:, None, :] < window
        return seen.unsqueeze(1)

    def across(self, other: Packing) -> Tensor:
        """Who of this sees whom of another's (or its own) rows, whichever comes first [rows, 1, length, other length]."""
        # Padding sees all: a softmax over nothing is no number.
        return (self._together(other) | (self.groups == -1)[:, :, None]).unsqueeze(1)

    def _together(self, other: Packing) -> Tensor:
        return self.groups[:, :, None] == other.groups[:, None, :]

    def pack(self, values: Tensor) -> Tensor:
        """Values of the batch [texts, tokens, ...] in packed rows [rows, length, ...]."""
        return values.flatten(0, 1)[self.sources]

    def unpack(self, values: Tensor) -> Tensor:
        """Values of the packed rows [rows, length, ...] as those of the batch [texts, tokens, ...]."""
        return values.flatten(0, 1)[self.places]


def pack_causal(attention_mask: Tensor, placeholders: Tensor, image_index: Tensor, width: int) -> Packing | None:
    """Lay out a batch of a decoder-only model.

    Args:
        attention_mask: [texts, tokens], padded on the right.
        placeholders: [texts, tokens], which tokens are the images'; they stand first.
        image_index: [texts, images of a text], -1 where a text has fewer.
        width: Of the model, which says what attention to long rows costs beside the rest.

    Returns:
        None where a row for each text is as cheap, or the batch has another layout.
    """
    lengths, heads = _lengths(attention_mask), _lengths(placeholders)
    if lengths is None or heads is None:
        return None
    members: dict[tuple[int, ...], list[int]] = {}
    for text, images in enumerate(image_index.tolist()):
        members.setdefault(tuple(image for image in images if image >= 0), []).append(text)
    groups = list(members.values())
    sizes = [(_size(group, lengths, heads),) for group in groups]
    rows = _rows(sizes, width, len(lengths) * _cost(attention_mask.shape[1], width))
    if rows is None:
        return None
    return _lay([[groups[number] for number in row] for row in rows], lengths, heads, attention_mask)


def pack_pairs(attention_mask: Tensor, labelled: Tensor, width: int) -> tuple[Packing, Packing] | None:
    """Lay out a batch of an encoder-decoder: what it reads and what it writes; a text is in the same row of both.

    Args:
        attention_mask: [texts, tokens], padded on the right.
        labelled: [texts, answer tokens], where the answer has a token; padded on the right.
        width: See :func:`pack_causal`.

    Returns:
        None where a row for each text is as cheap, or the batch has another layout.
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
    """Tokens of each row; None where they do not stand first."""
    there = present.bool().cpu()
    counts = there.sum(1)
    if not torch.equal(there, torch.arange(there.shape[1]) < counts[:, None]):
        return None
    lengths: list[int] = counts.tolist()
    return lengths


def _size(group: list[int], lengths: list[int], heads: list[int]) -> int:
    """Tokens of the texts of a group, what they share counted once."""
    return heads[group[0]] + sum(lengths[text] - heads[text] for text in group)


def _lay(rows: list[list[list[int]]], lengths: list[int], heads: list[int], like: Tensor) -> Packing:
    """The packing of these groups of texts in these rows, each group with the head of its first text once."""
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
    """Groups of these sizes (in one tensor or two) spread over the rows that cost least; None for no less than a limit."""
    order = sorted(range(len(sizes)), key=lambda number: -sum(sizes[number]))
    best = None
    for count in range(1, len(sizes) + 1):
        heap = [(0, row) for row in range(count)]
        rows: list[list[int]] = [[] for _ in range(count)]
        for number in order:  # the longest first, each into the shortest row
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


def packed_states(vlm: VisionLLM, embedded: Tensor, batch: dict[str, Tensor]) -> Tensor | None:
    """What the output head would see of a batch, read in packed rows; None where a row for each text is as good.

    Args:
        vlm: One that :func:`packs_alike`.
        embedded: [texts, tokens, width].
        batch: As the model's forward takes it.

    Returns:
        [texts, tokens, width], for an encoder-decoder of the answer's tokens.
    """
    mask, labels, width = batch["attention_mask"], batch["labels"], vlm.width
    model, config = vlm.language_model, vlm.language_model.config.get_text_config()

    def taken(mask: Tensor) -> Tensor:
        """In the form of the model's attention: ``eager`` adds it to the scores."""
        if config._attn_implementation != "eager":
            return mask
        lowest = torch.finfo(embedded.dtype).min
        return torch.zeros((), dtype=embedded.dtype, device=mask.device).masked_fill(~mask, lowest)

    if vlm.is_encoder_decoder:
        pair = pack_pairs(mask, labels != IGNORED, width)
        if pair is None:
            return None
        source, target = pair
        encode = model.get_encoder()
        encoded = encode(inputs_embeds=source.pack(embedded), attention_mask=taken(source.across(source)))
        states = vlm.states(
            encoder_outputs=encoded,
            attention_mask=taken(target.across(source)),
            decoder_input_ids=target.pack(vlm.decoder_inputs(labels)),
            decoder_attention_mask=taken(target.backward()),
        )
        return target.unpack(states)
    placeholders = batch["input_ids"] == vlm.model.config.image_token_index
    packing = pack_causal(mask, placeholders, batch["image_index"], width)
    if packing is None:
        return None
    window = getattr(config, "sliding_window", None)
    masks = {kind: taken(packing.backward(window if kind == _SLIDING else None)) for kind in _layer_kinds(config)}
    inputs: dict[str, Any] = {"inputs_embeds": packing.pack(embedded)}
    inputs["attention_mask"] = masks if len(masks) > 1 else next(iter(masks.values()))
    if vlm.takes_positions:
        return packing.unpack(vlm.states(**inputs, position_ids=packing.positions))
    with _packed_alibi(model.base_model, packing):
        return packing.unpack(vlm.states(**inputs))


def packs_alike(vlm: VisionLLM) -> bool:
    """Whether a model gives in packed rows what it gives in a row for each text: asked of the model itself.

    A layer that carries a state along the row, or that looks past its mask, would let texts read one another; and where
    positions cannot be given, texts would stand at others' places. Where it does not, the reason is logged as a warning.
    """
    obstacle = _obstacle(vlm)
    if obstacle:
        kind = type(vlm.language_model).__name__
        _LOG.warning("every text has a row of its own, so that training is slower: %s (%s)", obstacle, kind)
    return not obstacle


def _obstacle(vlm: VisionLLM) -> str:
    """What keeps the texts of a batch from being packed; empty for nothing."""
    obstacle = _not_told(vlm)
    if obstacle:
        return obstacle
    table, image = vlm.model.get_input_embeddings(), vlm.model.config.image_token_index
    ids = (image + torch.arange(1, 25, device=table.weight.device)).view(2, 12) % table.num_embeddings  # words alone
    ids[:, :2] = image  # the texts of one image, one long and one short
    mask, labels = torch.ones_like(ids), ids.clone()
    mask[1, 3:] = 0
    if vlm.is_encoder_decoder:
        labels[1, 2:] = IGNORED
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels, "image_index": torch.zeros_like(ids[:, :1])}
    with torch.no_grad(), evaluating(vlm):
        embedded = table(ids)
        apart = vlm.states_apart(embedded, batch)
        try:
            together = packed_states(vlm, embedded, batch)
        except (TypeError, ValueError, RuntimeError, IndexError) as error:  # no room for such masks in its code
            return f"it does not take their masks: {' '.join(str(error).split())[:200]}"
    own = slice(0, 2) if vlm.is_encoder_decoder else slice(2, 3)  # of the second text, which could have read the first
    found, wanted = (states[1, own].float() for states in (cast(Tensor, together), apart))
    alike = bool((found - wanted).norm() <= 0.03 * wanted.norm())  # bf16 rounds less; reading others makes more
    return "" if alike else "packed texts read one another"


def _not_told(vlm: VisionLLM) -> str:
    """Why a model cannot be told, by masks and positions, which tokens of a row belong together; empty where it can."""
    config = vlm.language_model.config.get_text_config()
    if config._attn_implementation not in ("eager", "sdpa"):
        return f"its attention, {config._attn_implementation}, takes no masks of this kind"
    if vlm.is_encoder_decoder:  # whose positions, if not by distance, a trial will tell
        return ""
    if not (vlm.takes_positions or hasattr(vlm.language_model.base_model, "build_alibi_tensor")):
        return "it cannot be told the positions of tokens"
    others = _layer_kinds(config) - {_FULL, _SLIDING}
    return f"it has layers of another kind: {', '.join(sorted(others))}" if others else ""


def _layer_kinds(config: Any) -> set[str]:
    everywhere = _SLIDING if getattr(config, "sliding_window", None) else _FULL
    return set(getattr(config, "layer_types", None) or [everywhere])


@contextmanager
def _packed_alibi(model: Any, packing: Packing) -> Iterator[None]:
    """Let a model that takes no positions but biases by distance (BLOOM) have the distances of packed rows."""
    build = model.build_alibi_tensor

    def rearranged(_: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
        rows, length = packing.positions.shape
        every = packing.positions.new_ones(rows, int(packing.positions.max()) + 1)
        bias = build(every, heads, dtype).view(rows, heads, -1)
        picked: Tensor = bias.gather(2, packing.positions[:, None].expand(-1, heads, -1))
        return picked.view(rows * heads, 1, length)

    model.build_alibi_tensor = rearranged
    try:
        yield
    finally:
        del model.build_alibi_tensor
