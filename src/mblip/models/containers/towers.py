"""Vision towers: find a checkpoint's image encoder in its configuration, and load its weights without the rest."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel
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


@dataclass(frozen=True)
class TowerFacts:
    """A tower's configuration, without its weights.

    Attributes:
        config: Configuration of the tower.
        family: The LLaVA-family configuration around it; None if the checkpoint is a tower alone.
    """

    config: Any
    family: Any | None


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
    check_complete(report, weights.folder)
    return tower


def tower_state(weights: Checkpoint) -> dict[str, torch.Tensor]:
    """The tower's tensors, under the names that a checkpoint of the tower alone would have."""
    for prefix in TOWER_PREFIXES:
        if found := weights.read(prefix):
            return found
    if half := weights.read(_HALF):
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
    size = getattr(config, "image_size", None)
    sides = {size} if isinstance(size, int) else set(size or ())
    if len(sides) != 1:
        raise InputError(
            f"a {config.model_type} vision model with images of size {size} is not supported: they must be square"
        )
    return int(sides.pop())


def patch_states(config: Any, side: int) -> int:
    """Number of states that a tower gives for an image of this side, class and register tokens included.

    A tower of one layer without values is run to find out.

    Raises:
        InputError: The tower needs more than images, or gives no states of patches.
    """
    shallow = copy.deepcopy(config)
    if hasattr(shallow, "num_hidden_layers"):
        shallow.num_hidden_layers = 1
    images = 2
    try:
        with torch.device("meta"), torch.no_grad():
            tower = AutoModel.from_config(shallow)
            made = tower(torch.empty(images, 3, side, side), output_hidden_states=True, return_dict=True)
        shape = tuple(made.hidden_states[-1].shape)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())[:160]
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
