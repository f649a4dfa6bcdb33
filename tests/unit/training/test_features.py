"""Kept features: with and without them a run is the same to the last bit, and each picture is encoded once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from tests import checkpoints, llava_checkpoints
from torch import Tensor

from mblip.config import TrainRecipe
from mblip.errors import InputError
from mblip.models.containers import Container
from mblip.models.prepare import prepare_model
from mblip.nano.scenes import Scene
from mblip.schema import Instruction
from mblip.storage import ShardWriter, write_manifest
from mblip.training import features
from mblip.training.align import text_loss
from mblip.training.features import KeptFeatures
from mblip.training.loader import TrainLoader
from mblip.training.logs import Note, StepLog, ValidationLog, read_log
from mblip.training.loop import Batch
from mblip.training.run import train

Make = Callable[..., TrainRecipe]
Launch = Callable[[int, Callable[[], object]], list[int]]
PICTURES, EPOCH, STEPS = 12, 7, 10
ON, OFF = "data.keep_features=on", "data.keep_features=off"


def write_mix(folder: Path, count: int = PICTURES, name: str = "p", broken: str = "") -> Path:
    """Two texts a picture, one about it and the next one together, and four without a picture."""
    keys = [Scene((("fox", number % 4),), number).key for number in range(count)]
    if broken:
        keys[3] = broken
    texts: list[tuple[str, tuple[str, ...], str]] = [(f"{n}", (key,), "Name it:") for n, key in enumerate(keys)]
    texts += [(f"{n}-both", (key, keys[(n + 1) % count]), "Both?") for n, key in enumerate(keys)]
    texts += [(f"{n}-bare", (), "Say yes:") for n in range(4)]
    with ShardWriter(folder, Instruction) as writer:
        writer.extend(
            Instruction(f"{name}/{n}", name, "naming", images, prompt, "mbweha" if n[-1] < "5" else "ndiyo", "sw", "en")
            for n, images, prompt in texts
        )
    write_manifest(folder, Instruction, seed=0, recipe_hash="x", licences={name: "MIT"})
    return folder


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("parts")
    tower, llm = llava_checkpoints.tower(folder / "tower", "clip"), checkpoints.llm(folder / "llm", "qwen3")
    return (f"model.vision={tower}", f"model.llm={llm}", "model.bridge=mlp")


@pytest.fixture
def small(aligning: Make, llava: tuple[str, ...], tmp_path: Path) -> Make:
    """An epoch and a half of few texts, with the smallest model."""
    mix = write_mix(tmp_path / "mix")
    options = (
        f"data.mix={mix}",
        "data.tasks=[]",
        "optim.global_batch=4",
        "optim.micro_batch=2",
        f"optim.steps={STEPS}",
    )
    return lambda *overrides: aligning(*options, *llava, *overrides)


EYES = {"llava": (), "blip2": ("model.vision=nano:nano-blip2-en", "model.llm=nano:nano-mlm", "model.bridge=qformer")}


def run(recipe: TrainRecipe, folder: Path) -> list[str]:
    """Train; what was said of kept features."""
    notes: list[str] = []

    def told(row: StepLog | ValidationLog | Note) -> None:
        if isinstance(row, Note) and row.text.startswith("kept features"):
            notes.append(row.text)

    train(recipe, folder, told)
    return notes


def assert_same(one: Path, other: Path, steps: int = STEPS) -> None:
    losses = [
        [(row["loss"], row["grad_norm"], row["tokens"]) for row in read_log(folder / "metrics.jsonl")]
        for folder in (one, other)
    ]
    assert len(losses[0]) == steps and losses[0] == losses[1]
    assert (one / "bridge.safetensors").read_bytes() == (other / "bridge.safetensors").read_bytes()


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of an image encoder had."""
    counts: list[int] = []

    def count(kind: type[Container]) -> None:
        real = kind.vision_states

        def spy(self: Container, pixel_values: Tensor) -> Tensor:
            counts.append(len(pixel_values))
            return real(self, pixel_values)

        monkeypatch.setattr(kind, "vision_states", spy)

    for kind in Container.__subclasses__():
        count(kind)
    return counts


