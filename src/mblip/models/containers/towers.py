"""Vision towers: find a checkpoint's image encoder in its configuration, and load its weights without the rest."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, Blip2Config, ViTConfig
from transformers.initialization import no_init_weights

from mblip.errors import InputError
from mblip.models.checkpoint import Checkpoint, read_json
from mblip.models.reading import check_complete, from_pretrained, read_config, sees_images

# Prefixes of the tower in the files of transformers' LLaVA family, current and older.
TOWER_PREFIXES = ("model.vision_tower.", "vision_tower.")
# Prefix of the image half of a dual encoder (CLIP, SigLIP).
_HALF = "vision_model."
# Parts of a tower that patch states do not pass through.
_UNUSED = ("head.", "pooler.", "vision_model.head.")
# The names of the same weights in BLIP-2 and in transformers' ViT; BLIP-2 holds queries, keys and values in one matrix.
_OF_BLIP2 = {
    "embeddings.class_embedding": "embeddings.cls_token",
    "embeddings.position_embedding": "embeddings.position_embeddings",
    "embeddings.patch_embedding": "embeddings.patch_embeddings.projection",
    "encoder.layers.": "encoder.layer.",
    "self_attn.projection": "attention.output.dense",
    "layer_norm1": "layernorm_before",
    "layer_norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "post_layernorm": "layernorm",
}
_QKV = "self_attn.qkv"


@dataclass(frozen=True)
class TowerFacts:
    """A tower's configuration, without its weights.

    Attributes:
        config: Configuration of the tower.
        family: The LLaVA-family configuration around it; None if the checkpoint is a tower alone.
        layer: The layer whose states its checkpoint's own model reads, where neither says so in its configuration.
    """

    config: Any
    family: Any | None
    layer: int | None = None


def read_tower(folder: Path) -> TowerFacts:
    """The image encoder in a checkpoint: a tower alone, one half of a dual encoder, or the tower of a LLaVA kind.

    Raises:
        InputError: The checkpoint has no image encoder that transformers' LLaVA can hold.
    """
    kind = read_json(folder / "config.json").get("model_type")
    config = read_config(folder)
    return tower_of(config, f"{folder} is a {kind!r} checkpoint")


def tower_of(config: Any, what: str) -> TowerFacts:
    """Like :func:`read_tower`, from a configuration; ``what`` begins the error message."""
    if isinstance(config, Blip2Config):
        # Its ViT lacks the last layer already, so the Q-Former reads the last that is left.
        return TowerFacts(vit_of_blip2(config.vision_config), None, -1)
    is_family = hasattr(config, "vision_feature_layer") or hasattr(config, "vision_feature_layers")
    if not is_family and sees_images(config.model_type):
        raise InputError(f"{what}, a vision-language model, but not BLIP-2 or LLaVA: only mblip eval can use it")
    inner = config if getattr(config, "vision_config", None) is None else config.vision_config
    if type(inner) not in AutoModel._model_mapping or not (
        hasattr(inner, "patch_size") and hasattr(inner, "num_channels")
    ):
        hint = "; a language model goes under llm=" if config.get_text_config() is config else ""
        raise InputError(
            f"{what}, not BLIP-2, LLaVA or an image encoder of patches that transformers' LLaVA can hold{hint}"
        )
    if getattr(inner, "mask_ratio", None) is not None:
        raise InputError(
            f"{what}, an image encoder that leaves out or shuffles patches at random in every pass (mask_ratio): use a ViT "
            "without it"
        )
    return TowerFacts(inner, config if is_family else None)


def load_tower(facts: TowerFacts, weights: Checkpoint, dtype: torch.dtype) -> Any:
    """Load the tower with its weights to the CPU; nothing else of the checkpoint is read.

    Raises:
        InputError: A weight is missing or of another size.
    """
    state = tower_state(weights)
    kind = AutoModel._model_mapping[type(facts.config)]
    tower, report = from_pretrained(kind, weights.folder, state, config=facts.config, dtype=dtype)
    report["missing_keys"] = {name for name in report["missing_keys"] if not name.startswith(_UNUSED)}
    check_complete(tower, report, weights.folder)
    return tower


def vit_of_blip2(vision: Any) -> ViTConfig:
    """BLIP-2's vision model as transformers' ViT, which has the same layers and which LLaVA can hold."""
    return ViTConfig(
        hidden_size=vision.hidden_size, intermediate_size=vision.intermediate_size, qkv_bias=vision.qkv_bias,
        num_hidden_layers=vision.num_hidden_layers, num_attention_heads=vision.num_attention_heads,
        image_size=vision.image_size, patch_size=vision.patch_size, hidden_act=vision.hidden_act,
        layer_norm_eps=vision.layer_norm_eps, attention_probs_dropout_prob=vision.attention_dropout, hidden_dropout_prob=0.0,
    )  # fmt: skip


def _as_vit(half: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of BLIP-2's vision model by the names of a ViT's checkpoint."""
    state: dict[str, torch.Tensor] = {}
    for name, value in half.items():
        for old, new in _OF_BLIP2.items():
            name = name.replace(old, new)
        if _QKV in name:
            for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                state[name.replace(_QKV, f"attention.attention.{part}")] = third.clone()
        else:
            state[name] = value
    return state


