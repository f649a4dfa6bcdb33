"""One image's tokens read once for all its texts, by a decoder-only language model, and no padding read at all.

The image stands first and attention looks back only: its states are the same whatever text follows. So a row holds an image
and its texts one after the other, perhaps several such groups; the attention mask keeps each text to its image and itself,
and its positions go on from its image's. What comes out is what a row for each text gives, but for rounding.
"""

from __future__ import annotations

import heapq
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Attention of a row costs its length squared: beside the products of a model this wide, as if each token were
# 2 x length / width more of them (softmax in fp32, where the scores are written out, is the greater part).
_ATTENTION = 2.0
_SHARED = -1  # the text of an image's own tokens
# Layers that differ in their mask, as transformers' configurations name them.
_FULL, _SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Packing:
    """Where the tokens of a padded batch stand in packed rows.

    Attributes:
        sources: [rows, length], of each packed token its place in the flattened batch; 0 at padding.
        groups: [rows, length], its set of images; -1 at padding.
        texts: [rows, length], its text; -1 in the images' own tokens.
        positions: [rows, length], its place in its text, images included.
        places: [texts, tokens], of each token of the batch its place in the flattened rows; 0 at padding.
    """

    sources: Tensor
    groups: Tensor
    texts: Tensor
    positions: Tensor
    places: Tensor

    def mask(self, window: int | None = None) -> Tensor:
        """Who sees whom [rows, 1, length, length]; with ``window``, only so many positions back."""
        same = self.groups[:, :, None] == self.groups[:, None, :]
        own = self.texts[:, :, None] == self.texts[:, None, :]
        seen = same & (own | (self.texts == _SHARED)[:, None, :])
        seen = seen.tril()
        if window is not None:
            seen &= self.positions[:, :, None] - self.positions[:, None, :] < window
        return seen.unsqueeze(1)

    def unpack(self, states: Tensor) -> Tensor:
        """States of the packed rows [rows, length, width] as those of the batch [texts, tokens, width]."""
        return states.flatten(0, 1)[self.places]


def pack(attention_mask: Tensor, placeholders: Tensor, image_index: Tensor, width: int) -> Packing | None:
    """Lay out a batch whose rows begin with their images' tokens and are padded on the right.

    Args:
        attention_mask: [texts, tokens].
        placeholders: [texts, tokens], which tokens are the images'.
        image_index: [texts, images of a text], -1 where a text has fewer.
        width: Of the language model, which says what attention to long rows costs beside the rest.

    Returns:
        None where a row for each text is as cheap, or the batch is another's.
    """
    present, images_own = attention_mask.bool().cpu(), placeholders.cpu()
    place = torch.arange(present.shape[1])
    sums, heads = present.sum(1), images_own.sum(1)
    if not torch.equal(present, place < sums[:, None]) or not torch.equal(images_own, place < heads[:, None]):
        return None
    lengths: list[int] = sums.tolist()
    members: dict[tuple[int, ...], list[int]] = {}
    for text, images in enumerate(image_index.tolist()):
        members.setdefault(tuple(image for image in images if image >= 0), []).append(text)
    texts = list(members.values())
    shared: list[int] = heads[[group[0] for group in texts]].tolist()
    sizes = [head + sum(lengths[text] - head for text in group) for head, group in zip(shared, texts, strict=True)]
    rows, length = _rows(sizes, width)
    tokens = attention_mask.shape[1]
    if _cost(len(rows), length, width) >= _cost(len(lengths), tokens, width):
        return None
    sources, groups, owners, positions = (torch.full((len(rows), length), fill) for fill in (0, -1, _SHARED, 0))
    places = torch.zeros(attention_mask.shape, dtype=torch.long)
    for row, numbers in enumerate(rows):
        start = 0
        for number in numbers:
            head = shared[number]
            for order, text in enumerate(texts[number]):
                skipped = head if order else 0  # its image was laid before its first sister
                span = slice(start, start + lengths[text] - skipped)
                sources[row, span] = torch.arange(skipped, lengths[text]) + text * tokens
                positions[row, span] = torch.arange(skipped, lengths[text])
                groups[row, span] = number
                owners[row, span] = text
                places[text, skipped : lengths[text]] = torch.arange(span.start, span.stop) + row * length
                if order:
                    places[text, :head] = places[texts[number][0], :head]
                else:
                    owners[row, start : start + head] = _SHARED
                start = span.stop
    made = (sources, groups, owners, positions, places)
    return Packing(*(tensor.to(attention_mask.device) for tensor in made))


def _rows(sizes: Sequence[int], width: int) -> tuple[list[list[int]], int]:
    """Groups of these sizes spread over the number of rows that costs least, and the length of the longest row."""
    order = sorted(range(len(sizes)), key=lambda number: -sizes[number])
    best: tuple[float, list[list[int]], int] | None = None
    for count in range(1, len(sizes) + 1):
        heap = [(0, row) for row in range(count)]
        rows: list[list[int]] = [[] for _ in range(count)]
        for number in order:  # the longest first, each into the shortest row
            used, row = heap[0]
            heapq.heapreplace(heap, (used + sizes[number], row))
            rows[row].append(number)
        length = max(heap)[0]
        cost = _cost(count, length, width)
        if best is None or cost < best[0]:
            best = cost, rows, length
    assert best is not None
    return best[1], best[2]


def _cost(rows: int, length: int, width: int) -> float:
    return rows * length * (1 + _ATTENTION * length / width)


def packed_states(read: Callable[..., Tensor], language_model: Any, embedded: Tensor, packing: Packing) -> Tensor:
    """What the output head would see of a batch [texts, tokens, width], read in packed rows.

    Args:
        read: From the language model's inputs to its states.
        language_model: One that :func:`can_pack`.
        embedded: [texts, tokens, width].
        packing: Of this batch.
    """
    config = language_model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    masks = {kind: packing.mask(window if kind == _SLIDING else None) for kind in _layer_kinds(config)}
    if config._attn_implementation == "eager":  # which adds the mask to the scores
        lowest = torch.finfo(embedded.dtype).min
        masks = {name: embedded.new_zeros(()).masked_fill(~mask, lowest) for name, mask in masks.items()}
    inputs: dict[str, Any] = {"attention_mask": masks if len(masks) > 1 else next(iter(masks.values()))}
    inputs["inputs_embeds"] = embedded.flatten(0, 1)[packing.sources]
    if takes_positions(language_model):
        return packing.unpack(read(**inputs, position_ids=packing.positions))
    with _packed_alibi(language_model.base_model, packing):
        return packing.unpack(read(**inputs))


def takes_positions(language_model: Any) -> bool:
    """Whether the place of each token can be given."""
    return "position_ids" in inspect.signature(language_model.forward).parameters


def can_pack(language_model: Any) -> bool:
    """Whether a decoder-only model can be told, by mask and positions, which tokens of a row belong together."""
    config = language_model.config.get_text_config()
    return (
        config._attn_implementation in ("eager", "sdpa")
        and _layer_kinds(config) <= {_FULL, _SLIDING}
        and (takes_positions(language_model) or hasattr(language_model.base_model, "build_alibi_tensor"))
    )


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
