"""LoRA on the language model alone (paper, section 3.2), in PEFT's format."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from mblip.errors import InputError
from mblip.models.checkpoint import read_json
from mblip.models.mblip import VisionLLM


def linear_layers(language_model: Any) -> list[str]:
    """Names of the linear layers inside a language model, the output head left out."""
    head = language_model.get_output_embeddings()
    return [
        name
        for name, module in language_model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and ".lora_" not in name
    ]


def target_pattern(language_model: Any) -> str:
    """A regular expression that matches exactly the linear layers, found from their last names."""
    names = linear_layers(language_model)
    leaves = sorted({name.rpartition(".")[2] for name in names})
    pattern = rf".*\.({'|'.join(map(re.escape, leaves))})"
    matched = [n for n, m in language_model.named_modules() if isinstance(m, nn.Linear) and re.fullmatch(pattern, n)]
    if sorted(matched) != sorted(names):
        raise ValueError(f"the pattern {pattern} does not single out the {len(names)} linear layers")
    return pattern


def lora_layers(vlm: VisionLLM) -> list[tuple[str, LoraLayer]]:
    """The adapted layers with their names in the language model."""
    return [(name, module) for name, module in vlm.language_model.named_modules() if isinstance(module, LoraLayer)]


def add_lora(vlm: VisionLLM, rank: int, alpha: int, dropout: float) -> int:
    """Put fresh LoRA layers on every linear layer of the language model; how many there are."""
    pattern = target_pattern(vlm.language_model)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, bias="none", target_modules=pattern)
    inject_adapter_in_model(config, vlm.language_model)
    return len(lora_layers(vlm))


def merge_lora(vlm: VisionLLM) -> None:
    """Add the LoRA weights to the layers they stand on and take the LoRA away."""
    for name, layer in lora_layers(vlm):
        layer.merge(safe_merge=True)
        parent = vlm.language_model.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], layer.get_base_layer())
    if hasattr(vlm.language_model, "peft_config"):
        del vlm.language_model.peft_config


def save_lora(vlm: VisionLLM, folder: Path) -> None:
    """Write the adapter in PEFT's format: ``adapter_config.json`` and ``adapter_model.safetensors``."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    vlm.language_model.peft_config["default"].save_pretrained(folder)
    state = get_peft_model_state_dict(vlm.language_model)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def load_lora(vlm: VisionLLM, folder: Path) -> None:
    """Put a saved adapter on the language model.

    Raises:
        InputError: It is missing or damaged, or was made for another language model.
    """
    config = read_json(folder / "adapter_config.json")
    try:
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder} is not a whole PEFT adapter ({error}); copy the run again") from error
    add_lora(vlm, config["r"], config["lora_alpha"], config["lora_dropout"])
    named = dict(vlm.language_model.named_parameters())
    own = {name: name.replace(".weight", ".default.weight") for name in get_peft_model_state_dict(vlm.language_model)}
    if set(own) != set(tensors):
        raise InputError(f"{folder} was made for another language model than the run's")
    for name, tensor in tensors.items():
        named[own[name]].data.copy_(tensor)
