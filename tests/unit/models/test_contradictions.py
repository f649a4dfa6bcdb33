"""Configurations that contradict the weights or the vocabulary are told in a sentence, by loading and by the doctor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tests import checkpoints, llava_checkpoints

from mblip.errors import InputError
from mblip.models import build_model, load_vision_llm
from mblip.models.model_check import check_model

NO_PLACE = r"config.json has no place for \d+ weights in the files, the first is .*; copy the checkpoint again"
OUTSIDE = r"the end token \d+ .* is outside the language model's vocabulary of \d+, .*: set eos_token_id"


def edit(folder: Path, *path: str, to: Any, file: str = "config.json") -> None:
    """Change one setting of a JSON file."""
    whole = json.loads((folder / file).read_text())
    place = whole
    for name in path[:-1]:
        place = place[name]
    assert path[-1] in place
    place[path[-1]] = to
    (folder / file).write_text(json.dumps(whole))


def refused(message: str, folder: Path, load: Callable[[], object]) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load()
    assert str(folder) in str(caught.value)
    problems = check_model(folder).problems
    assert len(problems) == 1
    with pytest.raises(InputError, match=message):
        raise InputError(problems[0])


@pytest.mark.parametrize("part", ["vision_config", "text_config"])
@pytest.mark.parametrize("layout", ["today's", "that of 2023"])
def test_a_llava_that_says_fewer_layers(layout: str, part: str, tmp_path: Path) -> None:
    folder = llava_checkpoints.llava(tmp_path / "today", "clip", "llama")
    if layout == "that of 2023":
        folder = llava_checkpoints.of_2023(tmp_path / "model", folder)
    edit(folder, part, "num_hidden_layers", to=1)
    refused(NO_PLACE, folder, lambda: load_vision_llm(folder))
    if part == "vision_config":  # of whose layers alone a new model is built
        with pytest.raises(InputError, match=NO_PLACE):
            build_model(folder, checkpoints.llm(tmp_path / "llm", "qwen3"))


@pytest.mark.parametrize(
    ("family", "part", "name"),
    [
        ("mt5", "vision_config", "num_hidden_layers"), ("mt5", "qformer_config", "num_hidden_layers"),
        ("mt5", "text_config", "num_layers"), ("mt5", "text_config", "num_decoder_layers"),
        ("llama", "text_config", "num_hidden_layers"), ("bloom", "text_config", "n_layer"),
    ],
)  # fmt: skip
def test_a_blip2_that_says_fewer_layers(family: str, part: str, name: str, tmp_path: Path) -> None:
    folder = checkpoints.blip2(tmp_path / "model", family)
    edit(folder, part, name, to=1)
    refused(NO_PLACE, folder, lambda: load_vision_llm(folder))
    if part != "text_config":
        with pytest.raises(InputError, match=NO_PLACE):
            build_model(folder, folder / "llm")


@pytest.mark.parametrize(("family", "name"), [("mt5", "num_layers"), ("llama", "num_hidden_layers")])
def test_a_language_model_or_tower_that_says_fewer_layers(family: str, name: str, tmp_path: Path) -> None:
    llm, tower = checkpoints.llm(tmp_path / "llm", family), llava_checkpoints.tower(tmp_path / "eyes", "clip")
    edit(llm, name, to=1)
    refused(NO_PLACE, llm, lambda: build_model("nano:nano-blip2-en", llm))
    edit(tower, "num_hidden_layers", to=2)
    refused(NO_PLACE, tower, lambda: build_model(tower, checkpoints.llm(tmp_path / "other", "qwen3")))


def test_weights_without_a_place_that_harm_nobody(tmp_path: Path) -> None:
    """A bias that the configuration denies is told; constants of old files and parts that are not built are not."""
    folder = llava_checkpoints.llava(tmp_path / "model", "clip", "llama")
    state = load_file(folder / "model.safetensors")
    table = next(value for value in state.values() if value.dim() == 2)
    for name in (
        "vision_tower.embeddings.position_ids",
        "language_model.layers.0.self_attn.rotary_emb.inv_freq",
        "text",
    ):
        state[name] = table.clone()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert check_model(folder).problems == []
    load_vision_llm(folder)
    edit(folder, "multimodal_projector_bias", to=False)
    refused(NO_PLACE, folder, lambda: load_vision_llm(folder))


@pytest.mark.parametrize("end", [5000, [1, 5000], -1])
def test_an_end_outside_the_vocabulary(end: int | list[int], tmp_path: Path) -> None:
    message = OUTSIDE.replace(r"\d+", r"-?\d+", 1)
    folder = llava_checkpoints.llava(tmp_path / "llava", "clip", "llama")
    edit(folder, "eos_token_id", to=end, file="generation_config.json")
    refused(message, folder, lambda: load_vision_llm(folder))
    edit(folder, "eos_token_id", to=None, file="generation_config.json")
    edit(folder, "text_config", "eos_token_id", to=end)
    refused(message, folder, lambda: load_vision_llm(folder))
    blip2 = checkpoints.blip2(tmp_path / "blip2", "mt5")
    edit(blip2, "text_config", "eos_token_id", to=end)
    refused(message, blip2, lambda: load_vision_llm(blip2))


def test_a_tokeniser_whose_end_the_language_model_lacks(tmp_path: Path) -> None:
    llm = checkpoints.llm(tmp_path / "llm", "qwen3")
    text = checkpoints.tokenizer("bytes")
    text.add_tokens([f"word{number}" for number in range(40)])
    text.add_special_tokens({"eos_token": "<end>"})
    text.save_pretrained(llm)
    tower = llava_checkpoints.tower(tmp_path / "eyes")
    refused(OUTSIDE, llm, lambda: build_model(tower, llm))
    refused(OUTSIDE, llm, lambda: build_model("nano:nano-blip2-en", llm))
