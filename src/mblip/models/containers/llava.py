"""LLaVA: any image encoder with patch states, a two-layer MLP, and a causal language model (Liu et al., arXiv 2310.03744)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
from transformers.activations import ACT2FN
from transformers.initialization import no_init_weights
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector
from transformers.utils import output_capturing

from mblip.errors import InputError
from mblip.models.checkpoint import Checkpoint, read_json, told_of
from mblip.models.containers.base import Container, Keep
from mblip.models.containers.halves import base_of, causal_view, check_causal, fold_factors, say_no_factor
from mblip.models.containers.pixels import made_side, read_image_processor
from mblip.models.containers.towers import (
    TowerFacts,
    check_layers,
    empty_tower,
    load_tower,
    patch_of,
    patch_states,
    read_tower,
    side_of,
    tower_of,
)
from mblip.models.head import place_output_head
from mblip.models.reading import check_complete, choose_dtype, from_pretrained, read_config, refuse_own_code

# Names of the projector in checkpoint files, current and older.
_PROJECTORS = ("model.multi_modal_projector.", "multi_modal_projector.")

# transformers keeps only the states of the layers in a list. In version 5.17 a negative number in it names no layer yet.
_COUNTS_FROM_THE_END = hasattr(output_capturing, "resolve_hidden_states_indices")


class LlavaContainer(Container):
    """``LlavaForConditionalGeneration``.

    The stock class holds the language model's base and output head separately. :attr:`language_model` is a
    ``...ForCausalLM`` of the same modules, for code that needs a complete language model.
    """

    model_type = "llava"
    prefixes: ClassVar[Mapping[str, str]] = {
        "model.vision_tower.": "vision",
        "model.multi_modal_projector.": "projection",
        "model.language_model.": "llm",
        "lm_head.": "llm",
    }
    bridge = ("projection",)
    images_in_text = True
    eyes_name = "a vision tower and a two-layer MLP"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        place_output_head(model)
        self._language_model = causal_view(model)

    @property
    def language_model(self) -> Any:
        """The language model inside, with its output head."""
        return self._language_model

    @property
    def vision(self) -> nn.Module:
        """The image encoder."""
        vision: nn.Module = self.model.model.vision_tower
        return vision

    @property
    def encoders(self) -> Mapping[str, Any]:
        """The image encoder."""
        return {"vision": self.model.model.vision_tower}

    @property
    def projector(self) -> Any:
        """The two-layer MLP."""
        return self.model.model.multi_modal_projector

    @property
    def projection(self) -> nn.Linear:
        """The second layer of the MLP."""
        projection: nn.Linear = self.projector.linear_2
        return projection

    @property
    def tokens_per_image(self) -> int:
        """Number of patches of an image that the selection strategy keeps."""
        return int(self.config.image_seq_length)

    @property
    def image_size(self) -> int:
        """Height and width of the images that the image processor makes, in pixels."""
        return image_side(self.config)

    @property
    def eye_settings(self) -> dict[str, Any]:
        """See :attr:`Container.eye_settings`."""
        return {
            "bridge": "mlp",
            "vision_feature_layer": self.config.vision_feature_layer,
            "vision_feature_select_strategy": self.config.vision_feature_select_strategy,
        }

    def bridge_states(self, vision_states: Tensor) -> Tensor:
        """Apply the first layer of the MLP: [images, tokens, layers x ...] -> [images, tokens, width]."""
        states: Tensor = self.projector.act(self.projector.linear_1(vision_states.to(self.projection.weight.dtype)))
        return states

    def vision_states(self, pixel_values: Tensor) -> Tensor:
        """The selected states of the feature layers, concatenated.

        [images, 3, H, W] -> [images, tokens, layers x width of the encoder]
        """
        layers = self.config.vision_feature_layer
        numbers = [layers] if isinstance(layers, int) else list(layers)
        dtype = next(self.vision.parameters()).dtype
        kept = numbers if _COUNTS_FROM_THE_END or min(numbers) >= 0 else True
        states = self.vision(pixel_values.to(dtype), output_hidden_states=kept, return_dict=True).hidden_states
        chosen = torch.cat([states[number] for number in numbers], dim=-1)
        return chosen[:, 1:] if self.config.vision_feature_select_strategy == "default" else chosen

    @classmethod
    def read_config(cls, folder: Path) -> LlavaConfig:
        """Read the configuration of a LLaVA checkpoint.

        Raises:
            InputError: The checkpoint is of another kind, needs code of its own, or has a vision model or language
                model that is not supported.
        """
        raw = read_json(folder / "config.json")
        refuse_own_code(raw, folder)
        for part in ("vision_config", "text_config"):
            if not isinstance(raw.get(part), dict):  # the stock class would take that of LLaVA-1.5-7B
                raise InputError(f"{folder / 'config.json'} has no {part}; copy the checkpoint again")
        config = read_config(folder)
        assert isinstance(config, LlavaConfig)
        tower_of(config, f"{folder} is a LLaVA checkpoint")
        check_causal(config.text_config, f"{folder}: its language model")
        with told_of(folder):
            settle(config, image_side(config))
        return config

    @classmethod
    def read_eyes(
        cls, folder: Path, feature_layer: int | list[int] | None = None, select_strategy: str | None = None
    ) -> LlavaConfig:
        """A configuration of a checkpoint's vision encoder; its language model part is a placeholder.

        Args:
            folder: A tower, a dual encoder, or a checkpoint of the LLaVA family.
            feature_layer: The layer or layers whose states are read. None takes the checkpoint's setting; for a bare
                tower, the last layer but one if it has a class token, else the last.
            select_strategy: ``default`` drops the first state, ``full`` keeps all. None takes the checkpoint's setting;
                for a bare tower, ``default`` if it has a class token.

        Raises:
            InputError: The checkpoint has no vision encoder that the stock class can hold.
        """
        facts = read_tower(folder)
        with told_of(folder):
            return cls.eyes_from(facts, feature_layer, select_strategy)

    @classmethod
    def eyes_from(
        cls, facts: TowerFacts, feature_layer: int | list[int] | None = None, select_strategy: str | None = None
    ) -> LlavaConfig:
        """Like :meth:`read_eyes`, from configurations."""
        tower, family = facts.config, facts.family
        side = side_of(tower)
        own = getattr(family, "vision_feature_layer", getattr(family, "vision_feature_layers", None))
        patches = (side // patch_of(tower)) ** 2
        has_class = patch_states(tower, side) > patches
        if own is None:
            own = facts.layer or (-2 if has_class else -1)
        strategy = getattr(family, "vision_feature_select_strategy", None) or ("default" if has_class else "full")
        config = LlavaConfig(
            vision_config=copy.deepcopy(tower),
            projector_hidden_act=getattr(family, "projector_hidden_act", "gelu"),
            multimodal_projector_bias=getattr(family, "multimodal_projector_bias", True),
            vision_feature_layer=own if feature_layer is None else feature_layer,
            vision_feature_select_strategy=select_strategy or strategy,
        )
        if family is not None:
            config.text_config = family.get_text_config()
        settle(config, side)
        return config

    @classmethod
    def check_language_model(cls, text_config: Any) -> None:
        """See :meth:`Container.check_language_model`."""
        if text_config.is_encoder_decoder:
            check_causal(text_config, "the language model")

    @classmethod
    def check_files(cls, folder: Path, config: LlavaConfig) -> bool:
        """See :meth:`Container.check_files`; transformers maps the names in LLaVA-1.5's files by itself."""
        model, report = from_pretrained(LlavaForConditionalGeneration, folder, config=config, device_map="meta")
        check_complete(model, report, folder)
        return True

    @classmethod
    def config_from_parts(cls, eyes: LlavaConfig, text_config: Any, image_token_id: int | None = None) -> LlavaConfig:
        """The configuration of the vision encoder and MLP of ``eyes`` with another language model.

        Raises:
            InputError: The language model has an encoder.
        """
        check_causal(text_config, "the language model")
        config = LlavaConfig(
            vision_config=eyes.vision_config,
            text_config=text_config,
            projector_hidden_act=eyes.projector_hidden_act,
            multimodal_projector_bias=eyes.multimodal_projector_bias,
            vision_feature_layer=eyes.vision_feature_layer,
            vision_feature_select_strategy=eyes.vision_feature_select_strategy,
            image_seq_length=eyes.image_seq_length,
            image_token_index=0 if image_token_id is None else image_token_id,
        )
        if hasattr(eyes, "image_side"):
            config.image_side = eyes.image_side
        return config

    @classmethod
    def read_image_processor(cls, folder: Path, config: LlavaConfig) -> Any:
        """Read the image processor of a checkpoint; it uses PIL and numpy only, never torchvision.

        Also writes into the configuration how many tokens an image takes.

        Raises:
            InputError: The image processor is damaged, or the vision model does not take its images.
        """
        with told_of(folder):
            processor = read_image_processor(folder, config.vision_config)
            settle(config, made_side(processor))
        return processor

    @classmethod
    def processor(cls, image_processor: Any, tokenizer: Any, config: LlavaConfig) -> LlavaProcessor:
        """The stock processor that joins image processor and tokeniser.

        Raises:
            InputError: The tokeniser has no token for images.
        """
        placeholder = tokenizer.convert_ids_to_tokens(config.image_token_index)
        if placeholder is None:
            raise InputError(
                f"the tokeniser has no token with the id {config.image_token_index} (image_token_index), which marks an "
                "image: copy the checkpoint's tokeniser again"
            )
        patch = patch_of(config.vision_config)
        dropped = config.vision_feature_select_strategy == "default"
        others = config.image_seq_length + dropped - (image_side(config) // patch) ** 2
        return LlavaProcessor(
            image_processor,
            tokenizer,
            patch_size=patch,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
            chat_template=tokenizer.chat_template,
            image_token=placeholder,
            num_additional_image_tokens=others,
        )

    @classmethod
    def skeleton(cls, config: LlavaConfig, language_model: Any, dtype: torch.dtype) -> Self:
        """The model around a language model, with uninitialised weights; the MLP is fp32."""
        model = _empty(config)
        model.model.vision_tower = empty_tower(config.vision_config, dtype)
        model.model.multi_modal_projector = LlavaMultiModalProjector(config)
        return cls(_around(model, language_model))

    @classmethod
    def build(
        cls,
        eyes: LlavaConfig,
        weights: Checkpoint,
        language_model: Any,
        image_token_id: int,
        *,
        bridge: Keep,
        projection: Keep,
        seed: int,
    ) -> Self:
        """See :meth:`Container.build`; the projection is the MLP, and there is no other bridge."""
        config = cls.config_from_parts(eyes, language_model.config, image_token_id)
        facts = tower_of(eyes.vision_config, "the vision model")
        model = _empty(config)
        model.model.vision_tower = load_tower(facts, weights, next(language_model.parameters()).dtype)
        with torch.device("meta"):
            projector = LlavaMultiModalProjector(config)
        if projection == "keep":
            state = _projector_state(weights, projector, eyes)
        else:
            generator = torch.Generator().manual_seed(seed)
            drawn = {
                name: torch.randn(value.shape, generator=generator) for name, value in projector.named_parameters()
            }
            spread = config.initializer_range if hasattr(config, "initializer_range") else 0.02
            state = {name: value * spread if value.dim() > 1 else value.zero_() for name, value in drawn.items()}
        projector.load_state_dict(state, assign=True)
        model.model.multi_modal_projector = projector
        fold_factors(language_model)
        return cls(_around(model, language_model))

    @classmethod
    def load(cls, folder: Path, config: LlavaConfig, dtype: torch.dtype | str | None, learns: bool) -> Self:
        """See :meth:`Container.load`."""
        weights = Checkpoint(folder)
        names = ("model.language_model.", "language_model.")
        prefix = next((name for name in names if any(key.startswith(name) for key in weights.names)), "")
        chosen = choose_dtype(dtype, weights, prefix, config.text_config)
        cls.check_files(folder, config)  # else what a file lacks is made first, at the size that config.json says
        model, report = from_pretrained(LlavaForConditionalGeneration, folder, config=config, dtype=chosen)
        check_complete(model, report, folder)
        text, said = model.model.language_model.config, model.generation_config
        say_no_factor(text)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):  # the stock class follows its generation settings
            if getattr(said, name) is not None:
                setattr(text, name, getattr(said, name))
        if learns:
            # Read again in fp32: the stock class has rounded them.
            projector = model.model.multi_modal_projector.float()
            state = {name: value.float() for name, value in _read_projector(weights).items()}
            projector.load_state_dict(state)
        return cls(model)


