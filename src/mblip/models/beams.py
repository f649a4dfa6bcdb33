"""What the beams of a text have in common, made and kept once a text instead of once a beam.

Stock beam search of an encoder-decoder repeats the encoder's states for every beam, makes the decoder's keys and values
of all these copies, reads all the copies in every step, and copies them anew whenever beams change places, although
those of one text are all the same. Here they are made once, and the beams of a text are so many queries of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutput

# What T5, mT5 and umT5 call the attention to the encoder's states.
_CROSS_ATTENTION = "EncDecAttention"


class _Common(DynamicLayer):  # type: ignore[misc]
    """Keys and values of the encoder's states; beams only ever change places within a text, where they are equal."""

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Nothing changes."""


@contextmanager
def read_once(language_model: Any, embedded: Tensor, mask: Tensor, beams: int) -> Iterator[dict[str, Any]]:
    """Run an encoder, and make the decoder's keys and values of its states, once for all beams of a text.

    Args:
        language_model: An encoder-decoder.
        embedded: The prompts [texts, tokens, width].
        mask: [texts, tokens].
        beams: Of each text.

    Yields:
        What ``generate``, called inside the block, takes in place of ``inputs_embeds``.
    """
    states = language_model.get_encoder()(inputs_embeds=embedded, attention_mask=mask).last_hidden_state
    inputs: dict[str, Any] = {"encoder_outputs": BaseModelOutput(last_hidden_state=states), "attention_mask": mask}
    # One token through the decoder makes them, whatever the family calls its layers.
    start = torch.full_like(mask[:, :1], language_model.config.decoder_start_token_id)
    cache = language_model.get_decoder()(
        input_ids=start, encoder_hidden_states=states, encoder_attention_mask=mask, use_cache=True
    ).past_key_values
    if not isinstance(cache, EncoderDecoderCache) or any(
        type(layer) is not DynamicLayer for layer in cache.cross_attention_cache.layers
    ):
        yield inputs  # a family with caches of its own kind: its beams are repeated as ever
        return
    readers = [module for name, module in language_model.named_modules() if name.endswith(_CROSS_ATTENTION)]
    copies = 1 if readers else beams
    common = DynamicCache()
    for made in cache.cross_attention_cache.layers:
        layer = _Common()
        layer.update(made.keys.repeat_interleave(copies, 0), made.values.repeat_interleave(copies, 0))
        common.layers.append(layer)
    handles = [reader.register_forward_pre_hook(_as_queries, with_kwargs=True) for reader in readers]
    handles += [reader.register_forward_hook(_as_rows, with_kwargs=True) for reader in readers]
    try:
        yield {**inputs, "past_key_values": EncoderDecoderCache(DynamicCache(), common)}
    finally:
        for handle in handles:
            handle.remove()


def _texts(module: nn.Module, options: dict[str, Any]) -> int:
    """The texts whose keys and values are in a call's cache; 0 where they are not in common."""
    cache = options.get("past_key_values")
    layer = cache.cross_attention_cache.layers[module.layer_idx] if isinstance(cache, EncoderDecoderCache) else None
    return len(layer.keys) if isinstance(layer, _Common) else 0


# Both hooks look at the shapes, so that they may be there twice: several threads may generate with one model.
def _as_queries(module: nn.Module, given: tuple[Tensor, ...], options: dict[str, Any]) -> Any:
    """One token of each beam [texts * beams, 1, width] -> [texts, beams, width]."""
    hidden, *rest = given
    texts = _texts(module, options)
    if not texts or len(hidden) == texts:
        return None
    beams = len(hidden) // texts
    masks = {name: options[name][::beams] for name in ("mask", "attention_mask") if options.get(name) is not None}
    return (hidden.view(texts, beams, -1), *rest), {**options, **masks}


def _as_rows(module: nn.Module, given: tuple[Tensor, ...], options: dict[str, Any], made: Any) -> Any:
    """What the beams saw [texts, beams, width] -> [texts * beams, 1, width]."""
    seen, *rest = made
    return (seen.flatten(0, 1).unsqueeze(1), *rest) if len(seen) == _texts(module, options) else None
