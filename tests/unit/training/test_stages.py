from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mblip
from mblip.config import TrainRecipe
from mblip.errors import InputError, ResourceError, TrainingError
from mblip.models import VisionLLM, load_vision_llm, parameters_by_part
from mblip.models.prepare import prepare_model, prepare_shape
from mblip.models.scoring import score_candidates
from mblip.nano.scenes import Scene, render
from mblip.training import align
from mblip.training.align import text_loss
from mblip.training.loader import TrainLoader
from mblip.training.logs import StepLog, ValidationLog, read_log
from mblip.training.loop import Stopped
from mblip.training.run import train

Make = Callable[..., TrainRecipe]
SCENE = render(Scene((("fox", 0),), 1))


def part(run: Path, name: str) -> dict[str, Tensor]:
    return {key: value.detach() for key, value in parameters_by_part(load_vision_llm(run))[name]}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_warm_up_trains_the_projection_and_alignment_goes_on_from_it(aligning: Make, tmp_path: Path) -> None:
    warm = ("stage=warmup", "parts.qformer=frozen")
    train(aligning("optim.steps=0"), tmp_path / "start")
    train(aligning(*warm), tmp_path / "warm")
    for name in ("queries", "qformer", "projection", "vision", "llm"):
        assert equal(part(tmp_path / "start", name), part(tmp_path / "warm", name)) == (name != "projection"), name
    train(aligning(f"model.run={tmp_path / 'warm'}", "optim.steps=0"), tmp_path / "align")
    assert equal(part(tmp_path / "warm", "projection"), part(tmp_path / "align", "projection"))
    bases = [json.loads((tmp_path / run / "mblip.json").read_text())["bases"] for run in ("start", "align")]
    assert bases[0] == bases[1]


@pytest.mark.parametrize("merge", [True, False])
def test_fine_tuning_merges_the_lora_or_goes_on_with_it(aligning: Make, tmp_path: Path, merge: bool) -> None:
    train(aligning("parts.llm=lora", "optim.lora_lr=1e-2"), tmp_path / "first")
    fine = (f"model.run={tmp_path / 'first'}", f"model.merge={merge}", "stage=finetune", "parts.llm=lora")
    train(aligning(*fine, "optim.steps=0"), tmp_path / "unchanged")
    prompt = "Objects in German:"
    wanted, found = (
        score_candidates(load_vision_llm(tmp_path / run, dtype="fp32"), SCENE, prompt, ["Fuchs", "Hund"])
        for run in ("first", "unchanged")
    )
    assert wanted == pytest.approx(found, abs=1e-4)
    train(aligning(*fine, "optim.lora_lr=1e-2"), tmp_path / "second")
    adapters = json.loads((tmp_path / "second/mblip.json").read_text())["adapters"]
    assert adapters == (["adapters/0", "adapter"] if merge else ["adapter"])
    fresh, first = part(tmp_path / "unchanged", "lora"), part(tmp_path / "first", "lora")
    assert equal(fresh, first) != merge
    assert all(float(value.abs().sum()) == 0 for name, value in fresh.items() if "lora_B" in name) == merge
    assert not equal(part(tmp_path / "second", "lora"), fresh)


def test_a_part_that_an_earlier_run_trained_in_full_is_kept(aligning: Make, tmp_path: Path) -> None:
    train(aligning("parts.vision=full"), tmp_path / "first")
    train(aligning("optim.steps=0"), tmp_path / "start")
    assert not equal(part(tmp_path / "start", "vision"), part(tmp_path / "first", "vision"))
    train(aligning(f"model.run={tmp_path / 'first'}", "stage=finetune"), tmp_path / "second")
    assert equal(part(tmp_path / "first", "vision"), part(tmp_path / "second", "vision"))


def test_stages_that_contradict_their_parts_are_refused(aligning: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="warmup trains only the projection, but parts trains qformer, projection"):
        train(aligning("stage=warmup"), tmp_path / "a")
    with pytest.raises(InputError, match=r"set model\.run"):
        train(aligning("stage=finetune"), tmp_path / "b")
    with pytest.raises(InputError, match=r"set model\.run, or both model\.vision and model\.llm"):
        train(aligning("model.llm="), tmp_path / "c")
    frozen = ("parts.qformer=frozen", "parts.projection=frozen")
    with pytest.raises(InputError, match="parts: all parts are frozen, so nothing would be trained"):
        train(aligning(*frozen), tmp_path / "d")
    train(aligning(*frozen, "optim.steps=0"), tmp_path / "nothing")
    with pytest.raises(InputError, match=r"crop_scale: the minimum 0\.9 is above the maximum 0\.1"):
        train(aligning("data.crop_scale=[0.9,0.1]"), tmp_path / "e")


