"""Eyes and Q-Former of BLIP-2 without a language model, for BLIP-2's first training stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    Blip2Config,
    Blip2QFormerConfig,
    Blip2QFormerModel,
    Blip2VisionConfig,
    Blip2VisionModel,
    BlipImageProcessorPil,
    MT5Config,
)

from mblip.models.checkpoint import save_tensors
from mblip.storage import write_json

_WORDS = 64  # vocabulary of the language model: the configuration must name one, though there is none
_PARTS = ("vision_model.", "qformer.", "query_tokens")


class QueryingEyes(nn.Module):
    """A new ViT and a new Q-Former with its queries.

    Args:
        vision: Fields of the ViT's configuration.
        qformer: Fields of the Q-Former's configuration; ``encoder_hidden_size`` is the ViT's width.
        queries: Number of queries.
    """

    def __init__(self, vision: Mapping[str, Any], qformer: Mapping[str, Any], queries: int) -> None:
        super().__init__()
        self.vision_config = Blip2VisionConfig(**vision)
        self.qformer_config = Blip2QFormerConfig(vocab_size=_WORDS, **qformer)
        self.vision_model = Blip2VisionModel(self.vision_config)
        self.qformer = Blip2QFormerModel(self.qformer_config)
        # With zeros, the default, all queries would stay equal.
        self.query_tokens = nn.Parameter(torch.randn(1, queries, self.qformer_config.hidden_size))

    def see(self, pixel_values: Tensor) -> Tensor:
        """Encode images with the ViT: [images, 3, H, W] -> [images, 1 + patches, width]."""
        states: Tensor = self.vision_model(pixel_values).last_hidden_state
        return states

    def ask(self, states: Tensor) -> Tensor:
        """Run the Q-Former on the ViT's states: [images, 1 + patches, width] -> [images, queries, Q-Former width]."""
        queries = self.query_tokens.expand(len(states), -1, -1)
        seen: Tensor = self.qformer(query_embeds=queries, encoder_hidden_states=states).last_hidden_state
        return seen

    def save(self, folder: Path, image_processor: Any) -> None:
        """Write eyes and Q-Former in the layout of a BLIP-2 checkpoint, in fp16.

        Raises:
            InputError: The folder cannot be written.
        """
        width = self.vision_config.hidden_size
        config = Blip2Config(
            vision_config=self.vision_config.to_dict(), qformer_config=self.qformer_config.to_dict(),
            text_config=MT5Config(vocab_size=_WORDS, d_model=width).to_dict(),
            num_query_tokens=self.query_tokens.shape[1],
        )  # fmt: skip
        tensors = {name: tensor for name, tensor in self.state_dict().items() if name.startswith(_PARTS)}
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors({name: tensor.to(torch.float16) for name, tensor in tensors.items()}, folder / "model.safetensors")
        write_json(folder / "config.json", config.to_dict())
        image_processor.save_pretrained(folder)


def new_image_processor(side: int) -> BlipImageProcessorPil:
    """BLIP-2's own preprocessing for pictures of side x side pixels."""
    return BlipImageProcessorPil(size={"height": side, "width": side})
