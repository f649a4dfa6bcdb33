"""The model in a training recipe: its parts, their sources, and how each is trained."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from mblip.settings import Identity, Section

Mode = Literal["frozen", "lora", "full"]
LARGEST_RANK = 65_536
"""Maximum rank of LoRA; wider than any layer."""


class ModelSection(Section):
    """The sources of the model's parts.

    Each of ``vision`` (a BLIP-2, a vision tower, or a checkpoint of the LLaVA family) and ``llm`` is a Hub id, a directory or
    ``nano:NAME`` for a checkpoint shipped with the package; ``run`` continues from a run directory instead.
    """

    identity: ClassVar[Identity] = Identity.of(
        "vision llm run bridge vision_feature_layer vision_feature_select_strategy qformer projection fit_words quantization "
        "merge answer_separator start_token chat"
    )

    vision: str = ""
    llm: str = ""
    run: str = ""
    bridge: Literal["qformer", "mlp"] | None = Field(
        default=None, description="between vision encoder and LLM; by default a BLIP-2's Q-Former, otherwise an MLP"
    )
    vision_feature_layer: int | tuple[int, ...] | None = Field(
        default=None,
        description="with an MLP: the layer or layers of the vision encoder that it reads; by default the checkpoint's setting",
    )
    vision_feature_select_strategy: Literal["default", "full"] | None = Field(
        default=None,
        description="with an MLP: default drops the first state, full keeps it; if not set, the checkpoint's setting",
    )
    qformer: Literal["keep", "random"] = "keep"
    projection: Literal["keep", "random"] = "random"
    fit_words: tuple[str, ...] = Field(
        default=(),
        description="tasks whose answers describe the queries token by token; the projection is fitted to them",
    )
    quantization: Literal["none", "int8", "nf4", "auto"] = Field(
        "none", description="auto: int8 on a GPU, none on a CPU"
    )
    merge: bool = Field(default=True, description="with run: merge its LoRA into the LLM and start a fresh one")
    answer_separator: Literal["", " "] | None = Field(
        default=None,
        description="text between prompt and answer of a decoder-only LLM: empty, as in the original's training, "
        "or a space; by default the one that the model was trained with, and a space for a new model",
    )
    start_token: Literal["first", "after_images"] | None = Field(
        default=None,
        description="with a Q-Former and a decoder-only LLM: the place of the tokeniser's start token; by default as the "
        "model was trained, and for a new model after the images, as in BLIP-2",
    )
    chat: bool | None = Field(
        default=None,
        description="with an MLP: use the LLM's chat template for prompts; by default as the model was trained, and for a new "
        "one if it has a template",
    )

    @property
    def eye_settings(self) -> dict[str, Any]:
        """The settings of the vision encoder and the bridge, as arguments of ``build_model``."""
        layer = self.vision_feature_layer
        return {
            "bridge": self.bridge,
            "vision_feature_layer": list(layer) if isinstance(layer, tuple) else layer,
            "vision_feature_select_strategy": self.vision_feature_select_strategy,
        }


class PartsSection(Section):
    """How each part of the model is trained."""

    identity: ClassVar[Identity] = Identity.of("vision qformer projection llm")

    vision: Literal["frozen", "full"] = "frozen"
    qformer: Literal["frozen", "full"] = "full"
    projection: Literal["frozen", "full"] = "full"
    llm: Mode = "lora"


class LoraSection(Section):
    """LoRA on every linear layer of the language model (paper, section 3.2)."""

    identity: ClassVar[Identity] = Identity.of("rank alpha dropout")

    rank: int = Field(default=8, gt=0, le=LARGEST_RANK)
    alpha: int = Field(default=16, gt=0)
    dropout: float = Field(default=0.05, ge=0, lt=1)
