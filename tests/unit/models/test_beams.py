"""Keys and values of a text's encoder states are made once for all its beams, and the answers stay the same."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests import checkpoints

from mblip.errors import InputError
from mblip.models import load_vision_llm
from mblip.models.language_model import cache_name
from mblip.models.speedups import shared_beams, speed_up
from mblip.models.vision_llm import VisionLLM

PROMPTS = ["what is on the house", "how many", "Caption in German:", "is there a dog and a cat"]
BEAMS: dict[str, Any] = {"num_beams": 5, "max_new_tokens": 6, "length_penalty": -1.0}


@pytest.fixture(params=["mt5", "t5", "umt5"])
def vlm(request: pytest.FixtureRequest, tmp_path: Path) -> VisionLLM:
    return load_vision_llm(checkpoints.blip2(tmp_path / "model", request.param), dtype="fp32")


def test_beams_equal_those_of_stock_generation(vlm: VisionLLM) -> None:
    features = vlm.encode([Image.new("RGB", (40, 40), color) for color in ("red", "blue")])
    index = torch.tensor([[0], [1], [1], [0]])
    ours = vlm.generate_ids(PROMPTS, features, index, **BEAMS)
    batch = vlm.layout.prompts(PROMPTS, [1] * 4)
    with torch.no_grad():
        embedded = vlm.embed(batch["input_ids"], features, index)
        speed_up(vlm, [])
        stock = vlm.language_model.generate(
            inputs_embeds=embedded,
            attention_mask=batch["attention_mask"],
            pad_token_id=vlm.layout.pad_token_id,
            **BEAMS,
        )
    assert torch.equal(ours, stock)
    assert len({tuple(row.tolist()) for row in ours}) > 1


@pytest.mark.parametrize("options", [{"use_cache": False}, {"cache_implementation": "static"}])
def test_another_cache_is_not_shared_and_changes_no_answer(vlm: VisionLLM, options: dict[str, Any]) -> None:
    features = vlm.encode([Image.new("RGB", (40, 40), "red")])
    index = torch.zeros(4, 1, dtype=torch.long)
    wanted = vlm.generate_ids(PROMPTS, features, index, **BEAMS)
    assert torch.equal(vlm.generate_ids(PROMPTS, features, index, **BEAMS, **options), wanted)


def test_keys_are_made_once_a_text(vlm: VisionLLM) -> None:
    rows: list[int] = []
    layers = [module for name, module in vlm.language_model.named_modules() if name.endswith("EncDecAttention.k")]
    assert len(layers) == 2
    handles = [layer.register_forward_hook(lambda _, given, __: rows.append(len(given[0]))) for layer in layers]
    features = vlm.encode([Image.new("RGB", (40, 40), "red")])
    vlm.generate_ids(PROMPTS, features, torch.zeros(4, 1, dtype=torch.long), **BEAMS)
    for handle in handles:
        handle.remove()
    assert rows == [4, 4]  # texts, not beams, and in the first step alone


def test_the_first_step_is_taken_once_a_text(vlm: VisionLLM) -> None:
    rows: list[int] = []
    layer = next(m for name, m in vlm.language_model.named_modules() if name.endswith("decoder.block.0"))
    head: list[int] = []
    handles = [layer.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))]
    handles.append(
        vlm.language_model.get_output_embeddings().register_forward_hook(
            lambda _, given, __: head.append(len(given[0]))
        )
    )
    features = vlm.encode([Image.new("RGB", (40, 40), "red")])
    vlm.generate_ids(PROMPTS, features, torch.zeros(4, 1, dtype=torch.long), **{**BEAMS, "min_new_tokens": 6})
    for handle in handles:
        handle.remove()
    assert rows == head == [4, 20, 20, 20, 20, 20]


def test_a_longer_start_of_the_answers_is_read_once_a_text_too(vlm: VisionLLM) -> None:
    embedded, mask = torch.randn(2, 3, checkpoints.WIDTH), torch.ones(2, 3, dtype=torch.long)
    start = torch.tensor([[0, 7, 8, 9, 10], [0, 11, 12, 13, 14]])  # as many tokens as there are beams
    with torch.no_grad():
        inputs = shared_beams.inputs(vlm.llm, embedded, mask, 5)
        shared = vlm.language_model.generate(**inputs, decoder_input_ids=start, **BEAMS)
    alone = vlm.language_model.generate(inputs_embeds=embedded, attention_mask=mask, decoder_input_ids=start, **BEAMS)
    assert torch.equal(shared, alone)


def test_keys_are_kept_once_a_text(vlm: VisionLLM) -> None:
    embedded, mask = torch.randn(2, 3, checkpoints.WIDTH), torch.ones(2, 3, dtype=torch.long)
    speed_up(vlm)  # twice is once
    with torch.no_grad():
        inputs = shared_beams.inputs(vlm.llm, embedded, mask, 5)
        both = vlm.language_model.generate(**inputs, **BEAMS)
        layers = inputs[cache_name(vlm.language_model)].cross_attention_cache.layers
        assert [len(layer.keys) for layer in layers] == [2, 2]
        alone = vlm.language_model.generate(inputs_embeds=embedded, attention_mask=mask, **BEAMS)
    assert torch.equal(both, alone)


def test_threads_generate_and_score_with_one_model_at_once(vlm: VisionLLM) -> None:
    features, index = vlm.encode([Image.new("RGB", (40, 40), "red")]), torch.zeros(1, 1, dtype=torch.long)
    made: dict[str, Any] = vlm.layout.pairs(PROMPTS[:1], ["a dog"], [1])
    made |= {"image_features": features, "image_index": index}

    def beams(prompt: str) -> list[int]:
        return vlm.generate_ids([prompt], features, index, **BEAMS)[0].tolist()

    def score(_: str) -> list[int]:
        return [round(float(vlm(made, per_text=True)["loss"]) * 1e6)]

    jobs = [(work, prompt) for prompt in PROMPTS for work in (beams, score)] * 3
    alone = [work(prompt) for work, prompt in jobs]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda job: job[0](job[1]), jobs)) == alone


def test_a_family_that_names_its_layers_otherwise_has_copies_and_says_so(
    vlm: VisionLLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    features = vlm.encode([Image.new("RGB", (40, 40), "red")])
    index = torch.zeros(4, 1, dtype=torch.long)
    shared = vlm.generate_ids(PROMPTS, features, index, **BEAMS)
    assert not caplog.text
    monkeypatch.setattr("mblip.models.speedups.shared_beams._CROSS_ATTENTION", "encoder_attn")
    assert "encoder_attn" in speed_up(vlm)["shared_beams"]
    assert torch.equal(vlm.generate_ids(PROMPTS, features, index, **BEAMS), shared)
    assert "results are the same, only slower" in caplog.text


def test_a_family_with_caches_of_its_own_kind_is_left_alone_and_says_so(
    vlm: VisionLLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(type(vlm.language_model), "_supports_default_dynamic_cache", classmethod(lambda cls: False))
    assert "an unknown format" in speed_up(vlm)["shared_beams"]
    assert not vlm.speedups
    assert "results are the same, only slower" in caplog.text


def test_a_cache_that_comes_in_an_unknown_way_is_told(
    vlm: VisionLLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As happened when transformers 5.24 renamed the argument: right answers, but each beam read for itself."""
    features = vlm.encode([Image.new("RGB", (40, 40), "red")])
    index = torch.zeros(4, 1, dtype=torch.long)
    shared = vlm.generate_ids(PROMPTS, features, index, **BEAMS)
    monkeypatch.setattr("mblip.models.speedups.shared_beams._shared", lambda options: None)
    assert torch.equal(vlm.generate_ids(PROMPTS, features, index, **BEAMS), shared)
    assert "the beams of a text were not shared" in caplog.text


@pytest.mark.parametrize("name", ["cache", "past_key_values", "keys_of_the_past"])
def test_keys_and_values_go_by_the_name_that_the_class_has(name: str) -> None:
    class Named:
        pass

    scope: dict[str, Any] = {}
    exec(f"def forward(self, input_ids=None, {name}=None, **kwargs): ...", scope)
    Named.forward = scope["forward"]  # type: ignore[attr-defined]
    if name == "keys_of_the_past":  # it would vanish in the keyword arguments
        with pytest.raises(InputError, match="Named takes no keys and values"):
            cache_name(Named())
    else:
        assert cache_name(Named()) == name