@pytest.mark.parametrize("eyes", ["blip2", "llava"])
def test_a_run_is_the_same_to_the_last_bit_and_encodes_each_picture_once(
    small: Make, eyes: str, encoded: list[int], tmp_path: Path
) -> None:
    learns = (*EYES[eyes], "parts.llm=lora", "optim.lora_lr=2e-3", "lora.dropout=0.1", "data.workers=2")
    assert run(small(*learns, OFF), tmp_path / "plain") == []
    plain = sum(encoded)
    encoded.clear()
    [note] = run(small(*learns), tmp_path / "kept")
    assert note.startswith("kept features: on, 12 pictures take 0.00 GiB, ")
    assert_same(tmp_path / "plain", tmp_path / "kept")
    # One more tells how large the states of a picture are.
    assert sum(encoded) == PICTURES + 1 < plain / 2


@pytest.mark.parametrize("eyes", ["blip2", "llava"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_loss_and_gradients_are_the_same_bits(small: Make, eyes: str, precision: str, tmp_path: Path) -> None:
    recipe = small(*EYES[eyes], f"precision={precision}")
    vlm = prepare_model(recipe)
    feed = TrainLoader(recipe, tmp_path / "mix", tmp_path, vlm)
    kept = KeptFeatures(vlm, 1 << 30, [0])

    def step(number: int, fill: Callable[[Batch], Batch]) -> tuple[list[Tensor], list[int]]:
        vlm.zero_grad()
        read, losses = [], []
        for batch in feed.micro_batches(number):
            torch.manual_seed(number)
            read.append(len(batch["pixel_values"]))
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                values = text_loss(vlm, fill(batch))
            values["loss_sum"].backward()  # type: ignore[no-untyped-call]
            losses += [values["loss_sum"].detach(), values["images"]]
        gradients = [parameter.grad for parameter in vlm.parameters() if parameter.grad is not None]
        assert len(gradients) > 3
        return [*losses, *(gradient.clone() for gradient in gradients)], read

    numbers = [*range(EPOCH), EPOCH, EPOCH + 2]
    plain = [step(number, lambda batch: batch)[0] for number in numbers]
    feed.keep(kept)
    found = [step(number, kept.fill) for number in numbers]
    for one, (other, _) in zip(plain, found, strict=True):
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True))
    assert sum(found[0][1]) > 0
    assert sum(sum(read) for _, read in found[EPOCH:]) == 0  # what is held is not read either


