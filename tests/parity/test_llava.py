"""The LLaVA container against the stock class, in fp32, on small random checkpoints of four towers and language models."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from PIL import Image
from tests import llava_checkpoints
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from mblip import load_model
from mblip.models import VisionLLM, add_lora, load_vision_llm
from mblip.models.export import export, probe
from mblip.models.speedups import SPEEDUPS, speed_up
from mblip.models.speedups.packed_rows import pack_causal

_NOISE = [np.random.default_rng(i).integers(0, 255, (40, 30, 3), dtype=np.uint8) for i in range(4)]
PICTURES = [Image.fromarray(pixels) for pixels in _NOISE]
PROMPTS = ["Question: what is in the house? Short answer in English:", "Caption in German:", "how many red dog"]
ANSWERS = ["two cat and a tree", "ein Hund", "no"]
ONE, TWO, SHARED = [[0], [1], [2]], [[0, 1], [2, 3], [3, 0]], [[0], [1], [0]]
WAYS: dict[str, dict[str, Any]] = {"beams": {"num_beams": 5}, "greedy": {}}


@pytest.fixture(
    scope="module",
    params=[(*pair, way) for pair in llava_checkpoints.PAIRS for way in ("plain", "sped up")],
    ids="-".join,
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[VisionLLM, Any, Any]:
    eyes, family, way = request.param
    folder = llava_checkpoints.llava(tmp_path_factory.mktemp(family) / "model", eyes, family)
    vlm = load_vision_llm(folder, dtype="fp32")
    speed_up(vlm, () if way == "plain" else SPEEDUPS)
    assert bool(vlm.speedups) == (way == "sped up")
    stock = AutoModelForImageTextToText.from_pretrained(folder).eval()
    return vlm, stock, AutoProcessor.from_pretrained(folder, backend="pil")


def batch(vlm: VisionLLM, index: list[list[int]]) -> dict[str, Any]:
    """Three texts, each with the pictures of its row."""
    made: dict[str, Any] = vlm.layout.pairs(PROMPTS, ANSWERS, [len(row) for row in index])
    return made | {"pixel_values": vlm.pixels(PICTURES), "image_index": torch.tensor(index)}


def stock_inputs(made: dict[str, Any]) -> dict[str, Tensor]:
    pixels = made["pixel_values"][made["image_index"].flatten()]
    return {"pixel_values": pixels, **{name: made[name] for name in ("input_ids", "attention_mask", "labels")}}


def stock_ids(stock: Any, processor: Any, pictures: list[Image.Image], prompt: str, **generation: Any) -> list[int]:
    text = "<image>\n" * len(pictures) + prompt
    inputs = processor(images=pictures, text=text, return_tensors="pt")
    ids = stock.generate(**inputs, do_sample=False, max_new_tokens=8, **generation)
    found: list[int] = ids[0, inputs["input_ids"].shape[1] :].tolist()
    return found


def without_padding(row: list[int], vlm: VisionLLM) -> list[int]:
    while len(row) > 1 and row[-1] == vlm.layout.pad_token_id:
        row = row[:-1]
    return row


@pytest.mark.parametrize("index", [ONE, TWO], ids=["one image", "two images"])
def test_logits_and_loss(pair: tuple[VisionLLM, Any, Any], index: list[list[int]]) -> None:
    vlm, stock, _ = pair
    made = batch(vlm, index)
    with torch.no_grad():
        embedded = vlm.embed(made["input_ids"], vlm.encode_images(made["pixel_values"]), made["image_index"])
        ours, theirs = vlm.llm.logits(vlm.hidden_states(embedded, made)), stock(**stock_inputs(made))
        present = made["attention_mask"].bool()  # what stands at padding is nobody's affair
        torch.testing.assert_close(ours[present], theirs.logits[present], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(vlm(made)["loss"], theirs.loss, rtol=1e-5, atol=1e-5)
    assert float(theirs.logits.std()) > 0.1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("images", [1, 2])
def test_tokens_are_those_of_the_stock_class(pair: tuple[VisionLLM, Any, Any], images: int, way: str) -> None:
    """Each prompt alone, and all in a batch of unequal lengths."""
    if images > 1 and way == "beams" and Version(transformers.__version__) < Version("5.20"):
        pytest.skip("this version of the stock class gives the beams of a text with two pictures the wrong ones")
    vlm, stock, processor = pair
    groups = [PICTURES[number : number + images] for number in range(len(PROMPTS))]
    wanted = [
        stock_ids(stock, processor, group, text, **WAYS[way]) for group, text in zip(groups, PROMPTS, strict=True)
    ]
    settings = {**WAYS[way], "max_new_tokens": 8}
    for group, text, ids in zip(groups, PROMPTS, wanted, strict=True):
        alone = vlm.generate_ids([text], vlm.encode(group), torch.arange(images)[None], **settings)
        assert alone[0].tolist() == ids
    index = torch.tensor([list(range(number, number + images)) for number in range(len(PROMPTS))])
    together = vlm.generate_ids(PROMPTS, vlm.encode(PICTURES), index, **settings)
    assert [without_padding(row, vlm) for row in together.tolist()] == [without_padding(row, vlm) for row in wanted]
    assert len({tuple(ids) for ids in wanted}) == len(PROMPTS)


def gradients(model: Any, value: Tensor) -> dict[str, Tensor]:
    value.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("index", [TWO, SHARED], ids=["two images", "texts of one image"])
def test_loss_and_all_gradients(pair: tuple[VisionLLM, Any, Any], index: list[list[int]]) -> None:
    """In fp64, so that only the mathematics is compared."""
    vlm, stock = VisionLLM(copy.deepcopy(pair[0].model).double(), pair[0].processor), copy.deepcopy(pair[1]).double()
    speed_up(vlm, pair[0].speedups)
    made = batch(vlm, index)
    ours, full = vlm(made)["loss"], stock(**stock_inputs(made)).loss
    torch.testing.assert_close(ours, full, rtol=1e-6, atol=1e-6, check_dtype=False)
    found, wanted = gradients(vlm.model, ours), gradients(stock, full)
    assert found.keys() == wanted.keys()
    assert len(found) > 60
    if index == SHARED and "packed_rows" in vlm.speedups:  # the two texts of an image were read in one row, it once
        rows = pack_causal(
            made["attention_mask"], made["input_ids"] == vlm.layout.image_token_id, made["image_index"], vlm.llm.hidden_size,
            made["input_ids"],
        )  # fmt: skip
        assert rows is not None
        assert int((rows.groups >= 0).sum()) <= int(made["attention_mask"].sum()) - llava_checkpoints.PATCHES
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-6, msg=name)
    assert sum(bool(gradient.abs().max() > 1e-3) for gradient in wanted.values()) > 40


@pytest.mark.parametrize(("eyes", "family"), llava_checkpoints.PAIRS)
def test_an_export_answers_alike_in_stock_code(eyes: str, family: str, tmp_path: Path) -> None:
    folder = llava_checkpoints.llava(tmp_path / "model", eyes, family)
    vlm = load_vision_llm(folder, dtype="fp32")
    assert add_lora(vlm, 4, 8, 0.0) == 14
    generator = torch.Generator().manual_seed(0)
    for name, parameter in vlm.language_model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05, generator=generator)
    ours = vlm.generate(PICTURES[:3], PROMPTS, num_beams=5, max_new_tokens=8)
    assert not torch.allclose(probe(vlm), probe(load_vision_llm(folder, dtype="fp32")), atol=1e-2)
    export(vlm, tmp_path / "stock")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "stock").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "stock", backend="pil")
    for picture, prompt, answer in zip(PICTURES, PROMPTS, ours, strict=False):
        ids = stock_ids(model, processor, [picture], prompt, num_beams=5)
        assert processor.decode(ids, skip_special_tokens=True).strip() == answer
    again = load_model(tmp_path / "stock")
    assert again.generate(PICTURES[:3], PROMPTS, num_beams=5, max_new_tokens=8) == ours


def test_the_layout_of_llava_15_survives_training(tmp_path: Path) -> None:
    """Loaded, trained for a step, exported and loaded again: what was frozen is what the first files held, bit for bit."""
    source = llava_checkpoints.llava(tmp_path / "today", "clip", "llama")
    folder = llava_checkpoints.of_2023(tmp_path / "of 2023", source)
    first = AutoModelForImageTextToText.from_pretrained(folder).state_dict()
    vlm = load_vision_llm(folder, dtype="fp32")
    projector = list(llava_checkpoints.mlp(vlm).parameters())
    for parameter in vlm.parameters():
        parameter.requires_grad_(any(parameter is one for one in projector))
    optimizer = torch.optim.AdamW(projector, lr=1e-2)
    loss = vlm.train()(batch(vlm, SHARED))["loss"]
    loss.backward()
    optimizer.step()
    assert float(vlm(batch(vlm, SHARED))["loss"].detach()) < float(loss.detach())
    export(vlm.eval(), tmp_path / "stock")
    last = AutoModelForImageTextToText.from_pretrained(tmp_path / "stock").state_dict()
    assert first.keys() == last.keys()
    changed = {name for name in first if not torch.equal(first[name], last[name])}
    assert changed == {name for name in first if "multi_modal_projector" in name}
    assert len(changed) == 4
    trained = load_vision_llm(tmp_path / "stock", dtype="fp32")
    found, wanted = (float(model(batch(model, SHARED))["loss"].detach()) for model in (trained, vlm))
    assert found == pytest.approx(wanted, abs=1e-6)
