"""int8 on a CPU: exact enough, whatever the outliers; the same for a row alone and among others; only where it is faster."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests import checkpoints

from mblip.inference import resolve as choosing
from mblip.models import cpu_int8
from mblip.models.cpu_int8 import MIN_WIDTH, Int8Linear, to_int8
from mblip.models.quantize import linear_layers

pytestmark = pytest.mark.skipif(not cpu_int8.is_faster(), reason="needs a CPU with VNNI")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    return checkpoints.blip2(folder, "mt5", d_model=MIN_WIDTH, d_ff=2 * MIN_WIDTH, d_kv=MIN_WIDTH // 4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("outlier", [1, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_error_is_that_of_the_weights_even_with_outliers(bias: bool, outlier: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(640, 512, bias)
    hidden = torch.randn(2, 9, 640)
    hidden[..., 7] *= outlier
    hidden[0, 0] = 0
    hidden = hidden.to(dtype)
    scales = layer.weight.abs().amax(1, keepdim=True) / 127
    with torch.inference_mode():
        made = Int8Linear(layer)(hidden)
        assert made.dtype == dtype
        layer.weight.copy_((layer.weight / scales).round() * scales)
        expected = layer(hidden.float())
    assert (made.float() - expected).norm() / expected.norm() < (1e-3 if dtype == torch.float32 else 4e-3)


def test_a_row_gives_the_same_alone_and_among_others() -> None:
    torch.manual_seed(0)
    layer = Int8Linear(torch.nn.Linear(512, 700))
    rows = torch.randn(70, 512) * torch.logspace(-3, 3, 70)[:, None]
    with torch.inference_mode():
        together = layer(rows)
        for place in (0, 33, 69):
            assert torch.equal(layer(rows[place : place + 1])[0], together[place])


def test_wide_layers_alone_are_changed_and_batches_answer_as_one(wide: Path, tmp_path: Path) -> None:
    from mblip.models import load_vision_llm

    plain, model = load_vision_llm(wide), load_vision_llm(wide)
    layers = linear_layers(model.language_model)
    assert to_int8(model.language_model) == len(layers) >= 20
    assert to_int8(load_vision_llm(checkpoints.blip2(tmp_path, "mt5")).language_model) == 0
    pictures = [torch.randint(0, 256, (20, 30, 3), dtype=torch.uint8).numpy() for _ in range(6)]
    prompts = ["Caption in German:", "what is red", "dog", "how many " * 9, "犬 と 猫", "собака"]
    together = model.generate(pictures, prompts, num_beams=3, max_new_tokens=8)
    assert together == [
        model.generate([picture], [prompt], num_beams=3, max_new_tokens=8)[0]
        for picture, prompt in zip(pictures, prompts, strict=True)
    ]
    assert len(set(together)) > 1
    # Against the same rounded weights in fp32, since a random model makes much of little.
    for name in layers:
        weight = plain.language_model.get_submodule(name).weight.data
        scales = weight.abs().amax(1, keepdim=True) / 127
        weight.copy_((weight / scales).round() * scales)
    batch = {
        "image_features": plain.encode(pictures[:1]),
        "image_index": torch.tensor([[0]]),
        "labels": torch.tensor([[7, 8, 9, 1]]),
        **plain.layout.prompts(["what is red"], [1]),
    }
    expected = plain.logits(batch)
    assert (model.logits(batch) - expected).norm() / expected.norm() < 0.02


@pytest.mark.parametrize(("asked", "faster", "packed"), [("auto", True, True), ("int8", True, True), ("auto", False, False),
                                                         ("none", True, False)])  # fmt: skip
def test_it_is_the_default_where_it_is_faster(
    wide: Path, asked: str, faster: bool, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(cpu_int8, "is_faster", lambda: faster)
    model = choosing.open_model(str(wide), asked)
    assert any(isinstance(module, Int8Linear) for module in model.vlm.modules()) == packed
