"""No product repeats a weight over the batch: training, generation and scoring make nothing larger than the output head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import checkpoints
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mblip.config import PartsSection
from mblip.models import VisionLLM, add_lora, load_vision_llm, set_trainable
from mblip.models.head import OutputHead, place_output_head
from mblip.models.scoring import score_candidates
from mblip.models.speedups import speed_up

PICTURES = [np.random.default_rng(i).integers(0, 255, (40, 30, 3), dtype=np.uint8) for i in range(2)]
PROMPTS = ["what is on the house", "how many", "Caption in German:", "is there a dog and a cat", "who is there", "no"]
ANSWERS = ["two cat", "ein Hund", "no", "a", "the red house", "ja"]
# So many words that the head outweighs every activation of the tiny layers, as a real one does.
ROWS = 3000


class Watch(TorchDispatchMode):
    """What operations make: the largest tensor, and views of a linear layer's weight that are larger than it is."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        weights = [layer.weight.untyped_storage() for layer in model.modules() if isinstance(layer, nn.Linear)]
        self.sizes = {storage._cdata: storage.nbytes() for storage in weights}
        self.largest, self.operation = 0, ""
        self.repeated: list[tuple[str, tuple[int, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                if leaf.numel() > self.largest:
                    self.largest, self.operation = leaf.numel(), f"{func} {tuple(leaf.shape)}"
                own = self.sizes.get(leaf.untyped_storage()._cdata)
                if own is not None and leaf.numel() * leaf.element_size() > own:
                    self.repeated.append((str(func), tuple(leaf.shape)))
        return made


@contextmanager
def watched(vlm: VisionLLM) -> Iterator[None]:
    """Fails where a weight is repeated, or where something is larger than the output head."""
    head = vlm.language_model.get_output_embeddings().weight
    with Watch(vlm) as watch:
        yield
    assert not watch.repeated
    assert 0 < watch.largest <= head.numel(), watch.operation


@pytest.fixture(scope="module", params=["mt5", "umt5", "bloom", "opt", "llama", "gemma3", "cohere"])
def vlm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VisionLLM:
    folder = checkpoints.blip2(tmp_path_factory.mktemp(request.param) / "model", request.param, unused_rows=ROWS)
    return load_vision_llm(folder, dtype="fp32").requires_grad_(False)


def training_batch(vlm: VisionLLM) -> dict[str, Tensor]:
    batch: dict[str, Tensor] = vlm.layout.pairs(PROMPTS, ANSWERS, [1] * 6)
    index = torch.tensor([[0], [1], [1], [0], [0], [1]])
    return {**batch, "image_features": vlm.encode(PICTURES), "image_index": index}


@pytest.mark.parametrize("generation", [{}, {"num_beams": 5}, {"repetition_penalty": 1.5}], ids=str)
def test_generation(vlm: VisionLLM, generation: dict[str, Any]) -> None:
    features, index = vlm.encode(PICTURES), torch.tensor([[0], [1], [1], [0], [0], [1]])
    with watched(vlm):
        ids = vlm.generate_ids(PROMPTS, features, index, max_new_tokens=4, min_new_tokens=3, **generation)
    assert len(ids) == 6


def test_scoring_and_logits(vlm: VisionLLM) -> None:
    batch = training_batch(vlm)
    with watched(vlm):
        scores = score_candidates(vlm, PICTURES[0], PROMPTS[0], ANSWERS)
        vlm.logits({name: value[:2] for name, value in batch.items()})
    assert len(set(scores)) == 6


@pytest.mark.parametrize("packs", [True, False], ids=["packed rows", "a row a text"])
def test_training_of_the_bridge(vlm: VisionLLM, packs: bool) -> None:
    assert not speed_up(vlm, ["packed_rows"] if packs else [])
    batch = training_batch(vlm)
    features = batch["image_features"].requires_grad_()
    with watched(vlm):
        vlm({**batch, "image_features": features})["loss"].backward()
    assert features.grad is not None and features.grad.abs().sum() > 0


@pytest.mark.parametrize("family", ["mt5", "bloom", "llama"])
@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "autocast"])
def test_training_of_lora(family: str, autocast: bool, tmp_path: Path) -> None:
    vlm = load_vision_llm(checkpoints.blip2(tmp_path / "model", family, unused_rows=ROWS), dtype="fp32")
    add_lora(vlm, 4, 16, 0.1)
    set_trainable(vlm, PartsSection())
    speed_up(vlm, ["fused_layers"])
    batch = training_batch(vlm)
    pixels = vlm.pixels(PICTURES)
    vlm.train()
    with watched(vlm), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        vlm({**{name: value for name, value in batch.items() if name != "image_features"}, "pixel_values": pixels})[
            "loss"
        ].backward()
    assert vlm.model.language_projection.weight.grad is not None


def test_the_watch_sees_a_repeated_weight() -> None:
    layer = nn.Linear(8, 50, bias=False).requires_grad_(False)
    states = torch.randn(6, 3, 8)[:, -1:]
    with Watch(layer) as watch:
        states @ layer.weight.t().expand(6, 8, 50)
    assert watch.largest == 6 * layer.weight.numel()
    assert watch.repeated


def torch_repeats() -> bool:
    """Whether this torch repeats a frozen weight for rows with gaps: 2.13 does, 2.14 does not."""
    layer = nn.Linear(8, 50, bias=False).requires_grad_(False)
    with Watch(layer) as watch:
        layer(torch.randn(6, 3, 8)[:, -1:])
    return bool(watch.repeated)


@pytest.mark.skipif(not torch_repeats(), reason="this torch does without repeating")
@pytest.mark.parametrize("family", ["bloom", "llama", "gemma3"])
def test_a_plain_head_is_repeated(family: str, tmp_path: Path) -> None:
    """Why the head is one of our own, as long as such a torch is supported."""
    vlm = load_vision_llm(checkpoints.blip2(tmp_path / "model", family, unused_rows=ROWS), dtype="fp32").requires_grad_(
        False
    )
    head = vlm.language_model.get_output_embeddings()
    plain = nn.Linear(1, 1, bias=False)
    plain.weight = head.weight
    vlm.language_model.lm_head = plain
    features, index = vlm.encode(PICTURES), torch.tensor([[0], [1], [1], [0], [0], [1]])
    with Watch(vlm) as watch:
        vlm.generate_ids(PROMPTS, features, index, max_new_tokens=1)
    assert watch.largest == 6 * head.weight.numel()
    assert watch.repeated


@pytest.mark.parametrize("family", ["mt5", "t5", "bloom", "cohere", "opt"])
def test_the_head_has_the_very_parameters_and_names_of_the_one_before(family: str, tmp_path: Path) -> None:
    vlm = load_vision_llm(checkpoints.blip2(tmp_path / "model", family))
    head, table = vlm.language_model.get_output_embeddings(), vlm.model.get_input_embeddings()
    assert type(head) is OutputHead
    assert (head.weight is table.weight) is (not checkpoints.FAMILIES[family][2])
    before = vlm.model.state_dict().keys()
    place_output_head(vlm.language_model)
    assert vlm.language_model.get_output_embeddings() is head, "once is enough"
    assert vlm.model.state_dict().keys() == before
    assert head.weight.shape == (head.out_features, head.in_features)


def test_a_head_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    class Scaled(nn.Linear):
        def forward(self, hidden: Tensor) -> Tensor:
            return super().forward(hidden) * 2

    vlm = load_vision_llm(checkpoints.blip2(tmp_path / "model", "llama"))
    vlm.language_model.lm_head = other = Scaled(checkpoints.WIDTH, 5)
    place_output_head(vlm.language_model)
    assert vlm.language_model.get_output_embeddings() is other
