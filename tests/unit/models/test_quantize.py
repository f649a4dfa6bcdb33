"""LLM.int8 and NF4 of the language model alone: what stays, what it costs, training on top, the way back."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import checkpoints
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from mblip.config import PartsSection
from mblip.errors import InputError
from mblip.models import (
    VisionLLM,
    add_lora,
    build_model,
    count_parameters,
    load_vision_llm,
    merge_lora,
    save_run,
    set_trainable,
)
from mblip.models.export import export, export_model, probe
from mblip.models.quantize import dequantize, is_quantized, quantization_of

PICTURES = [np.random.default_rng(i).integers(0, 255, (40, 30, 3), dtype=np.uint8) for i in range(3)]
LAYERS = {"int8": "Linear8bitLt", "nf4": "Linear4bit"}
# Relative error of the logits against bf16: what was measured (docs/log.md), with room for other machines. Random mT5
# weights, whose attention is not scaled, multiply every rounding; nano is the shipped model, which has learnt.
ERROR = {
    ("nano", "int8"): 0.1, ("nano", "nf4"): 0.45, ("bloom", "int8"): 0.06, ("bloom", "nf4"): 0.8, ("mt5", "int8"): 0.3,
    ("mt5", "nf4"): 1.4,
}  # fmt: skip
KINDS = [(family, kind) for family in ("mt5", "bloom") for kind in ("int8", "nf4")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        family: checkpoints.published(tmp_path_factory.mktemp(family) / "model", family) for family in ("mt5", "bloom")
    }


def batch(vlm: VisionLLM) -> dict[str, Any]:
    prompts, answers = ["Caption in German:", "what is", "how many"], ["ein Hund", "the red house", "two"]
    made: dict[str, Any] = vlm.layout.pairs(prompts, answers, [1, 1, 1])
    return made | {"pixel_values": vlm.pixels(PICTURES), "image_index": torch.tensor([[0], [1], [2]])}


def stored(vlm: VisionLLM) -> dict[str, Tensor]:
    """A copy of all that is not LoRA, as bytes lie in memory."""
    found = {name: value.detach().clone() for name, value in vlm.model.named_parameters() if ".lora_" not in name}
    for name, module in vlm.model.named_modules():
        if is_quantized(module):
            found[f"{name} dequantised"] = dequantize(module).clone()
    return found


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_the_language_models_layers_and_no_other(folders: dict[str, Path], family: str, kind: Any) -> None:
    vlm = load_vision_llm(folders[family], quantization=kind, dtype="bf16")
    head = vlm.language_model.get_output_embeddings()
    for name, module in vlm.model.named_modules():
        if isinstance(module, nn.Linear):
            inside = name.startswith("language_model.") and module is not head
            expected = LAYERS[kind] if inside else "OutputHead" if module is head else "Linear"
            assert type(module).__name__ == expected, name
    assert head.weight.dtype is torch.bfloat16
    assert vlm.model.qformer.dtype is vlm.model.language_projection.weight.dtype is torch.float32
    assert quantization_of(vlm.language_model) == kind
    assert count_parameters(vlm) == count_parameters(load_vision_llm(folders[family]))


@pytest.mark.parametrize(("family", "kind"), list(ERROR))
def test_logits_stay_near(folders: dict[str, Path], family: str, kind: Any) -> None:
    def load(quantization: Any = None) -> VisionLLM:
        if family == "nano":
            return build_model("nano:nano-blip2-en", "nano:nano-mlm", dtype="bf16", quantization=quantization)
        return load_vision_llm(folders[family], dtype="bf16", quantization=quantization)

    whole, less = load(), load(kind)
    wanted = whole.logits(batch(whole)).float()
    error = float((less.logits(batch(less)).float() - wanted).norm() / wanted.norm())
    assert 0 < error < ERROR[family, kind]


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_lora_learns_on_top_and_nothing_else_moves(folders: dict[str, Path], family: str, kind: Any) -> None:
    vlm = load_vision_llm(folders[family], quantization=kind, dtype="bf16")
    add_lora(vlm, 4, 8, 0.0)
    set_trainable(vlm, PartsSection(qformer="frozen", projection="frozen"))
    learning = {name: value for name, value in vlm.model.named_parameters() if value.requires_grad}
    assert all(".lora_" in name and value.dtype is torch.float32 for name, value in learning.items())
    before = stored(vlm)
    optimizer = torch.optim.AdamW(learning.values(), lr=3e-3)
    made = batch(vlm)
    seen = []
    for step in range(20):
        loss = vlm(made)["loss"]
        loss.backward()
        if step:  # B starts at zero, so that A has no gradient in the first step
            assert [name for name, value in learning.items() if not value.grad.any()] == []
        optimizer.step()
        optimizer.zero_grad()
        seen.append(float(loss.detach()))
        if step == 5:  # as validation does; what it may repack must not stop the learning
            vlm.generate(PICTURES, ["Caption"] * 3, max_new_tokens=2)
    assert seen[-1] < 0.7 * seen[0], seen
    after = stored(vlm)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value.view(torch.uint8), after[name].view(torch.uint8)), name


def test_full_training_of_a_quantised_language_model_is_refused(folders: dict[str, Path]) -> None:
    for kind in ("int8", "nf4"):
        vlm = load_vision_llm(folders["mt5"], quantization=kind)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="is quantised"):
            set_trainable(vlm, PartsSection(llm="full"))


def test_an_unknown_kind_is_named(folders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"quantization 'fp4' is unknown; use none, int8, nf4"):
        load_vision_llm(folders["mt5"], quantization="fp4")  # type: ignore[arg-type]


def test_a_missing_bitsandbytes_is_named(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "bitsandbytes":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"needs bitsandbytes: pip install 'mblip\[train\]'"):
        load_vision_llm(folders["mt5"], quantization="int8")


def randomize(vlm: VisionLLM) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, parameter in vlm.language_model.named_parameters():
        if ".lora_" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_merging_into_quantised_layers_loses_little(folders: dict[str, Path], family: str, kind: Any) -> None:
    vlm = load_vision_llm(folders[family], quantization=kind, dtype="fp32")
    add_lora(vlm, 4, 8, 0.0)
    randomize(vlm)
    adapted = vlm.logits(batch(vlm))
    merge_lora(vlm)
    assert quantization_of(vlm.language_model) == "none"
    merged = vlm.logits(batch(vlm))
    # LLM.int8 also rounds the activations, which the merged model no longer does.
    assert float((merged - adapted).norm() / adapted.norm()) < (0.15 if kind == "int8" else 1e-4)
    assert vlm.origin is None, "bases and adapters alone do not tell this model"


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_a_quantised_run_is_exported_with_its_error(
    folders: dict[str, Path], family: str, kind: Any, tmp_path: Path
) -> None:
    trained = load_vision_llm(folders[family], quantization=kind, dtype="fp32")
    add_lora(trained, 4, 8, 0.0)
    randomize(trained)
    save_run(trained, tmp_path / "run")
    reference = probe(trained)

    def error(folder: Path) -> float:
        exported = load_vision_llm(folder, dtype="fp32")
        AutoModelForImageTextToText.from_pretrained(folder)
        assert f"{told[folder.name]:.2e}" in (folder / "README.md").read_text()
        return float((probe(exported) - reference).norm() / reference.norm())

    told: dict[str, Any] = {}
    told["base"] = export_model(tmp_path / "run", tmp_path / "base")
    told["same"] = export_model(tmp_path / "run", tmp_path / "same", quantization=kind)
    told["direct"] = export(trained, tmp_path / "direct")
    assert error(tmp_path / "base") == pytest.approx(told["base"], rel=0.05)
    assert error(tmp_path / "same") == pytest.approx(told["same"], rel=0.05, abs=1e-5)
    assert error(tmp_path / "direct") == pytest.approx(told["direct"], rel=0.05, abs=1e-5)
    assert told["same"] < told["base"]
    assert "dequantised" in (tmp_path / "same" / "README.md").read_text()
    assert "dequantised" not in (tmp_path / "base" / "README.md").read_text()
    head = load_vision_llm(folders[family]).language_model.get_output_embeddings().weight
    for name in told:
        assert torch.equal(load_vision_llm(tmp_path / name).language_model.get_output_embeddings().weight, head)
