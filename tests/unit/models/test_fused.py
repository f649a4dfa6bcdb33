"""Layers in fewer passes: the loss and every gradient are those of PEFT's and transformers' own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import checkpoints
from torch import Tensor

from mblip.config import PartsSection
from mblip.models import VisionLLM, add_lora, load_vision_llm, merge_lora, set_trainable
from mblip.models.quantize import dequantize
from mblip.models.speedups import fused_layers, speed_up

PICTURES = [np.random.default_rng(i).integers(0, 255, (40, 30, 3), dtype=np.uint8) for i in range(2)]
# Fused: LoRA layers (see test_lora), and of mT5 the activations.
FUSED = {"mt5": 40, "bloom": 8, "qwen3": 14}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: checkpoints.blip2(tmp_path_factory.mktemp(family) / "model", family) for family in FUSED}


def prepared(folder: Path, quantization: Any, dtype: str, dropout: float = 0.0) -> VisionLLM:
    vlm = load_vision_llm(folder, dtype=dtype, quantization=quantization)
    add_lora(vlm, 4, 16, dropout)
    set_trainable(vlm, PartsSection())
    generator = torch.Generator().manual_seed(0)
    for _, layer in vlm.llm.lora_layers:
        for weight in (*layer.lora_A.parameters(), *layer.lora_B.parameters()):
            weight.data.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    return vlm


def step(vlm: VisionLLM, autocast: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and the gradients of a batch."""
    batch: dict[str, Any] = vlm.layout.pairs(["Caption in German:", "what is"], ["ein Hund", "the red house"], [1, 1])
    pixels = vlm.pixels(PICTURES).to(vlm.model.query_tokens.dtype)
    batch |= {"pixel_values": pixels, "image_index": torch.tensor([[0], [1]])}
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = vlm(batch)["loss"]
        loss.backward()
    return loss.detach(), {name: p.grad for name, p in vlm.model.named_parameters() if p.grad is not None}


def parts(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        part: torch.cat([value.flatten() for name, value in gradients.items() if part in name])
        for part in (".lora_A", ".lora_B", "qformer", "language_projection")
    }


def difference(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    return max(float((mine - wanted[part]).norm() / wanted[part].norm()) for part, mine in found.items())


@pytest.mark.parametrize("family", FUSED)
@pytest.mark.parametrize("quantization", [None, "int8", "nf4"])
def test_loss_and_gradients(folders: dict[str, Path], family: str, quantization: str | None) -> None:
    vlm = prepared(folders[family], quantization, "fp32")
    if quantization is None:
        vlm.double()  # only the mathematics is compared
    vlm.train()
    loss, gradients = step(vlm, False)
    vlm.zero_grad()
    assert speed_up(vlm, ["fused_layers"]) == {}
    assert len(fused_layers._layers(vlm.llm)) + len(fused_layers._activations(vlm.llm)) == FUSED[family]
    fused_loss, fused = step(vlm, False)
    assert float(fused_loss) == pytest.approx(float(loss), rel=1e-10 if quantization is None else 1e-3)
    assert fused.keys() == gradients.keys() and sum(".lora_" in name for name in fused) > 15
    # LLM.int8 rounds in half precision and to whole steps: a last bit becomes a step there.
    bound = {None: 1e-9, "int8": 0.05, "nf4": 1e-4}[quantization]
    assert difference(parts(fused), parts(gradients)) < bound


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_a_layer_in_bf16_is_no_further_from_the_truth(folders: dict[str, Path], quantization: str | None) -> None:
    """Output and gradients of every adapted layer under autocast, against fp64."""
    vlm = prepared(folders["mt5"], quantization, "bf16")
    errors = []
    for fused in (False, True):
        if fused:
            speed_up(vlm, ["fused_layers"])
        found = []
        for seed, (_, layer) in enumerate(vlm.llm.lora_layers):
            generator = torch.Generator().manual_seed(seed)
            base: Any = layer.get_base_layer()
            x = torch.randn(40, base.in_features, generator=generator).bfloat16().requires_grad_()
            direction = torch.randn(40, base.out_features, generator=generator).bfloat16()
            down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            down.grad = up.grad = None
            with torch.autocast("cpu", torch.bfloat16):
                result = layer(x)
            result.backward(direction)
            exact = [value.detach().double().requires_grad_() for value in (x, down, up)]
            wanted = exact[0] @ dequantize(base).double().t() + exact[0] @ exact[1].t() @ exact[2].t() * 4
            wanted.backward(direction.double())
            pairs = zip((result, x.grad, down.grad, up.grad), (wanted, *(value.grad for value in exact)), strict=True)
            assert result.dtype == torch.bfloat16
            for mine, true in pairs:
                assert mine is not None and true is not None
                found.append(float((mine.detach().double() - true.detach()).norm() / true.detach().norm()))
        errors.append(sum(found) / len(found))
    assert errors[1] < 1.02 * errors[0] < 0.01


def test_dropout_draws_the_same_units(folders: dict[str, Path]) -> None:
    vlm = prepared(folders["mt5"], None, "fp32", dropout=0.5)
    vlm.train()
    loss, _ = step(vlm, False)
    speed_up(vlm, ["fused_layers"])
    fused_loss, _ = step(vlm, False)
    assert float(fused_loss) == pytest.approx(float(loss), rel=1e-5)
    vlm.eval()
    assert float(step(vlm, False)[0]) != pytest.approx(float(loss), rel=1e-3)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_answers_copies_and_merging(folders: dict[str, Path], dtype: str) -> None:
    """Without autocast, as a validation generates."""
    vlm = prepared(folders["mt5"], None, dtype).eval()
    answers = vlm.generate(PICTURES, ["what is", "who is"], num_beams=2, max_new_tokens=6)
    speed_up(vlm, ["fused_layers"])
    assert vlm.generate(PICTURES, ["what is", "who is"], num_beams=2, max_new_tokens=6) == answers
    copied = VisionLLM(copy.deepcopy(vlm.model), vlm.processor)
    for _, layer in copied.llm.lora_layers:
        layer.lora_B["default"].weight.data.zero_()  # type: ignore[union-attr]
    assert vlm.generate(PICTURES, ["what is", "who is"], num_beams=2, max_new_tokens=6) == answers
    if dtype == "fp32":
        merge_lora(vlm)
        assert vlm.generate(PICTURES, ["what is", "who is"], num_beams=2, max_new_tokens=6) == answers


def test_less_is_kept_for_the_way_back(folders: dict[str, Path]) -> None:
    """In bf16, the recipes' precision: PEFT's copies in fp32 and the steps of the activation are not there."""
    kept = []
    for fused in (False, True):
        vlm = prepared(folders["mt5"], None, "bf16", dropout=0.05)
        vlm.train()
        if fused:
            speed_up(vlm, ["fused_layers"])
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            step(vlm, True)
        kept.append(sum(sizes.values()))
    assert kept[1] < 0.9 * kept[0]


def test_adapters_that_are_switched_off_stay_off(folders: dict[str, Path]) -> None:
    vlm = prepared(folders["bloom"], None, "fp32").eval()
    with_lora, _ = step(vlm, False)
    speed_up(vlm, ["fused_layers"])
    for _, layer in vlm.llm.lora_layers:
        layer.enable_adapters(False)  # type: ignore[operator]
    without, _ = step(vlm, False)
    for _, layer in vlm.llm.lora_layers:
        layer.enable_adapters(True)  # type: ignore[operator]
    again, _ = step(vlm, False)
    assert float(again) == pytest.approx(float(with_lora), rel=1e-5)
    assert float(without) != pytest.approx(float(with_lora), rel=1e-4)
