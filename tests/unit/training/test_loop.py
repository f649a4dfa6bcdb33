from pathlib import Path

import pytest
import torch
from torch import nn

from mblip.errors import InputError
from mblip.training.loop import Group, Job, fit, read_log
from mblip.training.schedule import cosine


def batches(step: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(6, 4, generator=generator)
    return [{"x": x[:2], "y": x[:2].sum(1)}, {"x": x[2:], "y": x[2:].sum(1)}]


def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    error = (model(batch["x"]).squeeze(1) - batch["y"]) ** 2
    return {"loss_sum": error.sum(), "tokens": torch.tensor(len(error))}


def job(directory: Path, steps: int = 20, **changes: object) -> Job:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 1))
    settings: dict[str, object] = {"checkpoint_every": 4, "log_every": 1, "warmup": 3, "seed": 5, "batches": batches}
    settings |= changes
    groups = [Group("all", list(model.named_parameters()), 0.05)]
    return Job(model=model, groups=groups, loss=loss, steps=steps, directory=directory, **settings)  # type: ignore[arg-type]


def weights(done: Job) -> list[torch.Tensor]:
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
    split = job(tmp_path / "split", steps=1)
    fit(split)

    def together(step: int) -> list[dict[str, torch.Tensor]]:
        first, second = batches(step)
        return [{key: torch.cat([first[key], second[key]]) for key in first}]

    no_dropout = [job(tmp_path / name, steps=1, batches=b) for name, b in (("a", batches), ("b", together))]
    for one in no_dropout:
        one.model[1].p = 0.0  # type: ignore[union-attr]
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

    with pytest.raises(InputError, match=r"became nan in micro-batch 0 of step 9.*step-00000008"):
        fit(job(tmp_path, batches=broken))


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    fit(job(tmp_path))
    (tmp_path / "checkpoints/step-00000016/state.pt").write_bytes(b"junk")
    with pytest.raises(InputError, match="step-00000016 is damaged"):
        fit(job(tmp_path))


def test_cosine() -> None:
    assert cosine(0, 100, 10) == pytest.approx(0.1)
    assert cosine(9, 100, 10) == pytest.approx(1.0)
    assert cosine(55, 100, 10) == pytest.approx(0.5)
    assert cosine(100, 100, 10, floor=0.1) == pytest.approx(0.1)
