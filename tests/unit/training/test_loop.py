import importlib
import os
import resource
import signal
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mblip.errors import InputError, ResourceError, TrainingError
from mblip.training.checkpoints import checkpoints
from mblip.training.loop import LoopConfig, ParameterGroup, Stopped, fit, read_log
from mblip.training.schedule import cosine


def batches(step: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(6, 4, generator=generator)
    return [{"x": x[:2], "y": x[:2].sum(1)}, {"x": x[2:], "y": x[2:].sum(1)}]


def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    error = (model(batch["x"]).squeeze(1) - batch["y"]) ** 2
    return {"loss_sum": error.sum(), "tokens": torch.tensor(len(error))}


def job(directory: Path, steps: int = 20, **changes: object) -> LoopConfig:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 1))
    settings: dict[str, object] = {"checkpoint_every": 4, "log_every": 1, "warmup": 3, "seed": 5, "batches": batches}
    settings |= {"loss": loss, "groups": [ParameterGroup("all", list(model.named_parameters()), 0.05)], **changes}
    return LoopConfig(model=model, steps=steps, directory=directory, **settings)  # type: ignore[arg-type]


def weights(done: LoopConfig) -> list[torch.Tensor]:
    return [p.detach().clone() for p in done.model.parameters()]


def test_the_loss_falls(tmp_path: Path) -> None:
    fit(job(tmp_path, steps=60))
    rows = read_log(tmp_path / "metrics.jsonl")
    assert sum(r["loss"] for r in rows[-5:]) < 0.5 * sum(r["loss"] for r in rows[:5])


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path: Path, workers: int) -> None:
    whole = job(tmp_path / "whole")
    fit(whole)

    def stops(step: int) -> list[dict[str, torch.Tensor]]:
        if step == 14:
            raise KeyboardInterrupt
        return batches(step)

    with pytest.raises(KeyboardInterrupt):
        fit(job(tmp_path / "cut", batches=stops, workers=workers))
    resumed = job(tmp_path / "cut", workers=workers)
    fit(resumed)
    for a, b in zip(weights(whole), weights(resumed), strict=True):
        assert torch.equal(a, b)
    strip = [
        {k: v for k, v in row.items() if k in ("step", "loss", "grad_norm")}
        for row in read_log(tmp_path / "whole/metrics.jsonl")
    ]
    again = [
        {k: v for k, v in row.items() if k in ("step", "loss", "grad_norm")}
        for row in read_log(tmp_path / "cut/metrics.jsonl")
    ]
    assert strip == again


def test_unequal_micro_batches_weigh_by_their_tokens(tmp_path: Path) -> None:
    def together(step: int) -> list[dict[str, torch.Tensor]]:
        first, second = batches(step)
        return [{key: torch.cat([first[key], second[key]]) for key in first}]

    no_dropout = [job(tmp_path / name, steps=1, batches=b) for name, b in (("a", batches), ("b", together))]
    for one in no_dropout:
        one.model.get_submodule("1").p = 0.0  # type: ignore[assignment]
        fit(one)
    for a, b in zip(weights(no_dropout[0]), weights(no_dropout[1]), strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    fit(job(tmp_path))
    assert [p.name for p in sorted((tmp_path / "checkpoints").iterdir())] == ["step-00000012", "step-00000016"]


def test_a_loss_that_is_not_finite_stops_and_names_the_last_checkpoint(tmp_path: Path) -> None:
    def broken(step: int) -> list[dict[str, torch.Tensor]]:
        rows = batches(step)
        if step == 9:
            rows[0]["y"] = rows[0]["y"] * float("nan")
        return rows

    with pytest.raises(
        TrainingError, match=r"became nan in micro-batch 0 of step 10; the last good checkpoint is .*step-00000008"
    ):
        fit(job(tmp_path, batches=broken))
    with pytest.raises(
        TrainingError, match=r"of step 10 ; that was before the first checkpoint: lower the learning rate"
    ):
        fit(
            job(
                tmp_path / "early",
                batches=broken,
                checkpoint_every=100,
                describe=lambda step, index: f"of step {step + 1} ",
            )
        )


@pytest.mark.parametrize("steps", [1, 2])  # the end of the run, or a checkpoint
def test_weights_that_a_step_breaks_are_not_saved(tmp_path: Path, steps: int) -> None:
    settings = job(tmp_path, steps, warmup=0, checkpoint_every=1)
    settings.groups[0].lr = 1e39  # more than fp32 holds
    with pytest.raises(TrainingError, match=r"^step 1 made 0.weight infinite; that was before the first checkpoint"):
        fit(settings)
    assert not checkpoints(tmp_path)


def test_sigterm_saves_where_the_run_is(tmp_path: Path) -> None:
    whole = job(tmp_path / "whole")
    fit(whole)

    def terminated(step: int) -> list[dict[str, torch.Tensor]]:
        if step == 10:
            os.kill(os.getpid(), signal.SIGTERM)
        return batches(step)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match=r"after step 11, which is saved"):
        fit(job(tmp_path / "cut", batches=terminated, workers=0))
    assert signal.getsignal(signal.SIGTERM) == before
    resumed = job(tmp_path / "cut")
    fit(resumed)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))


