"""Texts without a picture beside those with one: in the mix, in batches, in the loss, in training and validation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import checkpoints
from torch import Tensor

from mblip.config import DataRecipe, MixSection, SourceSection, TrainRecipe, load_recipe
from mblip.errors import InputError
from mblip.mixture import build_mix
from mblip.models import VisionLLM, load_vision_llm
from mblip.models.speedups import speed_up
from mblip.processing.grouping import Mix, assign_micro_batches
from mblip.schema import Instruction
from mblip.storage import ShardReader, read_manifest
from mblip.training.loader import TrainLoader, _has_pictures
from mblip.training.logs import Note, StepLog, ValidationLog
from mblip.training.loop import read_log
from mblip.training.run import train

Make = Callable[..., TrainRecipe]
Launch = Callable[[int, Callable[[], object]], list[int]]
TEXTS = 60


@pytest.fixture(scope="session")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scenes of the nano world, and sixty Swahili texts without a picture."""
    folder = tmp_path_factory.mktemp("both")
    rows = [{"prompt": f"Sema {number}:", "answer": f"nyumba {number}"} for number in range(TEXTS)]
    (folder / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = load_recipe(DataRecipe, "data/nano_scenes", ("sources.scenes.options.scenes=60",))
    own = {"name": "own", "reader": "table", "translate": False}
    own["options"] = {"path": str(folder / "own.jsonl"), "task": "text", "licence": "own", "language": "sw"}
    data = recipe.model_dump(mode="json")
    build_mix(DataRecipe.model_validate(data | {"sources": [*data["sources"], own]}), folder / "mix")
    return folder / "mix"


def test_prompts_and_answers_reach_the_mix_as_they_are(both: Path) -> None:
    rows = [row for row in ShardReader(both, Instruction) if row.task == "text"]
    assert {(row.prompt, row.answer) for row in rows} == {(f"Sema {i}:", f"nyumba {i}") for i in range(TEXTS)}
    assert all(row.images == () and row.answer_language == row.prompt_language == "sw" for row in rows)
    manifest = read_manifest(both)
    assert manifest.by_task["text"] == TEXTS and "text" not in manifest.prompts


def test_each_text_stands_alone_and_is_drawn_once_an_epoch(both: Path) -> None:
    mix = Mix(MixSection(mix=str(both)))
    assert mix.text_only == TEXTS and 50 < mix.pictures <= 60
    order = mix.order(1, 0)[0 : len(mix)]
    assert sorted(order) == list(range(len(mix)))
    places = [place for place, row in enumerate(mix.take(order)) if not row.images]
    assert max(np.diff(places)) > 1 and len(set(np.diff(places))) > 3  # spread, not in one block
    alone, pictured = mix.part(text_only=True), mix.part(text_only=False)
    assert (len(alone), alone.pictures, len(pictured), pictured.text_only) == (TEXTS, 0, len(mix) - TEXTS, 0)


def test_texts_without_a_picture_are_not_kept_together() -> None:
    [parts] = assign_micro_batches([(), "a", (), "a", ()], [(9,), (1,), (1,), (1,), (9,)], 2)
    assert sorted(map(sorted, parts)) == [[0, 4], [1, 3], [2]]


def batch(vlm: VisionLLM, index: list[list[int]]) -> dict[str, Tensor]:
    prompts = [
        "Caption in German:",
        "how many red dog",
        "a",
        "Question: what is in the house? Short answer in English:",
    ]
    made = vlm.layout.pairs(
        prompts, ["ein Hund", "no", "two cat and a tree", "red"], [sum(i >= 0 for i in row) for row in index]
    )
    pictures = [np.random.default_rng(i).integers(0, 255, (40, 30, 3), dtype=np.uint8) for i in range(2)]
    return made | {"pixel_values": vlm.pixels(pictures).double(), "image_index": torch.tensor(index)}


@pytest.mark.parametrize("speedups", [(), ("packed_rows",)])
@pytest.mark.parametrize("family", ["mt5", "bloom", "gemma3"])
def test_the_loss_of_a_batch_with_both_kinds_is_that_of_each_text_alone(
    tmp_path: Path, family: str, speedups: tuple[str, ...]
) -> None:
    vlm = load_vision_llm(checkpoints.blip2(tmp_path / "model", family), dtype="fp32").double()
    speed_up(vlm, speedups)
    made = batch(vlm, [[0], [-1], [-1], [1]])
    together = vlm(made, per_text=True)["text_loss_sum"]
    for place in range(4):
        alone = {
            name: made[name][place : place + 1] for name in ("input_ids", "attention_mask", "labels", "image_index")
        }
        alone["pixel_values"] = made["pixel_values"] if place in (0, 3) else made["pixel_values"][:0]
        torch.testing.assert_close(vlm(alone, per_text=True)["text_loss_sum"][0], together[place], rtol=1e-7, atol=1e-9)


def test_a_batch_without_an_image_gives_every_weight_a_gradient_of_zero(tmp_path: Path) -> None:
    vlm = load_vision_llm(checkpoints.blip2(tmp_path / "model", "bloom"), dtype="fp32").double()
    made = batch(vlm, [[-1]] * 4) | {
        "pixel_values": torch.empty(0, 3, 28, 28),
        "image_index": torch.empty(4, 0, dtype=torch.long),
    }
    vlm(made)["loss"].backward()
    own = {id(parameter) for parameter in vlm.language_model.parameters()}
    bridge = [p.grad for p in vlm.parameters() if id(p) not in own]
    assert len(bridge) > 10 and all(grad is not None and not grad.any() for grad in bridge)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in [next(vlm.language_model.parameters())])


