"""What the beams of a text have in common, made once a text instead of once a beam.

Stock beam search of an encoder-decoder repeats the encoder's states for every beam, makes the decoder's keys and values
of all these copies, and copies them anew whenever beams change places, although those of one text are all the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutput


class _Common(DynamicLayer):  # type: ignore[misc]
    """Keys and values of the encoder's states; beams only ever change places within a text, where they are equal."""

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Nothing changes."""


def read_once(language_model: Any, embedded: Tensor, mask: Tensor, beams: int) -> dict[str, Any]:
    """Run an encoder, and make the decoder's keys and values of its states, once for all beams of a text.

    Args:
        language_model: An encoder-decoder.
        embedded: The prompts [texts, tokens, width].
        mask: [texts, tokens].
        beams: Of each text.

    Returns:
        What ``generate`` takes in place of ``inputs_embeds``.
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
        return inputs  # a family with caches of its own kind: its beams are repeated as ever
    common = DynamicCache()
    for made in cache.cross_attention_cache.layers:
        layer = _Common()
        layer.update(made.keys.repeat_interleave(beams, 0), made.values.repeat_interleave(beams, 0))
        common.layers.append(layer)
    return {**inputs, "past_key_values": EncoderDecoderCache(DynamicCache(), common)}
