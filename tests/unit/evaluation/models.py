"""Tiny models of other people's, with random weights, in stock classes and layouts."""

from __future__ import annotations

from pathlib import Path

from tests import checkpoints


def vipllava(folder: Path) -> Path:
    """A VipLLaVA with random weights, in stock classes and layout: a kind that is not built here."""
    import torch
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaProcessor,
        VipLlavaConfig,
        VipLlavaForConditionalGeneration,
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    text = checkpoints.tokenizer("unigram-bos")
    text.add_special_tokens({"additional_special_tokens": ["<image>"]})
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16
    )
    language = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=len(text), pad_token_id=text.pad_token_id, bos_token_id=text.bos_token_id, eos_token_id=text.eos_token_id,
    )  # fmt: skip
    token = text.convert_tokens_to_ids("<image>")
    torch.manual_seed(0)
    model = VipLlavaForConditionalGeneration(
        VipLlavaConfig(vision_config=vision, text_config=language, image_token_index=token, vision_feature_layers=[-1])
    )
    checkpoints.randomize(model, 0)
    model.save_pretrained(folder)
    template = (
        "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image> {% else %}"
        "{{ c['text'] }}{% endif %}{% endfor %}{% endfor %} ASSISTANT:"
    )
    image = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    LlavaProcessor(
        image, text, patch_size=16, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(folder)  # fmt: skip
    return folder
