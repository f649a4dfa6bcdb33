"""Texts of one image in one row: what they give, and for whom it is done."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import checkpoints
from torch import Tensor

from mblip.models import VisionLLM, load_vision_llm
from mblip.models.parts import recompute_layers
from mblip.models.speedups import speed_up
from mblip.models.speedups.packed_rows import pack_causal, pack_pairs

PROMPTS = [
    "Question: what is in the house? Short answer in English:",
    "Caption in German:",
    "how many red dog",
    "a",
    "dog",
]
ANSWERS = ["two cat and a tree", "ein Hund", "no", "ein", "red"]
ONE_EACH, TWO_EACH = [[0], [1], [0], [0], [2]], [[0, 1], [0, 1], [1, -1], [1, -1], [1, 0]]


def model(folder: Path, family: str, **changes: Any) -> VisionLLM:
    vlm = load_vision_llm(checkpoints.blip2(folder / "model", family, **changes), dtype="fp32")
    vlm.double()  # so that only the mathematics is compared
    speed_up(vlm, ["packed_rows"])
    return vlm


def batch(vlm: VisionLLM, index: list[list[int]]) -> dict[str, Tensor]:
    made = vlm.layout.pairs(PROMPTS, ANSWERS, [sum(image >= 0 for image in row) for row in index])
    pictures = [np.random.default_rng(i).integers(0, 255, (40, 30, 3), dtype=np.uint8) for i in range(3)]
    return made | {"pixel_values": vlm.pixels(pictures).double(), "image_index": torch.tensor(index)}


def loss_and_gradients(vlm: VisionLLM, made: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    vlm.zero_grad()
    loss = vlm(made)["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), {name: p.grad.clone() for name, p in vlm.named_parameters() if p.grad is not None}


def count_tokens(vlm: VisionLLM) -> list[int]:
    """How many tokens, padding among them, the language model is given at each call from now on."""
    seen: list[int] = []

    def note(_: Any, args: Any, inputs: dict[str, Any]) -> None:
        seen.append(inputs["inputs_embeds"].shape[0] * inputs["inputs_embeds"].shape[1])

    base = vlm.language_model.get_encoder() if vlm.is_encoder_decoder else vlm.language_model.base_model
    base.register_forward_pre_hook(note, with_kwargs=True)
    return seen


@pytest.mark.parametrize("index", [ONE_EACH, TWO_EACH], ids=["one image", "two images"])
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("bloom", {}),  # biases by distance
        ("llama", {}),  # rotates by position
        ("opt", {}),  # adds an embedding of the position
        ("mistral", {"sliding_window": 5}),  # every layer looks back so far
        ("gemma3", {"sliding_window": 5, "num_hidden_layers": 6}),  # five layers of six do
        ("qwen3", {"attn_implementation": "eager"}),
        ("mt5", {}),  # biases by distance, in the first layer
        ("umt5", {}),  # in every layer
        ("t5", {"attn_implementation": "eager"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_loss_and_every_gradient_are_those_of_a_row_for_each_text(
    tmp_path: Path, family: str, changes: dict[str, Any], index: list[list[int]]
) -> None:
    eager = changes.pop("attn_implementation", None)
    vlm = model(tmp_path, family, **changes)
    if eager:
        vlm.language_model.set_attn_implementation(eager)
    assert speed_up(vlm, ["packed_rows"]) == {}
    made = batch(vlm, index)
    seen = count_tokens(vlm)
    loss, found = loss_and_gradients(vlm, made)
    texts = vlm(made, per_text=True)["text_loss_sum"]
    speed_up(vlm, [])
    alone, wanted = loss_and_gradients(vlm, made)
    assert seen[0] < seen[-1] == made["attention_mask"].numel()
    torch.testing.assert_close(loss, alone, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(texts, vlm(made, per_text=True)["text_loss_sum"], rtol=1e-6, atol=1e-6)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-6, msg=name)
    assert sum(bool(gradient.abs().max() > 1e-3) for gradient in wanted.values()) > 40


def test_recomputing_layers_changes_nothing(tmp_path: Path) -> None:
    vlm = model(tmp_path, "bloom")
    made = batch(vlm, ONE_EACH)
    loss, found = loss_and_gradients(vlm, made)
    recompute_layers(vlm, ("llm",))
    vlm.language_model.train()  # which alone recomputes; its dropout is 0
    again, recomputed = loss_and_gradients(vlm, made)
    torch.testing.assert_close(again, loss)
    for name, gradient in found.items():
        torch.testing.assert_close(recomputed[name], gradient, msg=name)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("seed", range(20))
def test_a_token_sees_its_image_and_what_stands_before_it_in_its_text(seed: int, window: int | None) -> None:
    rng = np.random.default_rng(seed)
    queries, texts = 3, int(rng.integers(2, 9))
    index = rng.integers(0, 3, (texts, 1))
    lengths = queries + rng.integers(1, 12, texts)
    mask = torch.tensor(np.arange(lengths.max()) < lengths[:, None]).long()
    packing = pack_causal(mask, leading(queries, mask), torch.tensor(index), 512)
    if packing is None:
        pytest.fail("nothing is shared") if len(set(index[:, 0])) < texts else None
        return
    tokens = mask.shape[1]
    flat = packing.backward(window).squeeze(1)
    length = packing.sources.shape[1]

    def name(row: int, column: int) -> tuple[int, int]:
        """Of a packed token: its text, or for a token of an image -1 - the image; and its position."""
        text, position = divmod(int(packing.sources[row, column]), tokens)
        return (text if position >= queries else -1 - int(index[text, 0])), position

    for text in range(texts):
        for position in range(int(lengths[text])):
            row, column = divmod(int(packing.places[text, position]), length)
            whose = -1 - int(index[text, 0]) if position < queries else text
            assert name(row, column) == (whose, position) and int(packing.positions[row, column]) == position
            first = 0 if window is None else max(0, position - window + 1)
            wanted = [(-1 - int(index[text, 0]) if p < queries else text, p) for p in range(first, position + 1)]
            assert [name(row, int(seen)) for seen in flat[row, column].nonzero()[:, 0]] == wanted
    assert int((packing.groups >= 0).sum()) == sum(lengths - queries) + queries * len(set(index[:, 0]))
    assert bool(flat.any(2).all())  # padding too sees something: a softmax over nothing is no number


def leading(queries: int, mask: Tensor) -> Tensor:
    """Placeholders where the layout has them."""
    return (torch.arange(mask.shape[1]) < queries).expand_as(mask)


def test_rows_are_as_few_and_as_long_as_costs_least() -> None:
    def rows(lengths: list[int], width: int) -> tuple[int, ...] | None:
        """Of pairs of texts on an image of 30 tokens."""
        mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
        packing = pack_causal(mask, leading(30, mask), torch.arange(len(lengths))[:, None] // 2, width)
        return None if packing is None else tuple(packing.sources.shape)

    # As many tokens in any number of rows: short ones attend for less.
    assert rows([40] * 8, 4096) == rows([40] * 8, 16) == (4, 50)
    # In one row nothing is padded; in two less is spent on attention.
    assert rows([60, 60, 40, 40, 40, 40], 4096) == (1, 90 + 50 + 50)
    assert rows([60, 60, 40, 40, 40, 40], 64) == (2, 100)
    assert rows([500] * 4, 64) is None  # what two long texts share is little


def test_a_batch_of_another_layout_is_left_as_it_is(tmp_path: Path) -> None:
    mask = torch.ones(2, 40, dtype=torch.long)
    one_image = torch.zeros(2, 1, dtype=torch.long)
    assert pack_causal(mask, leading(30, mask), one_image, 4096)
    assert pack_causal(mask, leading(30, mask).flip(1), one_image, 4096) is None  # images after the text
    padded = mask.clone()
    padded[0, :3] = 0
    assert pack_causal(padded, leading(30, mask), one_image, 4096) is None  # on the left
    assert pack_causal(mask, leading(30, mask), torch.tensor([[0], [1]]), 4096) is None  # nothing is shared


def test_what_is_read_and_what_is_written_stand_in_one_row() -> None:
    rng = np.random.default_rng(3)
    read, written = rng.integers(2, 30, 12), rng.integers(1, 12, 12)
    first, second = (torch.tensor(np.arange(max(counts)) < counts[:, None]).long() for counts in (read, written))
    pair = pack_pairs(first, second, 512)
    assert pair is not None
    across, back = pair[1].across(pair[0])[:, 0], pair[1].backward()[:, 0]
    for text in range(12):
        places = [divmod(int(place), pair[1].sources.shape[1]) for place in pair[1].places[text, : written[text]]]
        sources = [divmod(int(place), pair[0].sources.shape[1]) for place in pair[0].places[text, : read[text]]]
        for order, (row, column) in enumerate(places):
            assert [(row, int(seen)) for seen in across[row, column].nonzero()[:, 0]] == sources
            assert [(row, int(seen)) for seen in back[row, column].nonzero()[:, 0]] == places[: order + 1]
    assert bool(across.any(2).all())
    for packing, mask in zip(pair, (first, second), strict=True):
        values = torch.arange(mask.numel()).view_as(mask)
        assert torch.equal(packing.unpack(packing.pack(values))[mask.bool()], values[mask.bool()])


@pytest.mark.parametrize("family", ["llama", "mt5"])
def test_a_model_whose_texts_would_read_one_another_gets_a_row_for_each_and_says_so(
    tmp_path: Path, family: str, caplog: pytest.LogCaptureFixture
) -> None:
    vlm = model(tmp_path, family)
    encoder = vlm.language_model.get_encoder() if vlm.is_encoder_decoder else None
    layer = encoder.block[0].layer[1].DenseReluDense if encoder else vlm.language_model.model.layers[0].mlp
    forward = layer.forward
    layer.forward = lambda hidden: forward(hidden).cumsum(1)  # as a state space does, whatever the mask says
    made = batch(vlm, ONE_EACH)
    assert "read each other" in speed_up(vlm, ["packed_rows"])["packed_rows"]
    assert "results are the same, only slower" in caplog.text
    seen = count_tokens(vlm)
    vlm(made)
    assert seen == [made["attention_mask"].numel()]


def test_a_model_that_cannot_be_told_gets_a_row_for_each_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vlm = model(tmp_path, "llama")
    for name, value in (("_attn_implementation", "flash_attention_2"), ("layer_types", ["linear_attention"] * 2)):
        before = getattr(vlm.language_model.config, name, None)
        setattr(vlm.language_model.config, name, value)
        named = value if isinstance(value, str) else value[0]
        assert named in speed_up(vlm, ["packed_rows"])["packed_rows"]
        assert named in caplog.text
        assert not vlm.speedups
        setattr(vlm.language_model.config, name, before)
    assert speed_up(vlm, ["packed_rows"]) == {}


def test_threads_that_pack_and_threads_that_do_not_share_a_model(tmp_path: Path) -> None:
    vlm, plain = model(tmp_path, "bloom"), model(tmp_path / "plain", "bloom")
    speed_up(plain, [])
    made = batch(vlm, ONE_EACH)
    wanted = plain(made)["loss"]
    embedded = plain.embed(made["input_ids"], plain.encode_images(made["pixel_values"]), made["image_index"]).detach()

    def packed() -> Tensor:
        return vlm(made)["loss"].detach()

    def rows() -> Tensor:
        return vlm.hidden_states(embedded, made).detach()

    apart = plain.hidden_states(embedded, made)
    with ThreadPoolExecutor(4) as threads:
        losses = [threads.submit(packed) for _ in range(8)]
        states = [threads.submit(rows) for _ in range(8)]
        for found in losses:
            torch.testing.assert_close(found.result(), wanted, rtol=1e-6, atol=1e-8)
        for found in states:
            torch.testing.assert_close(found.result(), apart, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", ["llama", "mt5"])
def test_any_token_may_stand_for_the_image(tmp_path: Path, family: str) -> None:
    vlm = model(tmp_path, family)
    vlm.model.config.image_token_index = 11  # among the first, as some tokenisers number what is added
    vlm.layout.image_token_id = 11
    made = batch(vlm, ONE_EACH)
    packed = vlm(made)["loss"]
    speed_up(vlm, [])
    torch.testing.assert_close(packed, vlm(made)["loss"], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("texts", [2, 8])
def test_the_batch_that_a_plan_counts_is_computed_as_it_is_and_no_packed_one_has_more_tokens(texts: int) -> None:
    """``mblip plan`` counts one image a text and every text as long as may be; what else packing makes is smaller."""
    image, words, answer, width = 32, 64, 40, 128
    prompt = image + words
    own = torch.arange(texts)[:, None]
    heads = torch.zeros(texts, prompt + answer, dtype=torch.bool)
    heads[:, :image] = True
    assert pack_pairs(torch.ones(texts, prompt), torch.ones(texts, answer, dtype=torch.bool), width) is None
    assert pack_causal(torch.ones(texts, prompt + answer), heads, own, width) is None
    draw, packed = np.random.default_rng(0), 0
    for _ in range(40):
        asked, said = (torch.from_numpy(draw.integers(1, most + 1, texts)) for most in (words, answer))
        read, written = (
            torch.arange(most) < lengths[:, None] for most, lengths in ((prompt, image + asked), (answer, said))
        )
        pair = pack_pairs(read.long(), written, width)
        row = pack_causal((torch.arange(prompt + answer) < (image + asked + said)[:, None]).long(), heads, own, width)
        packed += (pair is not None) + (row is not None)
        assert pair is None or sum(part.sources.numel() for part in pair) < texts * (prompt + answer)
        assert row is None or row.sources.numel() < texts * (prompt + answer)
    assert packed > 10
