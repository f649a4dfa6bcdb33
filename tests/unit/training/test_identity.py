"""What must be as it was for a run that was stopped to go on, and what may be another."""

from __future__ import annotations

import json
import shutil
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mblip.config import DataRecipe, TrainRecipe, hash_recipe, load_recipe
from mblip.errors import InputError
from mblip.mixture import build_mix
from mblip.nano.recipe_kinds import TextRecipe, VisionRecipe
from mblip.settings import Section
from mblip.training import align
from mblip.training.identity import IDENTITY
from mblip.training.loop import LoopConfig, fit
from mblip.training.run import train

Make = Callable[..., TrainRecipe]
FREE = {
    "TrainRecipe": "title paper more_languages checkpointing sharding speedups samples tracker checkpoint_every "
    "keep_checkpoints log_every",
    "MixSection": "max_unreadable workers keep_features features_gib",
    "OptimSection": "micro_batch",
    "TextRecipe": "title paper more_languages checkpoint_every log_every",
    "VisionRecipe": "title paper more_languages checkpoint_every log_every",
}


def sections(kind: type[Section]) -> Iterator[type[Section]]:
    yield kind
    for field in kind.model_fields.values():
        for found in (field.annotation, *typing.get_args(field.annotation)):
            if isinstance(found, type) and issubclass(found, Section):
                yield from sections(found)


def test_every_field_of_a_training_recipe_says_whether_it_decides_what_is_learnt() -> None:
    found = {kind for recipe in (TrainRecipe, TextRecipe, VisionRecipe) for kind in sections(recipe)}
    assert {kind.__name__ for kind in found} == {
        "TrainRecipe", "TextRecipe", "VisionRecipe", "PhaseSection", "ModelSection", "PartsSection", "LoraSection",
        "MixSection", "SourceSection", "AllocationSection", "OptimSection",
    }  # fmt: skip
    for kind in found:
        identity = kind.identity
        assert identity is not None, kind
        named = [*identity.decides, *identity.whether, *identity.content, *identity.free]
        assert sorted(named) == sorted(kind.model_fields), f"{kind.__name__}: classify each field once"
        # Golden: whoever lets another field be changed within a run says so here too.
        assert " ".join(identity.free) == FREE.get(kind.__name__, ""), kind
        assert identity.whether == (("validate_every",) if kind is TrainRecipe else ())
        assert identity.content == (("mix", "replay") if kind.__name__ == "MixSection" else ())


def stopped(recipe: TrainRecipe, run: Path, monkeypatch: pytest.MonkeyPatch, after: int = 2) -> None:
    """Run a recipe until a step, with a checkpoint after it, as a power cut would."""

    def cut(job: LoopConfig) -> object:
        batches = job.batches

        def ends(step: int) -> object:
            if step == after:
                raise KeyboardInterrupt
            return batches(step)

        job.batches, job.workers = ends, 0  # type: ignore[assignment]
        return fit(job)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(align, "fit", cut)
        train(recipe, run)


