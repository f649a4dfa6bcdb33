"""Our forward and generation against the stock class, in fp32, on small random checkpoints of six families."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tests import checkpoints
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from mblip.models import VisionLLM, load_vision_llm
from mblip.models import loss as losses
from mblip.models.speedups import SPEEDUPS, speed_up
from mblip.models.speedups.packed_rows import pack_causal

FAMILIES = ["mt5", "t5", "bloom", "llama", "qwen3", "gemma3"]
PICTURES = [np.random.default_rng(i).integers(0, 255, (40, 30, 3), dtype=np.uint8) for i in range(4)]
PROMPTS = ["Question: what is in the house? Short answer in English:", "Caption in German:", "how many red dog"]
ANSWERS = ["two cat and a tree", "ein Hund", "no"]


@pytest.fixture(
    scope="module", params=[(family, way) for family in FAMILIES for way in ("plain", "sped up")], ids="-".join
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[VisionLLM, Any, Any]:
    family, way = request.param
    folder = checkpoints.blip2(tmp_path_factory.mktemp(family) / "model", family)
    stock = AutoModelForImageTextToText.from_pretrained(folder).eval()
    vlm = load_vision_llm(folder, dtype="fp32")
    speed_up(vlm, () if way == "plain" else SPEEDUPS)
    assert bool(vlm.speedups) == (way == "sped up")
    return vlm, stock, AutoProcessor.from_pretrained(folder, backend="pil")


def batch(vlm: VisionLLM, index: list[list[int]]) -> dict[str, Any]:
    """Three texts, each with the pictures of its row."""
    made: dict[str, Any] = vlm.layout.pairs(PROMPTS, ANSWERS, [len(row) for row in index])
    return made | {"pixel_values": vlm.pixels(PICTURES), "image_index": torch.tensor(index)}


def stock_inputs(made: dict[str, Any]) -> dict[str, Tensor]:
    """The same for the stock class: the pictures of the first text, then those of the second, and so on."""
    pixels = made["pixel_values"][made["image_index"].flatten()]
    return {"pixel_values": pixels, **{name: made[name] for name in ("input_ids", "attention_mask", "labels")}}


def logits(vlm: VisionLLM, made: dict[str, Any]) -> Tensor:
    embedded = vlm.embed(made["input_ids"], vlm.encode_images(made["pixel_values"]), made["image_index"])
    return vlm.llm.logits(vlm.hidden_states(embedded, made))


ONE, TWO, SHARED = [[0], [1], [2]], [[0, 1], [2, 3], [3, 0]], [[0], [1], [0]]


@pytest.mark.parametrize("index", [ONE, TWO], ids=["one image", "two images"])
def test_logits_and_loss(pair: tuple[VisionLLM, Any, Any], index: list[list[int]]) -> None:
    vlm, stock, _ = pair
    made = batch(vlm, index)
    with torch.no_grad():
        ours, theirs = logits(vlm, made), stock(**stock_inputs(made))
        if not vlm.is_encoder_decoder:  # what stands at padding is nobody's affair
            present = made["attention_mask"].bool()
            torch.testing.assert_close(ours[present], theirs.logits[present], rtol=1e-5, atol=1e-5)
        else:
            supervised = made["labels"] != -100
            torch.testing.assert_close(ours[supervised], theirs.logits[supervised], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(vlm(made)["loss"], theirs.loss, rtol=1e-5, atol=1e-5)
    assert float(theirs.logits.std()) > 0.1


@pytest.mark.parametrize("images", [1, 2])
def test_five_beams_give_the_tokens_of_the_stock_class(pair: tuple[VisionLLM, Any, Any], images: int) -> None:
    vlm, stock, processor = pair
    seen = set()
    for number, prompt in enumerate(PROMPTS):
        pictures = PICTURES[number : number + images]
        inputs = processor(images=pictures[0], text=prompt, return_tensors="pt")
        if images == 2:  # the stock class takes them flattened, with as many placeholders in the prompt
            both = processor(images=pictures, return_tensors="pt")["pixel_values"]
            placeholders = inputs["input_ids"][:, : checkpoints.QUERIES]
            inputs = {
                "pixel_values": both,
                "input_ids": torch.cat([placeholders, inputs["input_ids"]], dim=1),
                "attention_mask": torch.cat([torch.ones_like(placeholders), inputs["attention_mask"]], dim=1),
            }
        with torch.no_grad():
            theirs = stock.generate(**inputs, num_beams=5, max_new_tokens=8)[0].tolist()
        if not vlm.is_encoder_decoder:
            theirs = theirs[inputs["input_ids"].shape[1] :]
        index = torch.arange(images)[None]
        ours = vlm.generate_ids([prompt], vlm.encode(pictures), index, num_beams=5, max_new_tokens=8)[0].tolist()
        assert ours == theirs
        seen.add(tuple(ours))
    assert len(seen) == len(PROMPTS)


def test_many_texts_of_an_image_equal_the_image_repeated(pair: tuple[VisionLLM, Any, Any]) -> None:
    vlm, _, _ = pair
    shared = batch(vlm, [[0], [0], [1]])
    repeated = {**shared, "image_index": torch.tensor(ONE), "pixel_values": shared["pixel_values"][[0, 0, 1]]}
    together, apart = vlm(shared, per_text=True), vlm(repeated, per_text=True)
    torch.testing.assert_close(together["text_loss_sum"], apart["text_loss_sum"], rtol=1e-6, atol=1e-5)
    for row, text in enumerate(together["text_loss_sum"]):
        made: dict[str, Any] = vlm.layout.pairs([PROMPTS[row]], [ANSWERS[row]], [1])
        made |= {"pixel_values": repeated["pixel_values"][row : row + 1], "image_index": torch.tensor([[0]])}
        torch.testing.assert_close(vlm(made)["loss_sum"], text, rtol=1e-5, atol=1e-5)


def gradients(model: Any, value: Tensor) -> dict[str, Tensor]:
    value.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("index", [TWO, SHARED], ids=["two images", "texts of one image"])
@pytest.mark.parametrize("form", ["one piece", "chunked"])
def test_chunked_loss_and_all_gradients(
    pair: tuple[VisionLLM, Any, Any], form: str, index: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In fp64, so that only the mathematics is compared."""
    vlm, stock = VisionLLM(copy.deepcopy(pair[0].model).double(), pair[0].processor), copy.deepcopy(pair[1]).double()
    speed_up(vlm, pair[0].speedups)
    head = vlm.language_model.get_output_embeddings().weight
    if form != "one piece":
        monkeypatch.setattr(losses, "CHUNK_ELEMENTS", 3 * len(head))
        assert losses.chunk_rows(head, 30) == 3
    made = batch(vlm, index)
    ours, full = vlm(made)["loss"], stock(**stock_inputs(made)).loss
    torch.testing.assert_close(ours, full, rtol=1e-6, atol=1e-6, check_dtype=False)
    found, wanted = gradients(vlm.model, ours), gradients(stock, full)
    assert found.keys() == wanted.keys()
    assert len(found) > 60
    if index == SHARED and not vlm.is_encoder_decoder:  # then they were read in one row
        placeholders = made["input_ids"] == vlm.model.config.image_token_index
        rows = pack_causal(made["attention_mask"], placeholders, made["image_index"], vlm.llm.hidden_size)
        assert "packed_rows" not in vlm.speedups or rows
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-6, msg=name)
    assert sum(bool(gradient.abs().max() > 1e-3) for gradient in wanted.values()) > 50