def test_what_cannot_work_is_told_before_a_model_is_loaded(
    aligning: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    nowhere = ("model.vision=no/such", "model.llm=no/such")
    with pytest.raises(InputError, match="tracker 'wandb' is not installed"):
        train(aligning("tracker=wandb", *nowhere), tmp_path / "a")
    with pytest.raises(InputError, match=r"set one of optim\.steps and optim\.epochs, and the other to null"):
        train(aligning("optim.epochs=1", *nowhere), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_run_is_not_asked_for_what_it_does_not_have(aligning: Make, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(aligning("optim.steps=0"), run)
    bases = Path(mblip.__file__).parent / "nano/bases"
    shutil.copytree(bases / "nano-mlm", tmp_path / "copy")
    same = (f"model.run={run}", "optim.steps=0")
    train(aligning(*same, f"model.llm={tmp_path / 'copy'}", "model.bridge=qformer"), tmp_path / "on")
    train(aligning(*same, "model.llm=", "model.vision="), tmp_path / "on2")
    asked = {
        f"model.llm={run}": "which was trained on nano:nano-mlm: leave model.llm out \\(model.llm=\\)",
        f"model.llm={bases / 'nano-blip2-en'}": "trained on nano:nano-mlm",
        "model.vision=google/another": "which was trained on nano:nano-blip2-en: leave model.vision out",
        "model.bridge=mlp": r"whose own is qformer: leave model.bridge out \(model.bridge=null\)",
        "model.vision_feature_layer=[-2, -1]": "which has a Q-Former instead of an MLP",
        "model.qformer=random": r"trained already: leave model.qformer out \(model.qformer=keep\)",
    }
    for field, message in asked.items():
        recipe = aligning(*same, field)
        with pytest.raises(InputError, match=f"^{field.partition('=')[0]} is .* continues {run}, .*{message}"):
            train(recipe, tmp_path / "refused")
        with pytest.raises(InputError, match=message):
            prepare_shape(recipe)
    assert not (tmp_path / "refused").exists()


def test_a_rate_of_zero_for_the_projection_is_zero(aligning: Make, tmp_path: Path) -> None:
    row = train(aligning("optim.steps=1", "optim.warmup_steps=0", "optim.projection_lr=0"), tmp_path / "run")
    assert row["lr_projection"] == 0 < row["lr_qformer"]


def test_a_validation_that_a_stop_left_out_is_made_by_the_next_start(aligning: Make, tmp_path: Path) -> None:
    recipe = aligning("validate_every=2", "validation_texts=8", "samples=0", "checkpoint_every=2")
    train(recipe, tmp_path / "whole")

    def stop_at_two(row: object) -> None:
        if isinstance(row, StepLog) and row.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match="after step 2"):
        train(recipe, tmp_path / "cut", stop_at_two)
    assert not (tmp_path / "cut/validation.jsonl").exists()
    train(recipe, tmp_path / "cut")
    whole, cut = (
        [(row["step"], row["loss"]) for row in read_log(tmp_path / run / "validation.jsonl")]
        for run in ("whole", "cut")
    )
    assert whole == cut and len(whole) == 2


def passes(vlm: VisionLLM) -> Counter[str]:
    """Counts how often the first layer of each part is run."""
    counts: Counter[str] = Counter()
    layers = {
        "vision": vlm.model.vision_model.encoder.layers[0].mlp,
        "qformer": vlm.model.qformer.encoder.layer[0].attention.attention,
        "llm": vlm.language_model.encoder.block[0].layer[0].SelfAttention,
    }
    for name, layer in layers.items():
        layer.register_forward_pre_hook(lambda module, args, name=name: counts.update([name]))
    return counts


@pytest.mark.parametrize("kept", [(), ("vision",), ("qformer",), ("llm",), ("vision", "qformer", "llm")])
def test_checkpointing_recomputes_the_named_parts_and_changes_nothing(
    aligning: Make, mix: Path, tmp_path: Path, kept: tuple[str, ...]
) -> None:
    gradients = []
    for parts in ((), kept):
        recipe = aligning("parts.vision=full", "parts.llm=lora", "lora.dropout=0", f"checkpointing={list(parts)}")
        torch.manual_seed(0)
        vlm = prepare_model(recipe)
        assert "packed_rows" in vlm.speedups
        counts = passes(vlm)
        [batch, *_] = TrainLoader(recipe, mix, tmp_path, vlm).micro_batches(0)
        text_loss(vlm, batch)["loss"].backward()
        gradients.append({name: p.grad.clone() for name, p in vlm.named_parameters() if p.grad is not None})
        assert counts == {name: 2 if name in parts else 1 for name in ("vision", "qformer", "llm")}
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 100
    largest = max(float(gradient.abs().max()) for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-5 * largest), name


def test_what_learns_is_fp32_and_what_is_frozen_is_not(aligning: Make) -> None:
    vlm = prepare_model(aligning("precision=bf16", "parts.llm=lora"))
    kinds = {
        (p.requires_grad, p.dtype) for name, p in vlm.named_parameters() if name.startswith("model.language_model")
    }
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    vlm = prepare_model(aligning("precision=bf16", "parts.llm=full", "parts.vision=full"))
    assert {p.dtype for p in vlm.parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", ["none", "int8", "nf4"])
def test_bf16_trains_on_every_quantisation(aligning: Make, tmp_path: Path, kind: str) -> None:
    recipe = aligning("precision=bf16", "parts.llm=lora", f"model.quantization={kind}", "checkpointing=[llm]")
    train(recipe, tmp_path / "run")
    losses = [row["loss"] for row in read_log(tmp_path / "run/metrics.jsonl")]
    train(aligning("parts.llm=lora"), tmp_path / "fp32")
    exact = [row["loss"] for row in read_log(tmp_path / "fp32/metrics.jsonl")]
    assert losses[0] == pytest.approx(exact[0], rel=0.08 if kind == "nf4" else 0.01)
    lora = [value for name, value in part(tmp_path / "run", "lora").items() if "lora_B" in name]
    assert all(torch.isfinite(value).all() and value.abs().sum() > 0 for value in lora) and len(losses) == 4


def test_validation_measures_by_task_and_language_and_leaves_the_training_alone(aligning: Make, tmp_path: Path) -> None:
    recipe = aligning("validate_every=2", "validation_texts=20", "samples=6", "optim.micro_batch=7")
    told: list[object] = []
    train(recipe, tmp_path / "run", told.append)
    rows = read_log(tmp_path / "run/validation.jsonl")
    assert [row["step"] for row in rows] == [2, 4]
    assert [row.step for row in told if isinstance(row, ValidationLog)] == [2, 4]
    vlm = load_vision_llm(tmp_path / "run", dtype="fp32")
    feed = TrainLoader(recipe, Path(recipe.data.mix), tmp_path, vlm)
    held, store = feed.held
    trained_on = {key for step in range(60) for batch in feed._instructions(step) for r in batch for key in r.images}
    assert not {f"0/{row.images[0]}" for row in held} & trained_on
    last = rows[-1]
    assert last["texts"] == len(held) >= 20 and set(last["by_language"]) == {row.answer_language for row in held}
    scores = [
        score_candidates(vlm, store.get(row.images[0]), row.prompt, [row.answer])[0]
        for row in held
        if row.task == "naming"
    ]
    naming = [row for row in held if row.task == "naming"]
    lengths = vlm.layout.lengths([row.prompt for row in naming], [row.answer for row in naming])
    tokens = sum(answer + 1 for _, answer in lengths)
    assert last["by_task"]["naming"] == pytest.approx(-sum(scores) / tokens, rel=1e-3)
    assert len(last["samples"]) == 6 and all(sample["prompt"] and sample["reference"] for sample in last["samples"])
    train(recipe.model_copy(update={"validate_every": 4}), tmp_path / "rarely")
    both = [(tmp_path / run / "bridge.safetensors").read_bytes() for run in ("run", "rarely")]
    assert both[0] == both[1]


def test_a_broken_batch_is_named_by_its_texts(aligning: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mblip.training import align

    def broken(model: torch.nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        values = text_loss(model, batch)
        steps[0] += 1
        return {**values, "loss_sum": values["loss_sum"] * (float("nan") if steps[0] == 6 else 1)}

    steps = [0]
    monkeypatch.setattr(align, "text_loss", broken)
    recipe = aligning("checkpoint_every=2")
    with pytest.raises(TrainingError) as error:
        train(recipe, tmp_path / "run")
    feed = TrainLoader(recipe, Path(recipe.data.mix), tmp_path, prepare_model(recipe))
    first = feed._instructions(2)[1][0].id
    assert f"became nan in micro-batch 1 of step 3 (texts {first}, " in str(error.value)
    assert "step-00000002" in str(error.value)


def test_a_model_that_does_not_fit_names_what_to_change(
    aligning: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(align, "prepare_model", full)
    with pytest.raises(ResourceError, match=r"out of memory while the model was loaded: set model\.quantization=nf4"):
        train(aligning(), tmp_path)
    with pytest.raises(ResourceError, match="loaded: use a smaller language model; mblip plan shows"):
        train(aligning("parts.llm=full"), tmp_path)
