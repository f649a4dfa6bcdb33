"""The models: shapes of the paper's or of a middle size, random weights, LoRA and quantisation as in training."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers import (
    Blip2Config,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BloomConfig,
    LlavaConfig,
    MT5Config,
    Qwen3Config,
    SiglipVisionConfig,
)

from mblip.config import PartsSection
from mblip.models import VisionLLM
from mblip.models.lora import add_lora
from mblip.models.parts import set_trainable
from mblip.models.quantize import Quantization, quantize
from mblip.models.skeleton import base_config, skeleton
from step.texts import END


def middle_config(layers: int, llm: str) -> Blip2Config:
    """ViT 384 x 12 (or so many layers), Q-Former 384 x 6, mT5-small with its vocabulary or a BLOOM as wide and deep."""
    vision = Blip2VisionConfig(
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=6,
        image_size=224,
        patch_size=14,
    )
    qformer = Blip2QFormerConfig(
        vocab_size=64, hidden_size=384, num_hidden_layers=6, num_attention_heads=6, intermediate_size=1536,
        encoder_hidden_size=384, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    text: Any = MT5Config(
        vocab_size=250_112, d_model=512, d_ff=1024, d_kv=64, num_heads=6, num_layers=8, num_decoder_layers=8,
        dropout_rate=0.0, decoder_start_token_id=0, use_cache=False,
    )  # fmt: skip
    text.tie_word_embeddings = False
    if llm == "bloomz":
        text = BloomConfig(
            vocab_size=250_880,
            hidden_size=512,
            n_layer=8,
            n_head=8,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            use_cache=False,
        )
    return Blip2Config(vision_config=vision, qformer_config=qformer, text_config=text, num_query_tokens=32)


def full_config(llm: str) -> Blip2Config:
    """The paper's models, by the shapes that the package ships; dropout off, so that both sides agree."""
    eyes = base_config("Salesforce/blip2-flan-t5-xl")
    text: Any = base_config({"mt0": "bigscience/mt0-xl", "bloomz": "bigscience/bloomz-7b1"}[llm])
    text.use_cache = False
    eyes.qformer_config.hidden_dropout_prob = eyes.qformer_config.attention_probs_dropout_prob = 0.0
    if isinstance(text, BloomConfig):
        text.hidden_dropout = text.attention_dropout = 0.0
    else:
        text.dropout_rate = 0.0
    return Blip2Config(
        vision_config=eyes.vision_config, qformer_config=eyes.qformer_config, text_config=text,
        num_query_tokens=eyes.num_query_tokens,
    )  # fmt: skip


def llava_config(layers: int, image_tokens: int) -> LlavaConfig:
    """SigLIP 384 x 12 (or so many layers) on so many patches, an MLP, Qwen3 512 x 8 with its real vocabulary."""
    side = round(image_tokens**0.5)
    if side**2 != image_tokens:
        raise SystemExit(f"--image-tokens {image_tokens} is not the square of a number")
    vision = SiglipVisionConfig(
        hidden_size=384, intermediate_size=1536, num_hidden_layers=layers, num_attention_heads=6, image_size=16 * side,
        patch_size=16, vision_use_head=False,
    )  # fmt: skip
    text = Qwen3Config(
        vocab_size=151_936, hidden_size=512, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=4, head_dim=64, tie_word_embeddings=False, use_cache=False, eos_token_id=END, pad_token_id=0,
    )  # fmt: skip
    return _llava(vision, text)


def full_llava_config() -> LlavaConfig:
    """SigLIP2 So400m (729 patches) before Qwen3-4B, by the shapes that the package ships."""
    text: Any = base_config("Qwen/Qwen3-4B")
    text.use_cache = False
    return _llava(base_config("google/siglip2-so400m-patch14-384"), text)


def _llava(vision: Any, text: Any) -> LlavaConfig:
    config = LlavaConfig(
        vision_config=vision, text_config=text, vision_feature_layer=-1, vision_feature_select_strategy="full"
    )
    config.image_seq_length = (vision.image_size // vision.patch_size) ** 2
    return config


def build(
    config: Blip2Config | LlavaConfig,
    kind: Quantization,
    dtype: torch.dtype,
    device: torch.device,
    weights: bool = True,
) -> tuple[VisionLLM, bool]:
    """Random weights (or none written), the language model quantised, what learns in fp32; whether it was quantised."""
    if kind != "none" and find_spec("bitsandbytes") is None:
        print(f"bitsandbytes is not installed: {kind} is replaced by {dtype}", file=sys.stderr)
        kind = "none"
    torch.manual_seed(0)
    where = torch.device("cpu") if kind != "none" else device
    with where if weights else torch.device("meta"):
        vlm = skeleton(config, dtype)
    if weights:
        for parameter in vlm.parameters():
            if parameter.ndim < 2:
                nn.init.ones_(parameter)
            elif where == device:
                nn.init.normal_(parameter, 0.0, 0.02)
            else:  # a GPU draws the billions in seconds, a CPU in minutes
                drawn = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
                parameter.data.copy_(drawn.normal_(0.0, 0.02))
    else:
        vlm.to_empty(device=where)  # great tables stay unwritten, and so take no memory
        for tensor in (*vlm.parameters(), *vlm.buffers()):
            if tensor.numel() < 1 << 20:
                tensor.data.zero_()
    quantize(vlm.language_model, kind, dtype, device)
    vlm.model.to(device)
    add_lora(vlm, 8, 16, 0.0)
    set_trainable(vlm, PartsSection())
    for parameter in vlm.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    vlm.train()
    vlm.container.vision.eval()
    vlm.model.config.image_token_index = config.text_config.vocab_size - 1
    # All that the forward asks of the processor.
    tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=END, convert_ids_to_tokens=str)
    vlm.processor = SimpleNamespace(tokenizer=tokenizer)
    return vlm, kind != "none"
