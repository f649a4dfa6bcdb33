"""A new vision-LLM from parts: the eyes of a BLIP-2 checkpoint, any language model behind them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerModel,
    Blip2VisionModel,
)

from mblip.errors import InputError
from mblip.models.checkpoint import Checkpoint
from mblip.models.locate import locate
from mblip.models.mblip import VisionLLM
from mblip.models.origin import Base, Origin
from mblip.models.quantize import Quantization, quantize
from mblip.models.reading import computes_by_tie, load_language_model, read_blip2_config, read_image_processor
from mblip.models.tokens import align_special_tokens, end_as_the_tokenizer, place_image_token

Keep = Literal["keep", "random"]


def build_model(
    vision: str | Path,
    llm: str | Path,
    qformer: Keep = "keep",
    projection: Keep = "random",
    *,
    seed: int = 0,
    quantization: Quantization | None = None,
    dtype: torch.dtype | str | None = None,
    device_map: Any = None,
) -> VisionLLM:
    """Put a language model behind the vision model and Q-Former of a BLIP-2 checkpoint, whose own LLM is never read.

    Args:
        vision: BLIP-2 checkpoint: Hub id, folder or ``nano:NAME``.
        llm: Causal or encoder-decoder checkpoint of transformers, likewise.
        qformer: Keep the checkpoint's Q-Former and queries, or draw new ones.
        projection: Keep the checkpoint's projection (the widths must agree), or draw a new one.
        seed: Of what is drawn.
        quantization: ``int8`` or ``nf4`` for the language model alone.
        dtype: Of vision and language model; None for what the language model was saved in. Q-Former, queries and
            projection are always fp32, since they learn.
        device_map: A device, or what Accelerate's ``dispatch_model`` takes.

    Returns:
        The model in evaluation mode.

    Raises:
        InputError: A checkpoint is missing, incomplete, damaged or of the wrong kind or size.
    """
    vision_folder, llm_folder = locate(vision), locate(llm)
    eyes = read_blip2_config(vision_folder)
    language_model, tokenizer = load_language_model(llm_folder, dtype)
    end_as_the_tokenizer(language_model, tokenizer)
    image_token = place_image_token(language_model, tokenizer)
    config = Blip2Config(
        vision_config=eyes.vision_config,
        qformer_config=eyes.qformer_config,
        text_config=language_model.config,
        num_query_tokens=eyes.num_query_tokens,
        image_token_index=image_token,
    )
    with torch.device("meta"):
        model = Blip2ForConditionalGeneration(config)
    model.language_model = language_model
    # The container's configuration and the language model's own are one object, so that they never disagree.
    model.config.text_config = language_model.config
    weights = Checkpoint(vision_folder)
    vision_dtype = next(language_model.parameters()).dtype
    model.vision_model = _filled(Blip2VisionModel, config.vision_config, weights, "vision_model.").to(vision_dtype)
    generator = torch.Generator().manual_seed(seed)
    if qformer == "keep":
        model.qformer = _filled(Blip2QFormerModel, config.qformer_config, weights, "qformer.").float()
        model.query_tokens = nn.Parameter(_tensor(weights, "query_tokens", model.query_tokens.shape))
    else:
        model.qformer = _random_qformer(config.qformer_config, seed)
        # The stock class starts them at zero, where all queries are and stay the same.
        drawn = torch.randn(model.query_tokens.shape, generator=generator)
        model.query_tokens = nn.Parameter(drawn * config.qformer_config.initializer_range)
    shape = model.language_projection.weight.shape
    if projection == "keep":
        if eyes.text_config.hidden_size != shape[0]:
            raise InputError(
                f"projection=keep needs a language model of width {eyes.text_config.hidden_size}, for which {vision} was "
                f"trained, but {llm} has {shape[0]}; use projection=random"
            )
        weight = _tensor(weights, "language_projection.weight", shape)
        bias = _tensor(weights, "language_projection.bias", shape[:1])
    else:
        weight = torch.randn(shape, generator=generator) * config.initializer_range
        bias = torch.zeros(shape[0])
    model.language_projection = nn.Linear(shape[1], shape[0], device="meta")
    model.language_projection.weight, model.language_projection.bias = nn.Parameter(weight), nn.Parameter(bias)
    processor = Blip2Processor(read_image_processor(vision_folder, config), tokenizer, eyes.num_query_tokens)
    vlm = VisionLLM(model, processor)
    vlm.origin = Origin({"vision": Base.of(vision, vision_folder), "llm": Base.of(llm, llm_folder)})
    return finish(vlm, quantization, device_map)


def finish(vlm: VisionLLM, quantization: Quantization | None, device_map: Any) -> VisionLLM:
    """The last steps of building and loading: special tokens, quantisation, device, a check that nothing is missing.

    Raises:
        InputError: A parameter has no value, or the language model does more to its logits than the loss knows.
    """
    model = vlm.model
    empty = [name for name, value in [*model.named_parameters(), *model.named_buffers()] if value.is_meta]
    if empty:
        raise InputError(f"{len(empty)} weights are missing after loading, the first being {empty[0]}")
    align_special_tokens(model.language_model, vlm.tokenizer)
    # The configuration says what is, so that no later resizing or saving ties a head that is apart.
    tied = model.language_model.get_output_embeddings().weight is model.get_input_embeddings().weight
    model.config.tie_word_embeddings = tied
    if not computes_by_tie(model.language_model):
        model.language_model.config.tie_word_embeddings = tied
    dtype = next(model.language_model.parameters()).dtype
    if isinstance(device_map, str | int | torch.device) and device_map != "auto":
        # Layer by layer, so that the unquantised language model never has to fit the device.
        quantize(model.language_model, quantization or "none", dtype, device_map)
        model.to(device_map)
    else:
        quantize(model.language_model, quantization or "none", dtype)
        if device_map is not None:
            from accelerate import dispatch_model, infer_auto_device_map

            places = infer_auto_device_map(model) if device_map == "auto" else device_map
            dispatch_model(model, places)
    return vlm.eval()


def _filled(kind: type[nn.Module], config: Any, weights: Checkpoint, prefix: str) -> Any:
    with torch.device("meta"):
        module = kind(config)
    state = weights.read(prefix)
    needed = module.state_dict()
    lacking = sorted(needed.keys() - state.keys())
    if lacking:
        raise InputError(f"{weights.folder} lacks {len(lacking)} weights, the first being {prefix}{lacking[0]}")
    for name, empty in needed.items():
        if state[name].shape != empty.shape:
            raise InputError(
                f"{weights.folder}: {prefix}{name} is {list(state[name].shape)} but its config.json says {list(empty.shape)}"
            )
    module.load_state_dict({name: state[name] for name in needed}, assign=True)
    return module


def _tensor(weights: Checkpoint, name: str, shape: torch.Size) -> Tensor:
    found = weights.read(name).get("")
    if found is None:
        raise InputError(f"{weights.folder} lacks the weight {name}")
    if found.shape != shape:
        raise InputError(f"{weights.folder}: {name} is {list(found.shape)}, expected {list(shape)}")
    return found.float()


def _random_qformer(config: Any, seed: int) -> Blip2QFormerModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Blip2QFormerModel(copy.deepcopy(config)).float()
