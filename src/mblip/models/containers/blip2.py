"""BLIP-2: a ViT, a Q-Former with learned queries, and a linear projection into the language model (paper, section 3.1)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerModel,
    Blip2VisionModel,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from mblip.errors import InputError
from mblip.models.checkpoint import Checkpoint, read_json
from mblip.models.containers.base import Container, Keep
from mblip.models.reading import (
    check_complete,
    check_head,
    check_places,
    choose_dtype,
    from_pretrained,
    no_container,
    read_config,
    refuse_own_code,
)
from mblip.storage.folders import check_files


class Blip2Container(Container):
    """``Blip2ForConditionalGeneration``."""

    model_type = "blip-2"
    prefixes: ClassVar[Mapping[str, str]] = {
        "vision_model.": "vision",
        "query_tokens": "queries",
        "qformer.": "qformer",
        "language_projection.": "projection",
        "language_model.": "llm",
    }
    bridge = ("queries", "qformer", "projection")
    eyes_name = "BLIP-2's vision model and Q-Former"

    @property
    def vision(self) -> nn.Module:
        """The ViT."""
        vision: nn.Module = self.model.vision_model
        return vision

    @property
    def encoders(self) -> Mapping[str, Any]:
        """ViT and Q-Former."""
        return {"vision": self.model.vision_model, "qformer": self.model.qformer}

    @property
    def projection(self) -> nn.Linear:
        """The linear layer from the Q-Former's width to the language model's."""
        projection: nn.Linear = self.model.language_projection
        return projection

    @property
    def tokens_per_image(self) -> int:
        """Number of learned queries."""
        return int(self.config.num_query_tokens)

    @property
    def image_size(self) -> int:
        """Height and width of the ViT's input images, in pixels."""
        return int(self.config.vision_config.image_size)

    def vision_states(self, pixel_values: Tensor) -> Tensor:
        """Encode images with the ViT: [images, 3, H, W] -> [images, 1 + patches, ViT width]."""
        vision = self.model.vision_model
        dtype = vision.embeddings.class_embedding.dtype
        states: Tensor = vision(pixel_values=pixel_values.to(dtype)).last_hidden_state
        return states

    def bridge_states(self, vision_states: Tensor) -> Tensor:
        """Apply the Q-Former to each image: [images, 1 + patches, ViT width] -> [images, queries, Q-Former width]."""
        queries = self.model.query_tokens.expand(len(vision_states), -1, -1)
        states: Tensor = self.model.qformer(query_embeds=queries, encoder_hidden_states=vision_states).last_hidden_state
        return states

    @classmethod
    def read_config(cls, folder: Path) -> Blip2Config:
        """Read the configuration of a BLIP-2 checkpoint, also in mBLIP's layout of 2023.

        Raises:
            InputError: The checkpoint is of another kind, or needs code of its own.
        """
        raw = read_json(folder / "config.json")
        refuse_own_code(raw, folder)
        if raw.get("model_type") != cls.model_type:
            raise InputError(
                f"{folder} is a {raw.get('model_type')!r} checkpoint, {no_container(raw.get('model_type'))}"
            )
        config = read_config(folder)
        assert isinstance(config, Blip2Config)
        return config

    @classmethod
    def config_from_parts(cls, eyes: Blip2Config, text_config: Any, image_token_id: int | None = None) -> Blip2Config:
        """The configuration of the vision encoder and Q-Former of ``eyes`` with another language model."""
        config = Blip2Config(
            vision_config=eyes.vision_config,
            qformer_config=eyes.qformer_config,
            text_config=text_config,
            num_query_tokens=eyes.num_query_tokens,
        )
        if image_token_id is not None:
            config.image_token_index = image_token_id
        return config

    @classmethod
    def read_image_processor(cls, folder: Path, config: Blip2Config) -> BlipImageProcessorPil:
        """Read the image processor of a BLIP-2 checkpoint; it uses PIL and numpy only, never torchvision.

        Raises:
            InputError: It is damaged, or makes images of another size than the ViT takes.
        """
        side = config.vision_config.image_size
        if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
            return BlipImageProcessorPil(size={"height": side, "width": side})
        check_files(folder)
        try:
            processor = BlipImageProcessorPil.from_pretrained(folder, local_files_only=True)
            size = dict(processor.size)
        except (ValueError, OSError, TypeError, AttributeError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{folder} has no image processor that transformers can read: {reason}") from error
        if (size.get("height"), size.get("width")) != (side, side):
            raise InputError(
                f"{folder}: the image processor makes {size} pictures, the vision model takes {side}x{side}"
            )
        return processor

    @classmethod
    def processor(cls, image_processor: Any, tokenizer: Any, config: Blip2Config) -> Blip2Processor:
        """The stock processor that joins image processor and tokeniser."""
        return Blip2Processor(image_processor, tokenizer, config.num_query_tokens)

    @classmethod
    def skeleton(cls, config: Blip2Config, language_model: Any, dtype: torch.dtype) -> Self:
        """The model around a language model, with uninitialised weights; Q-Former and projection are fp32."""
        with torch.device("meta"):
            model = Blip2ForConditionalGeneration(config)
        model.vision_model = Blip2VisionModel._from_config(config.vision_config, dtype=dtype)
        model.qformer = Blip2QFormerModel(config.qformer_config)
        model.language_projection = nn.Linear(*reversed(model.language_projection.weight.shape))
        model.query_tokens = nn.Parameter(torch.empty(model.query_tokens.shape))
        return cls(_around(model, language_model))

    @classmethod
    def build(
        cls,
        eyes: Blip2Config,
        weights: Checkpoint,
        language_model: Any,
        image_token_id: int,
        *,
        bridge: Keep,
        projection: Keep,
        seed: int,
    ) -> Self:
        """See :meth:`Container.build`; the bridge is the Q-Former with its queries."""
        config = cls.config_from_parts(eyes, language_model.config, image_token_id)
        with torch.device("meta"):
            model = Blip2ForConditionalGeneration(config)
        vision_dtype = next(language_model.parameters()).dtype
        model.vision_model = _filled(Blip2VisionModel, config.vision_config, weights, "vision_model.").to(vision_dtype)
        generator = torch.Generator().manual_seed(seed)
        if bridge == "keep":
            model.qformer = _filled(Blip2QFormerModel, config.qformer_config, weights, "qformer.").float()
            model.query_tokens = nn.Parameter(_tensor(weights, "query_tokens", model.query_tokens.shape))
        else:
            model.qformer = _random_qformer(config.qformer_config, seed)
            # The stock class starts the queries at zero, where they are equal and would stay equal.
            drawn = torch.randn(model.query_tokens.shape, generator=generator)
            model.query_tokens = nn.Parameter(drawn * config.qformer_config.initializer_range)
        shape = model.language_projection.weight.shape
        if projection == "keep":
            if eyes.text_config.hidden_size != shape[0]:
                raise InputError(
                    f"projection=keep needs a language model of width {eyes.text_config.hidden_size}, for which "
                    f"{weights.folder} was trained, but this one has {shape[0]}; use projection=random"
                )
            weight = _tensor(weights, "language_projection.weight", shape)
            bias = _tensor(weights, "language_projection.bias", shape[:1])
        else:
            weight = torch.randn(shape, generator=generator) * config.initializer_range
            bias = torch.zeros(shape[0])
        model.language_projection = nn.Linear(shape[1], shape[0], device="meta")
        model.language_projection.weight, model.language_projection.bias = nn.Parameter(weight), nn.Parameter(bias)
        return cls(_around(model, language_model))

    @classmethod
    def load(cls, folder: Path, config: Blip2Config, dtype: torch.dtype | str | None, learns: bool) -> Self:
        """See :meth:`Container.load`."""
        weights = Checkpoint(folder)
        chosen = choose_dtype(dtype, weights, "language_model.", config.text_config)
        model, report = from_pretrained(Blip2ForConditionalGeneration, folder, config=config, dtype=chosen)
        check_complete(model, report, folder)
        check_head(model.language_model, weights, "language_model.", folder)
        model.config.text_config = model.language_model.config
        if learns:
            # Read again in fp32: the stock class has rounded them.
            with torch.no_grad():
                for module, prefix in (
                    (model.qformer, "qformer."),
                    (model.language_projection, "language_projection."),
                ):
                    module.float().load_state_dict(weights.read(prefix), strict=False)
                model.query_tokens = nn.Parameter(weights.read("query_tokens")[""].float())
        return cls(model)


def _around(model: Any, language_model: Any) -> Any:
    """Put the language model into the container, and its configuration into the container's, so that both agree."""
    model.language_model = language_model
    model.config.text_config = language_model.config
    return model


def _filled(kind: type[nn.Module], config: Any, weights: Checkpoint, prefix: str) -> Any:
    with torch.device("meta"):
        module = kind(config)
    state = weights.read(prefix)
    needed = module.state_dict()
    missing = sorted(needed.keys() - state.keys())
    if missing:
        raise InputError(f"{weights.folder} lacks {len(missing)} weights, the first is {prefix}{missing[0]}")
    for name, empty in needed.items():
        if state[name].shape != empty.shape:
            raise InputError(
                f"{weights.folder}: {prefix}{name} is {list(state[name].shape)} but its config.json says "
                f"{list(empty.shape)}"
            )
    check_places(module, state.keys() - needed.keys(), weights.folder)
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
