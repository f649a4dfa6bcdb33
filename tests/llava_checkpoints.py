"""Small LLaVA checkpoints with random weights, saved by transformers alone, and the towers that stand in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tests import checkpoints
from tokenizers import AddedToken
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionConfig,
    Dinov2Config,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    SiglipVisionConfig,
)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

SIDE, PATCH = 32, 8
PATCHES = (SIDE // PATCH) ** 2
_SIZES = {
    "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": SIDE,
    "patch_size": PATCH,
}  # fmt: skip
_SQUARE = {"height": SIDE, "width": SIDE}
CHAT = (
    "{% for message in messages %}{{ '<s>' if loop.first else '' }}{{ message['role'] + ': ' + message['content'] }}"
    "{{ '</s>' if message['role'] == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)

# tower -> (configuration, layer, strategy, image processor, tokens beside the patches)
TOWERS: dict[str, tuple[Any, Any, str, Any, int]] = {
    "clip": (
        CLIPVisionConfig(**_SIZES), -2, "default",
        CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=_SQUARE), 1,
    ),
    "siglip": (SiglipVisionConfig(**_SIZES), -1, "full", SiglipImageProcessorPil(size=_SQUARE), 0),
    "siglip2": (SiglipVisionConfig(**_SIZES, layer_norm_eps=1e-5), [-1, 1], "full", SiglipImageProcessorPil(size=_SQUARE), 0),
    # Its images are smaller than those that its positions were made for, as DINOv2's own are.
    "dinov2": (
        Dinov2Config(hidden_size=24, mlp_ratio=2, num_hidden_layers=3, num_attention_heads=4, image_size=56, patch_size=PATCH),
        -1, "default", BitImageProcessorPil(size={"shortest_edge": 40}, crop_size=_SQUARE), 1,
    ),
}  # fmt: skip
PAIRS = [("clip", "llama"), ("siglip", "qwen3"), ("siglip2", "gemma3"), ("dinov2", "mistral")]


def tower(folder: Path, kind: str = "siglip", *, seed: int = 0) -> Path:
    """A vision tower's own checkpoint."""
    config, _, _, image_processor, _ = TOWERS[kind]
    torch.manual_seed(seed)
    model = transformers.AutoModel.from_config(config)
    checkpoints.randomize(model, seed + 7)
    model.save_pretrained(folder)
    image_processor.save_pretrained(folder)
    return folder


def llava(
    folder: Path, eyes: str = "clip", family: str = "llama", *, seed: int = 0, chat: str = "", **changes: Any
) -> Path:
    """A stock LLaVA checkpoint.

    Args:
        folder: Where to.
        eyes: Of :data:`TOWERS`.
        family: Of the language model, see :mod:`tests.checkpoints`.
        seed: Of the weights.
        chat: The processor's chat template; none by default.
        **changes: Of the language model's configuration.
    """
    vision, layer, strategy, image_processor, others = TOWERS[eyes]
    language = checkpoints.llm(folder / "llm", family, seed=seed, **changes)
    inner, text = AutoModelForCausalLM.from_pretrained(language), AutoTokenizer.from_pretrained(language)
    text.add_tokens(AddedToken("<image>", special=True, normalized=False), special_tokens=True)
    config = LlavaConfig(
        vision_config=vision.to_dict(), text_config=inner.config.to_dict(), vision_feature_layer=layer,
        vision_feature_select_strategy=strategy, image_token_index=text.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config).eval()
    checkpoints.randomize(model, seed)
    model.model.language_model.load_state_dict(inner.base_model.state_dict())
    model.lm_head.load_state_dict(inner.get_output_embeddings().state_dict())
    model.save_pretrained(folder)
    processor = LlavaProcessor(
        image_processor, text, patch_size=PATCH, vision_feature_select_strategy=strategy, chat_template=chat or None,
        num_additional_image_tokens=others,
    )  # fmt: skip
    processor.save_pretrained(folder)
    return folder


def mlp(vlm: Any) -> Any:
    """The MLP of a model."""
    return vlm.container.projector


def of_2023(folder: Path, source: Path) -> Path:
    """The same model in the layout of LLaVA-1.5 on the Hub: names, split configuration, a template file of its own."""
    from safetensors.torch import load_file

    folder.mkdir(parents=True)
    state = load_file(source / "model.safetensors")
    renamed = {name.replace("vision_tower.", "vision_tower.vision_model."): value for name, value in state.items()}
    checkpoints.write_shards(folder, renamed, safetensors=True, shards=3)
    for file in source.iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config.pop("dtype", None)
    config |= {"torch_dtype": "float32", "transformers_version": "4.36.0.dev0", "ignore_index": -100}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