@pytest.mark.parametrize("most", [64, 1024])  # the weights do not fit, or the optimiser's state does not
def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path, most: int) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fills(step: int) -> list[dict[str, torch.Tensor]]:
        if step == 6:  # from here on no file may grow further, as on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
        return batches(step)

    try:
        with pytest.raises(ResourceError, match=r"cannot write .*: the disk seems full; free the space"):
            fit(job(tmp_path / "cut", batches=fills, workers=0, log_every=100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in (tmp_path / "cut/checkpoints").iterdir()] == ["step-00000004"]
    whole, resumed = job(tmp_path / "whole"), job(tmp_path / "cut")
    fit(whole)
    fit(resumed)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))


def test_memory_that_runs_out_names_the_setting_to_turn(tmp_path: Path) -> None:
    def greedy(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        torch.empty(1 << 60)
        return loss(model, batch)

    with pytest.raises(ResourceError, match=r"out of memory at step 1: lower optim.micro_batch"):
        fit(job(tmp_path / "a", loss=greedy, memory_remedy="lower optim.micro_batch"))

    def python(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        raise MemoryError

    with pytest.raises(ResourceError, match=r"out of memory at step 1: lower"):
        fit(job(tmp_path / "d", loss=python))

    def otherwise(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        raise RuntimeError("another")

    def validate(step: int, log: object) -> None:
        torch.empty(1 << 60)

    with pytest.raises(ResourceError, match="out of memory in the validation after step 3: lower the batch"):
        fit(job(tmp_path / "c", validate=validate, validate_every=3))
    with pytest.raises(RuntimeError, match="another"):
        fit(job(tmp_path / "b", loss=otherwise))


def test_biases_and_norms_do_not_decay_and_each_group_has_its_rate(tmp_path: Path) -> None:
    one = job(tmp_path, steps=1, warmup=0, weight_decay=0.5)
    parameters = dict(one.model.named_parameters())
    one.groups = [ParameterGroup("fast", [("0.weight", parameters["0.weight"]), ("0.bias", parameters["0.bias"])], 0.1),
                  ParameterGroup("slow", [(name, parameters[name]) for name in ("3.weight", "3.bias")], 0.0)]  # fmt: skip
    with torch.no_grad():  # no gradient reaches the first layer: what moves there is decay alone
        parameters["3.weight"].zero_()
    before = {name: value.detach().clone() for name, value in parameters.items()}
    fit(one)
    assert torch.allclose(parameters["0.weight"], before["0.weight"] * 0.95)
    for name in ("0.bias", "3.weight", "3.bias"):
        assert torch.equal(parameters[name], before[name]), name


@pytest.mark.parametrize("clip", [0.01, 1e9])
def test_gradients_are_clipped_all_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: float) -> None:
    one = job(tmp_path, steps=1, clip=clip)
    seen: list[torch.Tensor] = []
    step = torch.optim.AdamW.step

    def look(self: torch.optim.AdamW) -> object:
        seen.extend(p.grad.flatten().clone() for p in one.model.parameters() if p.grad is not None)
        return step(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", look)
    norm = fit(one)["grad_norm"]
    assert norm > 0.1 and len(seen) == 4
    assert float(torch.cat(seen).norm()) == pytest.approx(min(norm, clip), rel=1e-4)


def test_a_tracker_that_is_not_installed_is_named_and_tensorboard_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        monkeypatch.context() as missing,
        pytest.raises(InputError, match=r"'wandb' is not installed: pip install wandb"),
    ):
        missing.setattr("importlib.util.find_spec", lambda name: None)
        fit(job(tmp_path / "a", tracker="wandb"))
    for name in ("wandb", "trackio"):  # as W&B leaves a folder where it was used
        (tmp_path / f"used/{name}").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path / "used")
    if importlib.util.find_spec("wandb").origin is None:  # type: ignore[union-attr]
        with pytest.raises(InputError, match=r"'wandb' is not installed: pip install wandb"):
            fit(job(tmp_path / "a", tracker="wandb"))
    fit(job(tmp_path / "b", tracker="tensorboard"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "b/tensorboard")).Reload()
    steps = [event.step for event in events.Scalars("loss")]
    assert steps == list(range(1, 21)) and "tokens_per_second" in events.Tags()["scalars"]


@pytest.mark.parametrize("service", ["wandb", "trackio"])
def test_rows_go_to_a_service_as_a_run_of_the_project(
    service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service itself is stood in for: what is called is what both of them document."""
    (tmp_path / "installed").mkdir()
    (tmp_path / f"installed/{service}.py").write_text(
        "import types\ncalls = []\n"
        "def init(**options):\n"
        "    calls.append(options)\n"
        "    return types.SimpleNamespace(\n"
        "        log=lambda values, step=None: calls.append((step, values)), finish=lambda: calls.append('finish'))\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "installed")
    fit(job(tmp_path / "my run", tracker=service))
    module = importlib.import_module(service)
    monkeypatch.delitem(sys.modules, service)
    assert module.calls[0] == {"project": "mblip", "name": "my run"} and module.calls[-1] == "finish"
    assert [step for step, _ in module.calls[1:-1]] == list(range(1, 21))
    assert all(values["loss"] >= 0 for _, values in module.calls[1:-1])


def test_cosine() -> None:
    assert cosine(0, 100, 10) == pytest.approx(0.1)
    assert cosine(9, 100, 10) == pytest.approx(1.0)
    assert cosine(55, 100, 10) == pytest.approx(0.5)
    assert cosine(100, 100, 10, floor=0.1) == pytest.approx(0.1)


SIZES = ((2, 4, 0), (1, 5, 0), (3, 3, 0))  # rows of each micro-batch; the last has nothing to teach


def uneven(step: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(step)
    found = []
    for size in SIZES[step % len(SIZES)]:
        x = torch.randn(max(size, 1), 4, generator=generator)
        found.append({"x": x, "y": x.sum(1), "seen": torch.tensor(float(size > 0))})
    return found


def uneven_loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    error = (model(batch["x"]).squeeze(1) - batch["y"]) ** 2 * batch["seen"]
    return {"loss_sum": error.sum(), "tokens": torch.tensor(float(len(error))) * batch["seen"]}


class Normed(nn.Module):
    """Weights that are called as those of BLIP-2's Q-Former are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layernorm, self.LayerNorm = nn.LayerNorm(4), nn.LayerNorm(4)
        self.dense = nn.Linear(4, 1)
        self.queries = nn.Parameter(torch.ones(1, 1, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense(self.layernorm(self.LayerNorm(x)) + self.queries[0])


def reckoned(steps: int, rate: float, warmup: int, decay: float) -> Normed:
    """The original's optimiser, written out: which weights decay, the schedule of transformers, the mean of means."""
    from transformers import get_cosine_schedule_with_warmup

    model = Normed()
    decaying = [p for n, p in model.named_parameters() if not ("bias" in n or "LayerNorm.weight" in n)]
    others = [p for n, p in model.named_parameters() if "bias" in n or "LayerNorm.weight" in n]
    groups = [{"params": decaying, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, steps)
    for step in range(steps):
        losses = [uneven_loss(model, batch) for batch in uneven(step) if batch["seen"]]
        torch.stack([one["loss_sum"] / one["tokens"] for one in losses]).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model


def fitted(directory: Path, profile: str, steps: int = 12) -> Normed:
    model = Normed()
    groups = [ParameterGroup("all", list(model.named_parameters()), 0.05)]
    fit(
        LoopConfig(
            model=model, groups=groups, batches=uneven, loss=uneven_loss, steps=steps, seed=0, directory=directory, warmup=4,
            weight_decay=0.3, profile=profile,
        )
    )  # fmt: skip
    return model


def test_the_original_profile_is_the_originals_optimiser(tmp_path: Path) -> None:
    wanted = dict(reckoned(12, 0.05, 4, 0.3).named_parameters())
    for name, parameter in fitted(tmp_path / "original", "original").named_parameters():
        assert torch.allclose(parameter, wanted[name], atol=1e-6), name
    correct = dict(fitted(tmp_path / "correct", "correct").named_parameters())
    assert all(not torch.allclose(correct[name], wanted[name], atol=1e-4) for name in wanted)


def test_what_decays_in_each_profile(tmp_path: Path) -> None:
    """With gradients of nothing, a weight that decays shrinks at each step and any other stays."""

    def no_loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        values = uneven_loss(model, batch)
        return {**values, "loss_sum": 0 * values["loss_sum"]}

    for profile, decaying in (
        ("correct", {"dense.weight", "queries"}),
        ("original", {"dense.weight", "queries", "layernorm.weight"}),
    ):
        model, before = Normed(), dict(Normed().named_parameters())
        groups = [ParameterGroup("all", list(model.named_parameters()), 0.05)]
        fit(
            LoopConfig(
                model=model, groups=groups, batches=uneven, loss=no_loss, steps=3, seed=0, directory=tmp_path / profile,
                weight_decay=0.3, profile=profile,
            )
        )  # fmt: skip
        assert {n for n, p in model.named_parameters() if not torch.equal(p, before[n])} == decaying


def test_the_warm_up_of_each_profile() -> None:
    assert [cosine(step, 10, 4) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert [cosine(step, 10, 4, from_zero=True) for step in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert [cosine(step, 10, 4, from_zero=True) for step in range(4, 10)] == [
        cosine(step, 10, 4) for step in range(4, 10)
    ]
    assert cosine(0, 10, 0, from_zero=True) == cosine(0, 10, 0) == 1.0


def test_the_mean_of_each_profile(tmp_path: Path) -> None:
    """One step of plain numbers: micro-batches of 2 and 4 texts, and one that teaches nothing."""
    norms = {}
    for profile in ("correct", "original"):
        model = nn.Linear(4, 1, bias=False)
        nn.init.zeros_(model.weight)
        fit(
            LoopConfig(
                model=model, groups=[ParameterGroup("all", list(model.named_parameters()), 0.1)], batches=uneven,
                loss=uneven_loss, steps=1, seed=0, directory=tmp_path / profile, log_every=1, profile=profile,
            )
        )  # fmt: skip
        (row,) = read_log(tmp_path / profile / "metrics.jsonl")
        norms[profile] = row["grad_norm"]
        assert "taught" not in row
    first, second, _ = uneven(0)
    gradients = [(-2 * batch["y"][:, None] * batch["x"]) for batch in (first, second)]
    assert norms["correct"] == pytest.approx(float(torch.cat(gradients).mean(0).norm()), rel=1e-5)
    assert norms["original"] == pytest.approx(
        float(torch.stack([g.mean(0) for g in gradients]).mean(0).norm()), rel=1e-5
    )
    assert norms["correct"] != pytest.approx(norms["original"], rel=1e-3)