def result(run: Path) -> bytes:
    return (run / "bridge.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(aligning: Make, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(aligning("checkpoint_every=2"), folder)
    return result(folder)


TOLERATED = (
    "data.max_unreadable=0.5", "log_every=2", "checkpoint_every=1", "keep_checkpoints=1", "data.workers=2", "title=another",
    "tracker=tensorboard", "samples=3",
)  # fmt: skip


def test_tolerances_may_change_within_a_run(
    aligning: Make, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(aligning("checkpoint_every=2"), tmp_path / "run", monkeypatch)
    train(aligning(*TOLERATED), tmp_path / "run")
    assert result(tmp_path / "run") == whole
    assert all(hash_recipe(aligning(change)) == hash_recipe(aligning()) for change in TOLERATED)
    every = [hash_recipe(aligning(f"validate_every={steps}")) for steps in (0, 2, 4)]
    assert every[0] != every[1] == every[2]  # texts are held out of the mix, or not


def test_the_micro_batch_decides_where_the_mean_is_one_of_micro_batches(aligning: Make) -> None:
    sizes = ("optim.micro_batch=6", "optim.micro_batch=12")
    assert len({hash_recipe(aligning(size)) for size in sizes}) == 1
    assert len({hash_recipe(aligning(size, "optim.profile=original")) for size in sizes}) == 2
    for changed in ("optim.profile=original", "data.pictures=original", "model.answer_separator=''"):
        assert hash_recipe(aligning(changed)) != hash_recipe(aligning())


def test_a_run_goes_on_in_its_own_profile_alone(
    aligning: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ("checkpoint_every=2", "optim.profile=original")
    train(aligning(*own), tmp_path / "whole")
    stopped(aligning(*own), tmp_path / "run", monkeypatch)
    for other in (("checkpoint_every=2",), (*own, "optim.micro_batch=8"), (*own, "data.pictures=original")):
        with pytest.raises(InputError):
            train(aligning(*other), tmp_path / "run")
    train(aligning(*own), tmp_path / "run")
    assert result(tmp_path / "run") == result(tmp_path / "whole")


def test_a_mix_that_was_changed_is_refused_and_the_same_one_elsewhere_is_not(
    aligning: Make, mix: Path, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, own, kept = tmp_path / "run", tmp_path / "mix", tmp_path / "kept"
    shutil.copytree(mix, own)
    stopped(aligning("checkpoint_every=2", f"data.mix={own}"), run, monkeypatch)
    shutil.move(own, kept)
    for change in ("seed=2", "sources.scenes.options.scenes=201", "translation.held_out=0.3"):
        build_mix(load_recipe(DataRecipe, "data/nano_scenes", ("sources.scenes.options.scenes=200", change)), own)
        before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
        with pytest.raises(InputError, match=rf"data\.mix: {own} has changed since the run {run} started: restore it"):
            train(aligning(f"data.mix={own}"), run)
        assert before == {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
        shutil.rmtree(own)
    shutil.copytree(kept, own)
    shard = next(own.glob("*.parquet"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)  # the manifest says nothing of it
    with pytest.raises(InputError, match="has changed since its manifest was written"):
        train(aligning(f"data.mix={own}"), run)
    train(aligning(f"data.mix={kept}"), run)
    assert result(run) == whole
    with pytest.raises(InputError, match=r"data\.mix is .* which holds other texts"):
        build_mix(
            load_recipe(DataRecipe, "data/nano_scenes", ("sources.scenes.options.scenes=90",)), tmp_path / "other"
        )
        train(aligning(f"data.mix={tmp_path / 'other'}"), run)
    assert train(aligning(f"data.mix={mix}"), run)["step"] == 4
    shutil.rmtree(kept)
    assert train(aligning(f"data.mix={kept}"), run)["step"] == 4  # a finished run needs no mix


def test_a_replayed_mix_and_ones_own_table_count_too(
    aligning: Make, mix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replayed = tmp_path / "old"
    shutil.copytree(mix, replayed)
    recipe = aligning("checkpoint_every=2", f"data.replay={replayed}", "data.replay_images=nano:scenes")
    stopped(recipe, tmp_path / "run", monkeypatch)
    shutil.rmtree(replayed)
    build_mix(load_recipe(DataRecipe, "data/nano_scenes", ("sources.scenes.options.scenes=90",)), replayed)
    with pytest.raises(InputError, match=r"data\.replay: .*old has changed"):
        train(recipe, tmp_path / "run")


def test_a_base_that_was_exchanged_is_refused(aligning: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        train(aligning("optim.steps=1", f"seed={seed}", "parts.llm=lora"), tmp_path / name)
    recipe = aligning("checkpoint_every=2", f"model.run={tmp_path / 'a'}")
    stopped(recipe, tmp_path / "run", monkeypatch)
    held = json.loads((tmp_path / "run" / IDENTITY).read_text())
    assert sorted(held) == ["data.mix", "model.llm", "model.run", "model.vision"]
    shutil.move(tmp_path / "a", tmp_path / "kept")
    shutil.move(tmp_path / "b", tmp_path / "a")
    with pytest.raises(InputError, match=r"model\.run: .*/a has changed since"):
        train(recipe, tmp_path / "run")
    shutil.rmtree(tmp_path / "a")
    shutil.move(tmp_path / "kept", tmp_path / "a")
    (tmp_path / "run" / IDENTITY).write_text('{"data.mix"')
    with pytest.raises(InputError, match=r"identity\.json is damaged"):
        train(recipe, tmp_path / "run")
    (tmp_path / "run" / IDENTITY).write_text(json.dumps(held))
    assert train(recipe, tmp_path / "run")["step"] == 4


def test_only_damaged_checkpoints_do_not_begin_a_run_anew(
    aligning: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(aligning("checkpoint_every=2"), tmp_path / "run", monkeypatch)
    [folder] = (tmp_path / "run/checkpoints").iterdir()
    (folder / "state.pt").write_bytes(b"junk")
    with pytest.raises(
        InputError, match=r"is damaged .*: restore one from a copy, or delete .*checkpoints to start again"
    ):
        train(aligning("checkpoint_every=2"), tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints")
    assert train(aligning("checkpoint_every=2"), tmp_path / "run")["step"] == 4
