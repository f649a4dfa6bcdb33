"""Checkpoints in the layout of the models published in 2023: what today's stock class cannot run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import checkpoints
from transformers import AutoModelForImageTextToText, AutoProcessor

from mblip.errors import InputError
from mblip.models import VisionLLM, add_lora, load_vision_llm, merge_lora
from mblip.models.export import export

PICTURES = [np.random.default_rng(i).integers(0, 255, (40, 30, 3), dtype=np.uint8) for i in range(3)]
PROMPTS = ["Caption in German:", "what is in the house", "Question: how many red dog"]
KINDS = [("mt5", True), ("mt5", False), ("bloom", True), ("bloom", False)]
NAMES = ["mt5-safetensors", "mt5-bin", "bloom-safetensors", "bloom-bin"]


@pytest.fixture(scope="module", params=KINDS, ids=NAMES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family, safetensors = request.param
    return checkpoints.published(tmp_path_factory.mktemp(family) / "model", family, safetensors=safetensors)


def stored(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    state: dict[str, torch.Tensor] = {}
    for file in folder.glob("model*.safetensors"):
        state |= load_file(file)
    for file in folder.glob("pytorch_model*.bin"):
        state |= torch.load(file, weights_only=True)
    return state


def head(vlm: VisionLLM) -> torch.Tensor:
    weight: torch.Tensor = vlm.language_model.get_output_embeddings().weight.detach()
    return weight


def randomized_lora(vlm: VisionLLM) -> None:
    add_lora(vlm, 4, 8, 0.0)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in vlm.language_model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1, generator=generator)


def test_every_weight_is_the_stored_one(folder: Path) -> None:
    vlm = load_vision_llm(folder)
    own = vlm.model.state_dict()
    files = stored(folder)
    assert len(files) > 60
    assert files.keys() <= own.keys()
    for name, value in files.items():
        torch.testing.assert_close(own[name], value, rtol=0, atol=0, msg=name)
    assert not torch.equal(head(vlm), vlm.model.get_input_embeddings().weight)
    assert head(vlm).shape == files["language_model.lm_head.weight"].shape, "nothing was resized"


def test_it_captions_and_sees_the_image(folder: Path) -> None:
    vlm = load_vision_llm(folder)
    texts = vlm.generate(PICTURES, PROMPTS, num_beams=5, max_new_tokens=8)
    assert all(texts)
    assert len(set(texts)) == 3
    assert "<image>" not in " ".join(texts)
    batch: dict[str, Any] = vlm.layout.pairs([PROMPTS[0]], ["ein Hund"], [1])
    with torch.no_grad():
        losses = [
            float(vlm({**batch, "pixel_values": vlm.pixels([picture]), "image_index": torch.tensor([[0]])})["loss"])
            for picture in PICTURES
        ]
    assert min(abs(losses[0] - losses[1]), abs(losses[1] - losses[2]), abs(losses[0] - losses[2])) > 1e-3


def test_the_stock_class_still_cannot_run_it(folder: Path) -> None:
    # Should this fail one day, the repair may go.
    model = AutoModelForImageTextToText.from_pretrained(folder)
    pixels = torch.zeros(1, 3, checkpoints.SIDE, checkpoints.SIDE)
    with pytest.raises(AttributeError):
        model.generate(pixel_values=pixels, input_ids=torch.tensor([[5, 6]]), attention_mask=torch.ones(1, 2))


def test_the_head_survives_lora_merge_export_and_reload(folder: Path, tmp_path: Path) -> None:
    vlm = load_vision_llm(folder)
    wanted = head(vlm).clone()
    randomized_lora(vlm)
    texts = vlm.generate(PICTURES, PROMPTS, num_beams=5, max_new_tokens=8)
    assert texts != load_vision_llm(folder).generate(PICTURES, PROMPTS, num_beams=5, max_new_tokens=8)
    merge_lora(vlm)
    assert torch.equal(head(vlm), wanted)
    export(vlm, tmp_path / "stock")
    again = load_vision_llm(tmp_path / "stock")
    assert torch.equal(head(again), wanted)
    assert again.generate(PICTURES, PROMPTS, num_beams=5, max_new_tokens=8) == texts
    stock = AutoModelForImageTextToText.from_pretrained(tmp_path / "stock").eval()
    assert torch.equal(stock.language_model.get_output_embeddings().weight, wanted)
    processor = AutoProcessor.from_pretrained(tmp_path / "stock", backend="pil")
    for picture, prompt, text in zip(PICTURES, PROMPTS, texts, strict=True):
        inputs = processor(images=picture, text=prompt, return_tensors="pt")
        ids = stock.generate(**inputs, num_beams=5, max_new_tokens=8)
        if not vlm.is_encoder_decoder:
            ids = ids[:, inputs["input_ids"].shape[1] :]
        assert processor.batch_decode(ids, skip_special_tokens=True)[0].strip() == text


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_the_head_survives_quantised_loading(folder: Path, quantization: Any) -> None:
    vlm = load_vision_llm(folder, quantization=quantization, dtype="bf16")
    assert torch.equal(head(vlm), load_vision_llm(folder, dtype="bf16").language_model.get_output_embeddings().weight)
    assert isinstance(vlm.language_model.get_output_embeddings(), torch.nn.Linear)
    assert all(vlm.generate(PICTURES, PROMPTS, max_new_tokens=4))


@pytest.mark.parametrize("family", ["mt5", "bloom"])
def test_the_head_survives_growing_by_the_image_token(family: str, tmp_path: Path) -> None:
    vlm = load_vision_llm(checkpoints.published(tmp_path / "model", family, unused_rows=0))
    before = stored(tmp_path / "model")
    old = before["language_model.lm_head.weight"]
    table = vlm.model.get_input_embeddings().weight
    assert len(head(vlm)) == len(table) == len(old) + 1 == vlm.model.config.image_token_index + 1
    assert torch.equal(head(vlm)[:-1], old)
    torch.testing.assert_close(head(vlm)[-1], old.mean(0))
    name = "language_model.shared.weight" if family == "mt5" else "language_model.transformer.word_embeddings.weight"
    assert torch.equal(table[:-1], before[name])
    if family == "mt5":
        assert vlm.language_model.encoder.embed_tokens.weight is table
        assert vlm.language_model.decoder.embed_tokens.weight is table
    texts = vlm.generate(PICTURES, PROMPTS, max_new_tokens=6)
    export(vlm, tmp_path / "stock")
    again = load_vision_llm(tmp_path / "stock")
    assert torch.equal(head(again), head(vlm))
    assert again.generate(PICTURES, PROMPTS, max_new_tokens=6) == texts


@pytest.mark.parametrize("safetensors", [True, False])
@pytest.mark.parametrize("kept", ["shared", "encoder.embed_tokens", "decoder.embed_tokens"])
def test_the_embedding_may_be_stored_under_any_of_its_names(kept: str, safetensors: bool, tmp_path: Path) -> None:
    names = {"shared", "encoder.embed_tokens", "decoder.embed_tokens"}
    without = tuple(f"language_model.{name}.weight" for name in names - {kept})
    whole = load_vision_llm(checkpoints.published(tmp_path / "whole"))
    vlm = load_vision_llm(checkpoints.published(tmp_path / "model", without=without, safetensors=safetensors))
    assert torch.equal(vlm.model.get_input_embeddings().weight, whole.model.get_input_embeddings().weight)
    assert torch.equal(head(vlm), head(whole))
    assert vlm.generate(PICTURES, PROMPTS, max_new_tokens=6) == whole.generate(PICTURES, PROMPTS, max_new_tokens=6)


@pytest.mark.parametrize("family", ["mt5", "bloom"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_head_stored_apart_stays_apart_whatever_the_configuration(family: str, tied: bool, tmp_path: Path) -> None:
    vlm = load_vision_llm(checkpoints.published(tmp_path / "model", family, tied=tied))
    assert torch.equal(head(vlm), stored(tmp_path / "model")["language_model.lm_head.weight"])
    assert not torch.equal(head(vlm), vlm.model.get_input_embeddings().weight)
    assert vlm.model.config.text_config.tie_word_embeddings is vlm.model.config.tie_word_embeddings is False


def test_a_head_equal_to_the_table_is_still_of_its_own(tmp_path: Path) -> None:
    folder = checkpoints.published(tmp_path / "model", shards=1)
    state = stored(folder)
    state["language_model.lm_head.weight"] = state["language_model.shared.weight"].clone()
    checkpoints.write_shards(folder, state, safetensors=True, shards=1)
    vlm = load_vision_llm(folder)
    assert torch.equal(head(vlm), vlm.model.get_input_embeddings().weight)
    assert vlm.language_model.lm_head.weight is not vlm.model.get_input_embeddings().weight


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("mt5", "language_model.lm_head.weight"),
        ("mt5", "language_model.encoder.block.1.layer.0.SelfAttention.q.weight"),
        ("bloom", "language_model.transformer.h.0.mlp.dense_h_to_4h.bias"),
        ("mt5", "query_tokens"),
        ("mt5", "language_projection.bias"),
        ("mt5", "qformer.encoder.layer.1.attention.attention.query.weight"),
        ("bloom", "vision_model.encoder.layers.0.self_attn.qkv.bias"),
    ],
)
@pytest.mark.parametrize("safetensors", [True, False])
def test_a_missing_weight_is_named(family: str, name: str, safetensors: bool, tmp_path: Path) -> None:
    folder = checkpoints.published(tmp_path / "model", family, without=(name,), safetensors=safetensors)
    with pytest.raises(InputError, match=name):
        load_vision_llm(folder)


def test_two_queries_fewer_than_the_configuration_says(tmp_path: Path) -> None:
    folder = checkpoints.published(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["num_query_tokens"] = checkpoints.QUERIES - 2
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="query_tokens"):
        load_vision_llm(folder)