def tower_state(weights: Checkpoint) -> dict[str, torch.Tensor]:
    """The tower's tensors, under the names that a checkpoint of the tower alone would have."""
    for prefix in TOWER_PREFIXES:
        if found := weights.read(prefix):
            return found
    if half := weights.read(_HALF):
        if any(_QKV in name for name in half):
            return _as_vit(half)
        return {_HALF + name: value for name, value in half.items()}
    return weights.read("")


def empty_tower(config: Any, dtype: torch.dtype) -> Any:
    """A tower with uninitialised weights, on the device of the context."""
    with no_init_weights():
        return AutoModel.from_config(config, dtype=dtype)


def side_of(config: Any) -> int:
    """Height and width of a tower's input images, in pixels.

    Raises:
        InputError: The configuration has no image size, or one that is not square.
    """
    return _square(config, "image_size")


def patch_of(config: Any) -> int:
    """Height and width of a tower's patches, in pixels.

    Raises:
        InputError: The configuration has no patch size, or one that is not square.
    """
    return _square(config, "patch_size")


def _square(config: Any, name: str) -> int:
    size = getattr(config, name, None)
    if size is None:
        raise InputError(
            f"the configuration of the {config.model_type} vision model has no {name}; copy the checkpoint again"
        )
    sides = {size} if isinstance(size, int) else set(size or ())
    if len(sides) != 1:
        raise InputError(f"a {config.model_type} vision model with {name} {size} is not supported: it must be square")
    return int(sides.pop())


def patch_states(config: Any, side: int) -> int:
    """Number of states that a tower gives for an image of this side, class and register tokens included.

    A tower of one layer is run to find out: without values, or with random ones where its code looks at them.

    Raises:
        InputError: The tower needs more than images, or gives no states of patches.
    """
    shallow = copy.deepcopy(config)
    if hasattr(shallow, "num_hidden_layers"):
        shallow.num_hidden_layers = 1
    images = 2
    try:
        try:
            shape = _shape_of_states(shallow, images, side, "meta")
        except RuntimeError:
            shape = _shape_of_states(shallow, images, side, "cpu")
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, ArithmeticError) as error:
        reason = " ".join(str(error).split())[:160]
        own = getattr(config, "image_size", side)
        if own != side:
            raise InputError(
                f"the image processor makes images of {side} x {side} pixels, but the {config.model_type} vision model "
                f"takes those of {own} ({reason}): set the processor's size and crop_size to {own}"
            ) from error
        raise InputError(
            f"transformers' LLaVA gives a vision model images only, which a {config.model_type} model of {side} x "
            f"{side} "
            f"pixels does not accept ({reason}): use SigLIP, SigLIP2 of a fixed size, CLIP, DINOv2 or another ViT"
        ) from error
    if len(shape) != 3 or shape[0] != images or shape[2] != config.hidden_size:
        raise InputError(
            f"a {config.model_type} vision model gives states of shape {list(shape)} for {images} images, not [images, "
            f"patches, {config.hidden_size}]: transformers' LLaVA cannot read them"
        )
    return int(shape[1])


def _shape_of_states(config: Any, images: int, side: int, device: str) -> tuple[int, ...]:
    with torch.device(device), torch.no_grad(), torch.random.fork_rng(devices=[]):
        tower = AutoModel.from_config(config)
        made = tower(torch.zeros(images, 3, side, side), output_hidden_states=True, return_dict=True)
    return tuple(made.hidden_states[-1].shape)


def check_layers(layers: Any, config: Any) -> None:
    """Check that a tower has the layers that features are read from.

    Raises:
        InputError: It lacks one.
    """
    named = [layers] if isinstance(layers, int) else list(layers)
    depth = getattr(config, "num_hidden_layers", None)
    if not named or (depth is not None and any(not -depth - 1 <= layer <= depth for layer in named)):
        raise InputError(
            f"vision_feature_layer {layers} is not among the {depth} layers of the {config.model_type} vision model"
        )
