"""Load complete checkpoints in a stock format of transformers, or in mBLIP's layout of 2023."""

from __future__ import annotations

from pathlib import Path

import torch

from mblip.models.containers import whole_of
from mblip.models.origin import Base, Origin
from mblip.models.reading import read_chat_template, read_tokenizer
from mblip.models.tokens import check_end_tokens, check_image_token, end_tokens, listed, place_image_token
from mblip.models.vision_llm import VisionLLM


def load_stock(folder: Path, name: str | Path, dtype: torch.dtype | str | None, learns: bool = True) -> VisionLLM:
    """Load a checkpoint, without the last steps of :func:`~mblip.models.finish.finish`.

    Args:
        folder: The checkpoint's folder.
        name: The name under which it was requested.
        dtype: Type of the vision and language model; None keeps the type that the language model was saved in.
        learns: Keep the bridge in fp32, instead of the type that the stock class computes in.

    Raises:
        InputError: See :func:`~mblip.models.load.load_vision_llm`.
    """
    kind, config = whole_of(folder)
    tokenizer = read_tokenizer(folder)
    if kind.images_in_text:
        tokenizer.chat_template = read_chat_template(folder) or tokenizer.chat_template
    image_processor = kind.read_image_processor(folder, config)
    if config.image_token_index is not None:
        check_image_token(config, tokenizer, folder)
    container = kind.load(folder, config, dtype, learns)
    ends = end_tokens(container.language_model) or listed(tokenizer.eos_token_id)
    check_end_tokens(ends, container.language_model.get_input_embeddings().num_embeddings, folder)
    if config.image_token_index is None:  # the layout of 2023
        container.config.image_token_index = place_image_token(container.language_model, tokenizer)
        if not config.text_config.is_encoder_decoder and getattr(config, "answer_separator", None) is None:
            # The published decoder-only models were trained with no separator between prompt and answer.
            container.config.answer_separator = ""
    vlm = VisionLLM(container.model, kind.processor(image_processor, tokenizer, container.config))
    vlm.origin = Origin({"model": Base.of(name, folder)})
    return vlm
