"""LoRA on the language model only (paper, section 3.2), in PEFT's format."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from mblip.errors import InputError, quoted
from mblip.model_recipe import LARGEST_RANK
from mblip.models.checkpoint import load_tensors, read_json, save_tensors
from mblip.models.quantize import dequantize, is_quantized, linear_layers, plain_layer, quantization_of, unmark
from mblip.models.vision_llm import VisionLLM
from mblip.settings import LARGEST

# Prefix of layer names in PEFT's files.
_PREFIX = "base_model.model."


def target_pattern(language_model: Any) -> str:
    """A regular expression that matches exactly the linear layers, made from the last parts of their names."""
    names = linear_layers(language_model)
    leaves = sorted({name.rpartition(".")[2] for name in names})
    pattern = rf".*\.({'|'.join(map(re.escape, leaves))})"
    matched = [n for n, m in language_model.named_modules() if isinstance(m, nn.Linear) and re.fullmatch(pattern, n)]
    if sorted(matched) != sorted(names):
        raise ValueError(f"the pattern {pattern} does not single out the {len(names)} linear layers")
    return pattern


def add_lora(vlm: VisionLLM, rank: int, alpha: int, dropout: float) -> int:
    """Put fresh LoRA layers on every linear layer of the language model; returns their number.

    Raises:
        InputError: The language model has LoRA layers already.
    """
    # PEFT imports bitsandbytes and takes half as long to import as torch.
    from peft import LoraConfig, inject_adapter_in_model

    if vlm.llm.lora_layers:
        raise InputError("the language model has LoRA layers already; merge them before adding others")
    pattern = target_pattern(vlm.language_model)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, bias="none", target_modules=pattern)
    inject_adapter_in_model(config, vlm.language_model)
    layers = vlm.llm.lora_layers
    for _, layer in layers:
        layer.train(vlm.training)  # a new module is in training mode, with dropout, whatever its parent's mode
        for weight in (*layer.lora_A.parameters(), *layer.lora_B.parameters()):
            # PEFT uses the type of the layer below, and steps of 2e-4 are lost in bf16.
            weight.data = weight.data.float()
    return len(layers)


def merge_lora(vlm: VisionLLM) -> None:
    """Add the LoRA weights to their layers in fp32, and remove the LoRA layers.

    Quantised layers that have LoRA become ordinary ones of the model's type: the stored weight, dequantised, plus the
    LoRA. Quantising the sum again would lose what the LoRA has learnt.
    """
    layers = vlm.llm.lora_layers
    dtype = vlm.llm.dtype
    quantized = quantization_of(vlm.language_model) != "none"
    for name, layer in layers:
        base: Any = layer.get_base_layer()
        delta = layer.get_delta_weight("default").float()
        merged = dequantize(base).float().add_(delta)
        if is_quantized(base):
            base = plain_layer(base, merged.to(dtype))
        else:
            base.weight.data.copy_(merged)
        parent, _, child = name.rpartition(".")
        setattr(vlm.language_model.get_submodule(parent), child, base)
    if hasattr(vlm.language_model, "peft_config"):
        del vlm.language_model.peft_config
    unmark(vlm.language_model)
    if layers and vlm.origin:
        # A run is described by its bases and adapters, merged before quantising. After quantisation, a merged model has
        # no such origin.
        vlm.origin = None if quantized else vlm.origin.merged()


def save_lora(vlm: VisionLLM, folder: Path) -> None:
    """Write the adapter in PEFT's format: ``adapter_config.json`` and ``adapter_model.safetensors``.

    ``PeftModel.from_pretrained(language_model, folder)`` reads it.
    """
    from peft import get_peft_model_state_dict

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    vlm.language_model.peft_config["default"].save_pretrained(folder)
    state = get_peft_model_state_dict(vlm.language_model)
    save_tensors({_PREFIX + name: tensor for name, tensor in state.items()}, folder / "adapter_model.safetensors")


def load_lora(vlm: VisionLLM, folder: Path) -> None:
    """Put a saved adapter on the language model.

    Raises:
        InputError: The adapter is missing or damaged, or was made for another language model.
    """
    from peft import get_peft_model_state_dict

    settings = _read_settings(folder / "adapter_config.json")
    tensors = load_tensors(folder / "adapter_model.safetensors")
    add_lora(vlm, **settings)
    named = dict(vlm.language_model.named_parameters())
    own = {
        _PREFIX + name: named[name.replace(".weight", ".default.weight")]
        for name in get_peft_model_state_dict(vlm.language_model)
    }
    if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in tensors.items()}:
        raise InputError(f"{folder} was made for another language model than the run's")
    for name, tensor in tensors.items():
        own[name].data.copy_(tensor)


def _read_settings(file: Path) -> dict[str, Any]:
    """Rank, alpha and dropout of an adapter."""
    config = read_json(file)
    values: list[Any] = [config.get(name) for name in ("r", "lora_alpha", "lora_dropout")]
    numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in values]
    rank, alpha, dropout = values
    fits = {
        "r": numbers[0] and isinstance(rank, int) and 0 < rank <= LARGEST_RANK,
        "lora_alpha": numbers[1] and 0 < alpha <= LARGEST,
        "lora_dropout": numbers[2] and 0 <= dropout < 1,
    }
    if wrong := [name for name, fit in fits.items() if not fit]:
        raise InputError(f"{file} is damaged ({wrong[0]} is {quoted(config.get(wrong[0]))}); copy the run again")
    return {"rank": rank, "alpha": alpha, "dropout": dropout}
