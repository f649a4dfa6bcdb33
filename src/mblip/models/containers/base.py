"""What holds eyes, bridge and language model together in a stock class of transformers."""

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
    """A stock model, seen as parts.

    What is exported loads anywhere without this package, because the stock class is the container in memory and on disk.

    Attributes:
        model_type: What its ``config.json`` calls it.
        prefixes: The part that each prefix of a parameter's name belongs to.
        bridge: Parts between the eyes and the language model, which every run stores.
        images_in_text: Whether images stand inside the prompt's text, written as a frame says
            (:mod:`mblip.processing.framing`); else their tokens stand before everything.
        eyes_name: Eyes and bridge in words, for model cards.
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
        """By part, the modules of transformer layers between pixels and language model."""

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
        """Placeholders that one image takes in a prompt."""

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Height and width of the images that the encoder takes, in pixels."""

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""
        device: torch.device = self.projection.weight.device
        return device

    @abstractmethod
    def vision_states(self, pixel_values: Tensor) -> Tensor:
        """The image encoder's states that the bridge reads: [images, 3, H, W] -> [images, states, encoder width].

        The image encoder alone decides it, so that it stays the same for as long as the encoder does.
        """

    @abstractmethod
    def bridge_states(self, vision_states: Tensor) -> Tensor:
        """The states that the last projection reads: :meth:`vision_states` -> [images, tokens, bridge width]."""

    @property
    def eye_settings(self) -> dict[str, Any]:
        """What :func:`~mblip.models.build.build_model` must be told, beside the bases, to build these eyes again."""
        return {}

    def encode_states(self, vision_states: Tensor) -> Tensor:
        """Image tokens for the language model: :meth:`vision_states` -> [images, tokens, width]."""
        projected: Tensor = self.projection(self.bridge_states(vision_states).to(self.projection.weight.dtype))
        return projected

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """What the language model reads of each image: [images, 3, H, W] -> [images, tokens, width]."""
        return self.encode_states(self.vision_states(pixel_values))

    # The model on disk, and its shape.

    @classmethod
    @abstractmethod
    def read_config(cls, folder: Path) -> Any:
        """The configuration of a checkpoint of this kind.

        Raises:
            InputError: Another kind of checkpoint, or one that would run code of its own.
        """

    @classmethod
    def check_language_model(cls, text_config: Any) -> None:
        """Whether a language model of this configuration can stand behind the bridge: any can, unless overridden.

        Raises:
            InputError: It cannot.
        """
        del text_config

    @classmethod
    def check_files(cls, folder: Path, config: Any) -> bool:
        """Look whether a checkpoint's files hold every weight, by their headers; False where only the names can tell.

        Raises:
            InputError: Weights are missing or of another size.
        """
        return False

    @classmethod
    @abstractmethod
    def config_from_parts(cls, eyes: Any, text_config: Any, image_token_id: int | None = None) -> Any:
        """The configuration of the eyes and bridge of ``eyes`` before another language model."""

    @classmethod
    @abstractmethod
    def read_image_processor(cls, folder: Path, config: Any) -> Any:
        """The image processor of a checkpoint of this kind.

        Raises:
            InputError: It is damaged, or makes images of another size than the encoder takes.
        """

    @classmethod
    @abstractmethod
    def processor(cls, image_processor: Any, tokenizer: Any, config: Any) -> Any:
        """The stock processor of image processor and tokeniser."""

    @classmethod
    @abstractmethod
    def skeleton(cls, config: Any, language_model: Any, dtype: torch.dtype) -> Self:
        """The model around a language model, its own weights not initialised, on the device of the context."""

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
        """The model with the eyes of a checkpoint before another language model.

        Args:
            eyes: The configuration of the checkpoint whose eyes are taken.
            weights: The weights of that checkpoint.
            language_model: Complete, on the CPU; the vision model takes its type.
            image_token_id: Id of the image placeholder in prompts.
            bridge: Keep the checkpoint's bridge, or draw a new one.
            projection: Likewise for the projection; the widths must agree.
            seed: Of what is drawn.

        Raises:
            InputError: A weight is missing or has another shape, or the widths differ.
        """

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, config: Any, dtype: torch.dtype | str | None, learns: bool) -> Self:
        """A whole checkpoint of this kind.

        Args:
            folder: Where it lies.
            config: See :meth:`read_config`.
            dtype: Of vision and language model; None for what the language model was saved in.
            learns: Read the bridge in fp32, since it may be trained, rather than in the type that the stock class uses.

        Raises:
            InputError: It is incomplete or damaged.
        """


def finite(features: Tensor) -> Tensor:
    """What is made of images, as it is given; answers from other numbers would be empty or at random.

    Raises:
        InputError: Some of it is not finite.
    """
    if not bool(features.isfinite().all()):
        raise InputError(
            "vision model and bridge make numbers that are not finite of a picture: they overflow in this data type (take "
            "bf16 or fp32), or the weights are damaged"
        )
    return features


def part_of(name: str, prefixes: Mapping[str, str]) -> str:
    """The part that a parameter of a container belongs to, by its name; LoRA is told apart by PEFT's own names."""
    if ".lora_" in name:
        return "lora"
    for prefix, part in prefixes.items():
        if name.startswith(prefix):
            return part
    raise ValueError(f"the parameter {name} belongs to none of the container's parts ({', '.join(prefixes)})")