def test_a_share_of_texts_is_in_every_batch_and_an_epoch_is_one_of_the_pictures(
    both: Path, aligning: Make, tmp_path: Path
) -> None:
    train(aligning(f"data.mix={both}", "data.tasks=[]", "optim.steps=0"), tmp_path / "start")
    vlm = load_vision_llm(tmp_path / "start")
    recipe = aligning(f"data.mix={both}", "data.tasks=[]", "data.text_share=0.25", "optim.global_batch=16")
    feed = TrainLoader(recipe, both, tmp_path, vlm)
    pictured = len(Mix(MixSection(mix=str(both)))) - TEXTS
    assert feed.steps_per_epoch == pictured // 12
    drawn: list[str] = []
    for step in range(15):
        batches = feed.micro_batches(step)
        texts = [int((index < 0).all(1).sum()) for index in (one["image_index"] for one in batches)]
        assert sum(texts) == 4 and sum(len(one["labels"]) for one in batches) == 16
        drawn += [row.id for part in feed._instructions(step) for row in part if not row.images]
    assert len(drawn) == len(set(drawn)) == TEXTS  # each once in its own epoch


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("data.text_share=0.01",), "leaves one side without a text"),
        (("data.text_share=0.5", "data.tasks=[naming]", "optim.global_batch=8"), "the mix has no row without a picture"),
        (("data.text_share=0.5", "data.tasks=[text]"), "the mix has no row with a picture"),
        (("data.text_share=0.9", "optim.global_batch=80"), "60 texts without a picture, fewer than the 72"),
    ],
)  # fmt: skip
def test_a_share_that_cannot_be_is_told(
    both: Path, aligning: Make, tmp_path: Path, overrides: tuple[str, ...], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        train(aligning(f"data.mix={both}", "data.tasks=[]", *overrides), tmp_path / "run")


def test_the_projection_is_fitted_to_words_whatever_the_share(
    both: Path, aligning: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tasks that it is fitted to have no row without a picture."""
    monkeypatch.setattr("mblip.training.align.FIT_TEXTS", 64)
    options = (f"data.mix={both}", "data.tasks=[]", "model.fit_words=[cells]", "optim.steps=0", "optim.global_batch=4")
    for share in ("null", "0.3"):
        train(aligning(*options, f"data.text_share={share}"), tmp_path / share)
    fitted = [(tmp_path / share / "bridge.safetensors").read_bytes() for share in ("null", "0.3")]
    assert fitted[0] == fitted[1]


def test_a_mix_without_pictures_needs_no_store(both: Path, aligning: Make, tmp_path: Path) -> None:
    recipe = aligning(f"data.mix={both}", "data.tasks=[text]", "data.images=", "parts.llm=lora", "optim.steps=2")
    assert train(recipe, tmp_path / "run")["step"] == 2


def test_training_with_texts_goes_on_bit_for_bit_and_validates(both: Path, aligning: Make, tmp_path: Path) -> None:
    recipe = aligning(
        f"data.mix={both}", "data.tasks=[]", "data.text_share=0.3", "parts.llm=lora", "checkpoint_every=2", "validate_every=4",
        "validation_texts=24", "samples=4",
    )  # fmt: skip
    train(recipe, tmp_path / "whole")

    def stop(row: StepLog | ValidationLog | Note) -> None:
        if isinstance(row, StepLog) and row.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "cut", stop)
    train(recipe, tmp_path / "cut")
    assert (tmp_path / "whole/bridge.safetensors").read_bytes() == (tmp_path / "cut/bridge.safetensors").read_bytes()
    assert "text" in read_log(tmp_path / "whole/validation.jsonl")[-1]["by_task"]


def test_two_processes_wait_for_no_weight_in_a_batch_of_text_alone(
    both: Path, aligning: Make, in_processes: Launch, tmp_path: Path
) -> None:
    recipe = aligning(
        f"data.mix={both}",
        "data.tasks=[text]",
        "data.images=",
        "parts.llm=lora",
        "optim.steps=2",
        "optim.micro_batch=6",
    )
    train(recipe, tmp_path / "one")
    assert in_processes(2, lambda: train(recipe, tmp_path / "two")) == [0, 0]
    losses = [[row["loss"] for row in read_log(tmp_path / run / "metrics.jsonl")] for run in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=2e-5)


@pytest.mark.parametrize(
    ("reader", "options", "pictured"),
    [
        ("parallel", {}, False), ("chat", {}, False), ("table", {"task": "text"}, False),
        ("table", {"task": "translation"}, False), ("table", {"task": "caption"}, True), ("llava", {"text_only": True}, True),
    ],
)  # fmt: skip
def test_a_source_without_pictures_needs_no_store(reader: str, options: dict[str, Any], pictured: bool) -> None:
    source = SourceSection(name="own", reader=reader, options=options)
    assert _has_pictures(MixSection(source=source)) is pictured
