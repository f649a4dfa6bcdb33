"""Base class for containers: a stock class of transformers that holds vision encoder, bridge and language model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from mblip.errors import InputError
from mblip.models.checkpoint import Checkpoint

Keep = Literal["keep", "random"]


class Container(ABC):
    """A stock model and its parts.

    The stock class is the container in memory and on disk, so an export loads anywhere without this package.

    Attributes:
        model_type: Name of the class in ``config.json``.
        prefixes: Prefix of a parameter's name to the part it belongs to.
        bridge: Parts between the vision encoder and the language model, which every run stores.
        images_in_text: Whether image tokens stand inside the prompt's text, where a frame puts them
            (:mod:`mblip.processing.framing`); else they come first.
        eyes_name: Description of vision encoder and bridge for model cards.
        model: The stock model.
    """

    model_type: ClassVar[str]
    prefixes: ClassVar[Mapping[str, str]]
    bridge: ClassVar[tuple[str, ...]]

    images_in_text: ClassVar[bool] = False
    eyes_name: ClassVar[str]

    def __init__(self, model: Any) -> None:
        self.model = model

    # The model in memory.

    @property
    def config(self) -> Any:
        """The stock configuration."""
        return self.model.config

    @property
    def language_model(self) -> Any:
        """The language model inside."""
        return self.model.language_model

    @property
    @abstractmethod
    def vision(self) -> nn.Module:
        """The image encoder."""

    @property
    @abstractmethod
    def encoders(self) -> Mapping[str, Any]:
        """The transformers between pixels and language model, by part."""

    @property
    @abstractmethod
    def projection(self) -> nn.Linear:
        """The linear layer whose output the language model reads."""

    @property
    def image_token_id(self) -> int:
        """Id of the image placeholder in prompts."""
        return int(self.config.image_token_index)

    @property
    @abstractmethod
    def tokens_per_image(self) -> int:
        """Number of placeholders that one image takes in a prompt."""

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Height and width of the images that the encoder takes, in pixels."""

    @property
    def device(self) -> torch.device:
        """The device that inputs are moved to."""
        device: torch.device = self.projection.weight.device
        return device

    @abstractmethod
    def vision_states(self, pixel_values: Tensor) -> Tensor:
        """Encode images for the bridge: [images, 3, H, W] -> [images, states, encoder width].

        The states depend on the image encoder alone, so they stay the same while the encoder is frozen.
        """

    @abstractmethod
    def bridge_states(self, vision_states: Tensor) -> Tensor:
        """Compute the input of the last projection: :meth:`vision_states` -> [images, tokens, bridge width]."""

    @property
    def eye_settings(self) -> dict[str, Any]:
        """Arguments of :func:`~mblip.models.build.build_model`, besides the bases, to build these parts again."""
        return {}

    def encode_states(self, vision_states: Tensor) -> Tensor:
        """Turn :meth:`vision_states` into image features for the language model: [images, tokens, width]."""
        projected: Tensor = self.projection(self.bridge_states(vision_states).to(self.projection.weight.dtype))
        return projected

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Image features for the language model: [images, 3, H, W] -> [images, tokens, width]."""
        return self.encode_states(self.vision_states(pixel_values))

    # The model on disk, and its shape.

    @classmethod
    @abstractmethod
    def read_config(cls, folder: Path) -> Any:
        """Read the configuration of a checkpoint of this kind.

        Raises:
            InputError: The checkpoint is of another kind, or needs code of its own.
        """

    @classmethod
    def check_language_model(cls, text_config: Any) -> None:
        """Check that a language model of this configuration can stand behind the bridge; the default accepts any.

        Raises:
            InputError: The language model does not fit.
        """
        del text_config

    @classmethod
    def check_files(cls, folder: Path, config: Any) -> bool:
        """Check a checkpoint's weights by the headers of its files; False if only their names can be checked.

        Raises:
            InputError: Weights are missing or of another size.
        """
        return False

    @classmethod
    @abstractmethod
    def config_from_parts(cls, eyes: Any, text_config: Any, image_token_id: int | None = None) -> Any:
        """The configuration of the vision encoder and bridge of ``eyes`` with another language model."""

    @classmethod
    @abstractmethod
    def read_image_processor(cls, folder: Path, config: Any) -> Any:
        """Read the image processor of a checkpoint of this kind.

        Raises:
            InputError: It is damaged, or makes images of another size than the encoder takes.
        """

    @classmethod
    @abstractmethod
    def processor(cls, image_processor: Any, tokenizer: Any, config: Any) -> Any:
        """The stock processor that joins image processor and tokeniser."""

    @classmethod
    @abstractmethod
    def skeleton(cls, config: Any, language_model: Any, dtype: torch.dtype) -> Self:
        """The model around a language model, with uninitialised weights, on the device of the context."""

    @classmethod
    @abstractmethod
    def build(
        cls,
        eyes: Any,
        weights: Checkpoint,
        language_model: Any,
        image_token_id: int,
        *,
        bridge: Keep,
        projection: Keep,
        seed: int,
    ) -> Self:
        """Build the model from the vision encoder of a checkpoint and another language model.

        Args:
            eyes: The configuration of the checkpoint whose eyes are taken.
            weights: The weights of that checkpoint.
            language_model: The complete language model on the CPU; the vision model takes its type.
            image_token_id: Id of the image placeholder in prompts.
            bridge: Keep the checkpoint's bridge, or draw a new one.
            projection: Keep the checkpoint's projection (the widths must agree), or draw a new one.
            seed: Seed of the weights that are drawn.

        Raises:
            InputError: A weight is missing or has another shape, or the widths differ.
        """

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, config: Any, dtype: torch.dtype | str | None, learns: bool) -> Self:
        """Load a complete checkpoint of this kind.

        Args:
            folder: The checkpoint's folder.
            config: See :meth:`read_config`.
            dtype: Type of the vision and language model; None keeps the type that the language model was saved in.
            learns: Read the bridge in fp32, because it may be trained, and not in the type that the stock class uses.

        Raises:
            InputError: The checkpoint is incomplete or damaged.
        """


def finite(features: Tensor) -> Tensor:
    """Return image features unchanged if all are finite; with other values, answers would be empty or random.

    Raises:
        InputError: A value is not finite.
    """
    if not bool(features.isfinite().all()):
        raise InputError(
            "vision model and bridge compute values that are not finite for a picture: they overflow in this data type "
            "(take bf16 or fp32), or the weights are damaged"
        )
    return features


def part_of(name: str, prefixes: Mapping[str, str]) -> str:
    """The part that a parameter belongs to, by its name; LoRA weights are recognised by PEFT's names."""
    if ".lora_" in name:
        return "lora"
    for prefix, part in prefixes.items():
        if name.startswith(prefix):
            return part
    raise ValueError(f"the parameter {name} belongs to no part of the container ({', '.join(prefixes)})")