def image_side(config: Any) -> int:
    """Height and width of a LLaVA's images, in pixels: its image processor's if known, else its tower's."""
    return int(getattr(config, "image_side", None) or side_of(config.vision_config))


def settle(config: LlavaConfig, side: int) -> None:
    """Write into a configuration how many tokens an image of this side takes.

    Raises:
        InputError: The vision model does not take such images, or has not the layers that are read; or transformers has
            no such activation.
    """
    if config.projector_hidden_act not in ACT2FN:
        raise InputError(
            f"projector_hidden_act {config.projector_hidden_act!r} is not an activation function of transformers"
        )
    check_layers(config.vision_feature_layer, config.vision_config)
    states = patch_states(config.vision_config, side)
    config.image_seq_length = states - (config.vision_feature_select_strategy == "default")
    if side != side_of(config.vision_config):
        config.image_side = side


def _empty(config: LlavaConfig) -> Any:
    with torch.device("meta"), no_init_weights():
        return LlavaForConditionalGeneration(config)


def _around(model: Any, language_model: Any) -> Any:
    """Put the language model into the container, and its configuration into the container's, so that both agree."""
    model.model.language_model = base_of(language_model, type(model.model.language_model))
    model.lm_head = language_model.get_output_embeddings()
    model.config.text_config = language_model.config
    model.config.tie_word_embeddings = model.lm_head.weight is language_model.get_input_embeddings().weight
    return model


def _read_projector(weights: Checkpoint) -> dict[str, Tensor]:
    for prefix in _PROJECTORS:
        if found := weights.read(prefix):
            return found
    return {}


def _projector_state(weights: Checkpoint, projector: nn.Module, eyes: LlavaConfig) -> dict[str, Tensor]:
    """The checkpoint's own MLP, in fp32.

    Raises:
        InputError: The checkpoint has no such MLP, or one of another width.
    """
    found = _read_projector(weights)
    wanted = projector.state_dict()
    if wanted.keys() != found.keys():
        other = min(wanted.keys() ^ found.keys())
        state = "is missing" if other in wanted else "is present too"
        raise InputError(
            f"projection=keep: {weights.folder} has no plain two-layer MLP ({other} {state}); use projection=random"
        )
    for name, empty in wanted.items():
        if found[name].shape != empty.shape:
            raise InputError(
                f"projection=keep needs a language model of width {eyes.text_config.hidden_size}, for which "
                f"{weights.folder} was trained ({name} is {list(found[name].shape)}, not {list(empty.shape)}); use "
                "projection=random"
            )
    return {name: found[name].float() for name in wanted}
