"""One function for every vision-LLM that a person can name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Blip2ForConditionalGeneration, Blip2Processor

from mblip.errors import InputError
from mblip.models.build import finish
from mblip.models.checkpoint import Checkpoint
from mblip.models.locate import locate
from mblip.models.mblip import VisionLLM
from mblip.models.origin import Base, Origin
from mblip.models.quantize import Quantization
from mblip.models.reading import (
    check_loaded,
    choose_dtype,
    from_pretrained,
    read_blip2_config,
    read_image_processor,
    read_tokenizer,
)
from mblip.models.tokens import check_image_token, place_image_token


def load_model(
    name: str | Path,
    *,
    quantization: Quantization | None = None,
    dtype: torch.dtype | str | None = None,
    device_map: Any = None,
    merge: bool = False,
) -> VisionLLM:
    """Load a vision-LLM: a run directory, a stock Blip2 checkpoint, or one in the layout that mBLIP had in 2023.

    Args:
        name: Hub id, folder or ``nano:NAME``.
        quantization: ``int8`` or ``nf4`` for the language model alone.
        dtype: Of vision and language model; Q-Former, queries and projection are then fp32, since they may learn. None
            for what each part was saved in, as the stock class has it; of a run, what it has trained is fp32 always.
        device_map: A device, or what Accelerate's ``dispatch_model`` takes.
        merge: Of a run, merge the last adapter too, rather than leaving it attached.

    Returns:
        The model in evaluation mode.

    Raises:
        InputError: Nothing there, not a vision-LLM, incomplete, damaged, or in need of code that comes with it.
    """
    from mblip.models.runs import DESCRIPTION, load_run

    folder = locate(name)
    if (folder / DESCRIPTION).is_file():
        return load_run(folder, quantization, dtype, device_map, merge)
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds neither a model (config.json) nor a run ({DESCRIPTION})")
    return finish(load_stock(folder, name, dtype, learns=dtype is not None), quantization, device_map)


def load_stock(folder: Path, name: str | Path, dtype: torch.dtype | str | None, learns: bool = True) -> VisionLLM:
    """A Blip2 checkpoint of today or of 2023, before the last steps of :func:`~mblip.models.build.finish`.

    Args:
        folder: Where it lies.
        name: As it was named.
        dtype: Of vision and language model; None for what the language model was saved in.
        learns: Keep Q-Former, queries and projection in fp32, rather than where the stock class has them, whose answers
            are then the same.

    Raises:
        InputError: See :func:`load_model`.
    """
    config = read_blip2_config(folder)
    tokenizer = read_tokenizer(folder)
    weights = Checkpoint(folder)
    image_processor = read_image_processor(folder, config)
    if config.image_token_index is not None:
        check_image_token(config, tokenizer, folder)
    chosen = choose_dtype(dtype, weights, "language_model.", config.text_config)
    model, report = from_pretrained(Blip2ForConditionalGeneration, folder, config=config, dtype=chosen)
    check_loaded(model.language_model, report, weights, "language_model.", folder)
    model.config.text_config = model.language_model.config
    if config.image_token_index is None:
        model.config.image_token_index = place_image_token(model.language_model, tokenizer)
        if not config.text_config.is_encoder_decoder and getattr(config, "answer_separator", None) is None:
            # Those who published this layout trained their decoder-only models on answers glued to the prompt.
            model.config.answer_separator = ""
    if learns:
        # In fp32 also where the rest is not; read again, so that no bit is lost on the way.
        with torch.no_grad():
            for module, prefix in ((model.qformer, "qformer."), (model.language_projection, "language_projection.")):
                module.float().load_state_dict(weights.read(prefix), strict=False)
            model.query_tokens = torch.nn.Parameter(weights.read("query_tokens")[""].float())
    vlm = VisionLLM(model, Blip2Processor(image_processor, tokenizer, config.num_query_tokens))
    vlm.origin = Origin({"model": Base.of(name, folder)})
    return vlm