def test_what_does_not_fit_is_encoded_every_time(
    small: Make, encoded: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run(small(OFF), tmp_path / "plain")
    plain = sum(encoded)
    encoded.clear()
    size = features._picture_bytes(prepare_model(small()), small())
    encoded.clear()
    limit = f"data.features_gib={5.5 * size / 2**30}"
    [note] = run(small(limit), tmp_path / "auto")
    assert note.startswith(
        "kept features: off, because 12 pictures take 0.00 GiB, 0.00 GiB may be used (data.features_gib;"
    )
    assert sum(encoded) == plain + 1
    encoded.clear()
    [note] = run(small(limit, ON), tmp_path / "some")
    assert note.startswith("kept features: on, 12 pictures")
    assert PICTURES + 1 < sum(encoded) < plain
    for other in ("auto", "some"):
        assert_same(tmp_path / "plain", tmp_path / other)
    # Left to itself it takes half of what is free, shared by the processes of the machine.
    monkeypatch.setattr(features, "free_memory", lambda: 24 * size)
    assert features._limit(small()) == 12 * size
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert features._limit(small()) == 3 * size
    monkeypatch.setattr(features, "free_memory", lambda: None)
    assert features._limit(small()) == 0
    assert features._limit(small("data.features_gib=2")) == 1 << 29


def test_a_run_that_was_stopped_goes_on_with_the_same_bits_with_or_without(small: Make, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(row: StepLog | ValidationLog | Note) -> None:
        if isinstance(row, StepLog) and row.step == 8:
            raise Stop

    run(small(OFF, "checkpoint_every=4"), tmp_path / "whole")
    for before, after in (("auto", "on"), ("auto", "off")):
        folder = tmp_path / after
        with pytest.raises(Stop):
            train(small(f"data.keep_features={before}", "checkpoint_every=4"), folder, stop)
        train(small(f"data.keep_features={after}", "checkpoint_every=4"), folder)
        assert (folder / "bridge.safetensors").read_bytes() == (tmp_path / "whole/bridge.safetensors").read_bytes()


def test_two_processes_keep_their_own(small: Make, in_processes: Launch, tmp_path: Path) -> None:
    for name, option in (("plain", OFF), ("kept", ON)):
        assert in_processes(2, partial(train, small(option), tmp_path / name)) == [0, 0]
    assert_same(tmp_path / "plain", tmp_path / "kept")


def test_validation_measures_the_same(small: Make, tmp_path: Path) -> None:
    for name, option in (("plain", OFF), ("kept", ON)):
        run(small(option, "validate_every=4", "validation_texts=4", "samples=2"), tmp_path / name)
    rows = [read_log(tmp_path / name / "validation.jsonl") for name in ("plain", "kept")]
    for row in (row for both in rows for row in both):
        row.pop("seconds")
    assert len(rows[0]) == 3 and rows[0] == rows[1]
    assert_same(tmp_path / "plain", tmp_path / "kept")


def test_pictures_that_come_once_are_not_held(small: Make, encoded: list[int], tmp_path: Path) -> None:
    """The replayed mix of two is longer than the run; and of a run of one epoch nothing is held."""
    replay = write_mix(tmp_path / "replay", 60, "r")
    both = (f"data.replay={replay}", "data.replay_images=nano:scenes", "optim.steps=20")
    [note] = run(small(ON, *both), tmp_path / "kept")
    assert note.startswith("kept features: on, 12 pictures")
    kept = sum(encoded)
    encoded.clear()
    run(small(OFF, *both), tmp_path / "plain")
    assert PICTURES < kept < sum(encoded) - PICTURES
    assert_same(tmp_path / "plain", tmp_path / "kept", 20)
    assert run(small("optim.steps=7"), tmp_path / "once") == []
    assert len(run(small("optim.steps=8"), tmp_path / "again")) == 1


def test_unreadable_pictures_count_once_in_many_epochs(small: Make, tmp_path: Path) -> None:
    """One of twelve cannot be read: a tenth of all, however often it is tried while the others are held."""
    write_mix(tmp_path / "holed", broken="no-such-scene")
    for number, option in enumerate((ON, OFF)):
        recipe = small(option, f"data.mix={tmp_path / 'holed'}", "data.max_unreadable=0.1", "optim.steps=22")
        assert train(recipe, tmp_path / f"run{number}")["unreadable_images"] == 1
    with pytest.raises(InputError, match=r"1 of \d+ images? cannot be read"):
        train(small(ON, f"data.mix={tmp_path / 'holed'}", "data.max_unreadable=0.02"), tmp_path / "strict")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.crop_scale=[0.5,1]", r"data\.crop_scale crops each picture differently"),
        ("data.flip=true", r"data\.flip mirrors pictures at random"),
        ("parts.vision=full", r"parts\.vision is trained"),
        ("sharding=full", r"with sharding=full all processes encode together"),
    ],
)
def test_what_stands_against_it_is_named(small: Make, override: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^data\.keep_features=on: {told}.*; change that, or set auto$"):
        train(small(ON, override), tmp_path / "on")
    assert not (tmp_path / "on").exists()
    [note] = run(small(override, "optim.steps=8"), tmp_path / "auto")
    assert note.startswith("kept features: off, because ") and told.replace("\\", "") in note
