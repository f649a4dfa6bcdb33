"""LoRA on the language model alone, PEFT's format, merging, runs."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from tests import checkpoints
from torch import nn

from mblip.config import PartsSection
from mblip.errors import InputError
from mblip.models import VisionLLM, add_lora, count_parameters, load_vision_llm, merge_lora, save_run, set_trainable
from mblip.models.lora import target_pattern

PICTURES = [np.random.default_rng(i).integers(0, 255, (40, 30, 3), dtype=np.uint8) for i in range(2)]
# Linear layers of two blocks: attention and feed-forward of an encoder-decoder (4 + 3 and 8 + 3 a block), and so on.
LAYERS = {"mt5": 36, "t5": 36, "umt5": 36, "bloom": 8, "opt": 12, "llama": 14, "mistral": 14, "qwen2": 14, "qwen3": 14,
          "gemma": 14, "gemma2": 14, "gemma3": 14, "cohere": 14}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = checkpoints.blip2(tmp_path_factory.mktemp(family) / "model", family)
        return made[family]

    return folder


def loss(vlm: VisionLLM) -> torch.Tensor:
    """Of a batch of two pictures."""
    batch: dict[str, Any] = vlm.layout.pairs(["Caption in German:", "what is"], ["ein Hund", "the red house"], [1, 1])
    batch |= {"pixel_values": vlm.pixels(PICTURES), "image_index": torch.tensor([[0], [1]])}
    total: torch.Tensor = vlm(batch)["loss"]
    return total


def randomize(vlm: VisionLLM, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in vlm.language_model.named_parameters():
        if ".lora_" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


@pytest.mark.parametrize("family", list(LAYERS))
def test_every_linear_layer_of_the_language_model_and_no_other(folders: Any, family: str) -> None:
    vlm = load_vision_llm(folders(family), dtype="fp32")
    head = vlm.language_model.get_output_embeddings()
    linear = {name for name, module in vlm.language_model.named_modules() if isinstance(module, nn.Linear)}
    linear -= {name for name, module in vlm.language_model.named_modules() if module is head}
    pattern = target_pattern(vlm.language_model)
    before = loss(vlm)
    assert add_lora(vlm, 2, 4, 0.0) == LAYERS[family] == len(linear)
    assert {name for name, _ in vlm.llm.lora_layers} == linear
    assert [name for name, _ in vlm.model.named_modules() if ".lora_A" in name and "language_model" not in name] == []
    assert {name for name, _ in vlm.language_model.named_modules() if re.fullmatch(pattern, name)} == linear
    torch.testing.assert_close(loss(vlm), before, rtol=1e-6, atol=1e-6)  # fresh adapters change nothing


def test_adapters_are_fp32_on_a_bf16_language_model(folders: Any) -> None:
    vlm = load_vision_llm(folders("mt5"), dtype="bf16")
    add_lora(vlm, 2, 4, 0.0)
    kinds = {parameter.dtype for name, parameter in vlm.language_model.named_parameters() if ".lora_" in name}
    assert kinds == {torch.float32}
    assert vlm.language_model.shared.weight.dtype is torch.bfloat16
    assert torch.isfinite(loss(vlm))


def test_a_second_set_of_adapters_is_refused(folders: Any) -> None:
    vlm = load_vision_llm(folders("mt5"))
    add_lora(vlm, 2, 4, 0.0)
    with pytest.raises(InputError, match="already"):
        add_lora(vlm, 2, 4, 0.0)


@pytest.mark.parametrize("family", ["mt5", "bloom", "llama"])
def test_merging_changes_nothing_but_the_layers(folders: Any, family: str) -> None:
    vlm = load_vision_llm(folders(family), dtype="fp32")
    names = set(vlm.model.state_dict())
    plain = loss(vlm)
    add_lora(vlm, 2, 4, 0.5)
    randomize(vlm)
    adapted = loss(vlm)
    assert abs(adapted - plain) > 1e-3
    merge_lora(vlm)
    torch.testing.assert_close(loss(vlm), adapted, rtol=1e-5, atol=1e-5)
    assert set(vlm.model.state_dict()) == names
    assert not vlm.llm.lora_layers
    assert add_lora(vlm, 2, 4, 0.0) == LAYERS[family]


@pytest.mark.parametrize("family", ["mt5", "bloom"])
def test_peft_reads_the_adapter(folders: Any, family: str, tmp_path: Path) -> None:
    vlm = load_vision_llm(folders(family), dtype="fp32")
    add_lora(vlm, 2, 4, 0.05)
    randomize(vlm)
    save_run(vlm, tmp_path / "run")
    other = load_vision_llm(folders(family), dtype="fp32")
    other.model.language_model = PeftModel.from_pretrained(other.language_model, tmp_path / "run" / "adapter")
    ids = vlm.layout.prompts(["Caption in German:"], [0])
    if vlm.is_encoder_decoder:
        ids["decoder_input_ids"] = torch.tensor([[0, 5]])
    with torch.no_grad():
        torch.testing.assert_close(other.language_model(**ids).logits, vlm.language_model(**ids).logits)


def test_parts_learn_as_the_recipe_says(folders: Any) -> None:
    vlm = load_vision_llm(folders("mt5"))
    with pytest.raises(InputError, match="no adapters"):
        set_trainable(vlm, PartsSection())
    add_lora(vlm, 2, 4, 0.0)
    set_trainable(vlm, PartsSection())
    every, learning = count_parameters(vlm), count_parameters(vlm, trainable=True)
    assert {part for part, count in learning.items() if count} == {"queries", "qformer", "projection", "lora"}
    assert all(learning[part] in (0, every[part]) for part in every)
    set_trainable(vlm, PartsSection(vision="full", qformer="frozen", projection="frozen", llm="full"))
    learning = count_parameters(vlm, trainable=True)
    assert {part for part, count in learning.items() if count} == {"vision", "llm"}
    set_trainable(vlm, PartsSection(qformer="frozen", llm="frozen"))
    assert [part for part, count in count_parameters(vlm, trainable=True).items() if count] == ["projection"]


def test_a_run_on_a_run_is_told_by_its_adapters(folders: Any, tmp_path: Path) -> None:
    vlm = load_vision_llm(folders("mt5"), dtype="fp32")
    add_lora(vlm, 2, 4, 0.0)
    randomize(vlm, 1)
    with torch.no_grad():
        vlm.model.query_tokens += 1
    save_run(vlm, tmp_path / "first")
    first = load_vision_llm(tmp_path / "first", dtype="fp32")
    torch.testing.assert_close(loss(first), loss(vlm), rtol=0, atol=0)
    merge_lora(first)
    torch.testing.assert_close(
        loss(load_vision_llm(tmp_path / "first", dtype="fp32", merge=True)), loss(first), rtol=0, atol=0
    )
    add_lora(first, 3, 4, 0.0)
    randomize(first, 2)
    save_run(first, tmp_path / "second")
    (tmp_path / "first").rename(tmp_path / "gone")  # the second run has all it needs
    second = load_vision_llm(tmp_path / "second", dtype="fp32")
    torch.testing.assert_close(loss(second), loss(first), rtol=0, atol=0)
    assert json.loads((tmp_path / "second" / "mblip.json").read_text())["adapters"] == ["adapters/0", "adapter"]
    # An adapter that lies nowhere cannot be told.
    merge_lora(vlm)
    with pytest.raises(InputError, match="can be saved as a run"):
        save_run(vlm, tmp_path / "third")


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("mblip.json", lambda text: text.replace('"full"', '"fool"'), "damaged.*full"),
        ("mblip.json", lambda text: text.replace('"format": 1', '"format": 9'), "format 9"),
        ("mblip.json", lambda text: text[: len(text) // 2], "damaged"),
        ("adapter/adapter_config.json", lambda text: text.replace('"r": 2', '"r": 3'), "another language model"),
        ("adapter/adapter_config.json", None, "adapter_config.json cannot be read"),
        ("adapter/adapter_model.safetensors", None, "is missing or damaged"),
        ("bridge.safetensors", None, "bridge.safetensors is missing"),
    ],
)
def test_a_damaged_run_is_named(folders: Any, tmp_path: Path, file: str, damage: Any, message: str) -> None:
    vlm = load_vision_llm(folders("mt5"))
    add_lora(vlm, 2, 4, 0.0)
    save_run(vlm, tmp_path / "run")
    path = tmp_path / "run" / file
    if damage is None:
        path.unlink()
    else:
        path.write_text(damage(path.read_text()))
    with pytest.raises(InputError, match=message):
        load_vision_llm(tmp_path / "run")


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("mblip.json", {"bases": {}}), ("mblip.json", {"bases": {"foo": {}}}), ("mblip.json", {"bases": {"model": None}}),
        ("mblip.json", {"adapters": []}), ("mblip.json", {"adapters": "adapter"}), ("mblip.json", {"full": None}),
        ("mblip.json", {"eyes": {"foo": 1}}), ("mblip.json", {"eyes": [1]}), ("mblip.json", {"start_token": 5}),
        ("mblip.json", {"trained_languages": 5}), ("mblip.json", {"trained_prompts": []}), ("mblip.json", {"chat": "x"}),
        ("adapter/adapter_config.json", {"r": None}), ("adapter/adapter_config.json", {"r": 0}),
        ("adapter/adapter_config.json", {"r": True}), ("adapter/adapter_config.json", {"r": 2.0}),
        ("adapter/adapter_config.json", {"r": 10**30}), ("adapter/adapter_config.json", {"lora_alpha": "x"}),
        ("adapter/adapter_config.json", {"lora_alpha": math.nan}), ("adapter/adapter_config.json", {"lora_dropout": 5}),
        ("adapter/adapter_config.json", {"lora_dropout": [0]}), ("adapter/adapter_config.json", {"lora_alpha": 10**400}),
    ],
)  # fmt: skip
def test_settings_of_a_run_that_cannot_be_are_named(
    folders: Any, tmp_path: Path, file: str, settings: dict[str, Any]
) -> None:
    vlm = load_vision_llm(folders("mt5"))
    add_lora(vlm, 2, 4, 0.0)
    save_run(vlm, tmp_path / "run")
    path = tmp_path / "run" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    with pytest.raises(InputError, match=rf"^{path} is damaged \(.*\); copy the run again$"):
        load_vision_llm(tmp_path / "run")


@pytest.mark.parametrize(
    "file",
    ["adapter/adapter_model.safetensors", "adapter/adapter_config.json", "bridge.safetensors", "mblip.json",
     "model.safetensors", "config.json"],
)  # fmt: skip
def test_files_without_the_right_to_read_are_not_called_missing(
    tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, base = tmp_path / "run", checkpoints.blip2(tmp_path / "base", "mt5")
    vlm = load_vision_llm(base)
    add_lora(vlm, 2, 4, 0.0)
    save_run(vlm, run)
    refused = next(path for path in (run / file, base / file) if path.exists())
    opened = Path.open

    def refuse(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path == refused:  # the tests may run as root, whom permissions do not stop
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(
        InputError, match=f"cannot read .*{file}: Permission denied; give yourself the right to read it"
    ):
        load_vision_llm(run if refused.is_relative_to(run) else base)


def test_a_run_whose_base_changed_or_went_is_refused(tmp_path: Path) -> None:
    base = checkpoints.blip2(tmp_path / "base", "mt5")
    save_run(load_vision_llm(base), tmp_path / "run")
    checkpoints.blip2(tmp_path / "base", "mt5", seed=1)
    with pytest.raises(InputError, match="another model checkpoint"):
        load_vision_llm(tmp_path / "run")
    base.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="which is missing"):
        load_vision_llm(tmp_path / "run")
    # Shipped with another version of this package, which a person cannot bring back.
    file = tmp_path / "run" / "mblip.json"
    text = file.read_text()
    for name in ("nano-blip2-en", "nano-of-old"):
        file.write_text(text.replace(str(base), f"nano:{name}"))
        with pytest.raises(InputError, match=f"nano:{name}.*train it again"):
            load_vision_llm(tmp_path / "run")
