"""The one training loop: token-weighted loss, AdamW, cosine, clipping, atomic checkpoints, exact resume.

A step is a pure function of its number: the batches, the augmentation and every random draw come from (seed, step), so
that a run which was killed and started again is, on a CPU, the same run bit for bit.
"""

from __future__ import annotations

import contextlib
import json
import math
import resource
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mblip.errors import InputError
from mblip.storage import atomic_write
from mblip.training.checkpoints import load_checkpoint, newest_checkpoint, save_checkpoint
from mblip.training.schedule import cosine

Batch = dict[str, Tensor]


@dataclass
class Group:
    """Parameters that share a peak learning rate; weight decay leaves out biases and norms (paper, section 3.3)."""

    name: str
    parameters: Sequence[tuple[str, nn.Parameter]]
    lr: float


@dataclass
class Job:
    """What the loop runs.

    Attributes:
        model: The module whose trainable parameters are saved in checkpoints.
        groups: Trainable parameters with their rates.
        batches: Step number -> the micro-batches of this process for that step.
        loss: Micro-batch -> named values; ``loss_sum`` and ``tokens`` are needed, others are logged as means.
        steps: Optimiser steps.
        stop: End at this step although the schedule is made for ``steps``.
        workers: Threads that prepare the following batches; any number gives the same run.
    """

    model: nn.Module
    groups: list[Group]
    batches: Callable[[int], list[Batch]]
    loss: Callable[[nn.Module, Batch], dict[str, Tensor]]
    steps: int
    seed: int
    directory: Path
    warmup: int = 0
    floor: float = 0.0
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 1.0
    precision: str = "fp32"
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    log_every: int = 10
    workers: int = 1
    stop: int | None = None
    on_log: Callable[[dict[str, Any]], None] = field(default=lambda row: None)

    @property
    def last(self) -> int:
        """The step that the run ends at."""
        return self.steps if self.stop is None else min(self.stop, self.steps)


def fit(job: Job) -> dict[str, Any]:
    """Train to the last step, from the newest whole checkpoint where there is one; return the last log row.

    Raises:
        InputError: The loss is not finite (names the step and the last good checkpoint), or memory ran out (names the
            setting to turn).
    """
    accelerator = Accelerator(mixed_precision="bf16" if job.precision == "bf16" else "no")
    named = {name: p for group in job.groups for name, p in group.parameters}
    optimizer = torch.optim.AdamW(_decay_groups(job), betas=job.betas, fused=True)
    model, optimizer = accelerator.prepare(job.model, optimizer)
    job.directory.mkdir(parents=True, exist_ok=True)
    log = job.directory / "metrics.jsonl"
    start = _resume(job, named, optimizer)
    row = _truncate_log(log, start)
    started = time.perf_counter()
    for step, micro_batches in _prefetched(job, start):
        torch.manual_seed(_step_seed(job.seed, step, accelerator.process_index))
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * cosine(step, job.steps, job.warmup, job.floor)
        tokens = 0.0
        sums: dict[str, float] = {}
        try:
            for index, batch in enumerate(micro_batches):
                batch = {key: value.to(accelerator.device) for key, value in batch.items()}
                last = index == len(micro_batches) - 1
                with accelerator.autocast(), _no_sync(accelerator, model, last):
                    values = job.loss(model, batch)
                    accelerator.backward(values["loss_sum"])
                tokens += float(values["tokens"])
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + float(value.detach())
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"out of memory at step {step}: lower optim.micro_batch, or add llm to checkpointing"
            ) from error
        total = accelerator.reduce(torch.tensor([sums["loss_sum"], tokens], dtype=torch.float64), "sum")
        # Ranks average their gradients, hence the number of processes: what is wanted is sum over all / tokens of all.
        scale = accelerator.num_processes / float(total[1])
        for parameter in named.values():
            if parameter.grad is not None:
                parameter.grad.mul_(scale)
        norm = accelerator.clip_grad_norm_(list(named.values()), job.clip)
        loss = float(total[0]) / float(total[1])
        if not math.isfinite(loss) or not math.isfinite(float(norm)):
            raise InputError(
                f"the loss became {loss} at step {step} (batch {step}); the last good checkpoint is "
                f"{newest_checkpoint(job.directory) or 'none'}: lower the learning rate or look at that batch"
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done = step + 1
        if done % job.log_every == 0 or done == job.last:
            seconds = time.perf_counter() - started
            row = {"step": done, "loss": loss, "grad_norm": float(norm), "tokens": float(total[1])}
            row |= {name: value / len(micro_batches) for name, value in sums.items() if name not in _COUNTS}
            row |= {f"lr_{g['name']}": g["lr"] for g in optimizer.param_groups if g["weight_decay"]}
            row |= {"seconds": seconds, "peak_memory_mib": peak_memory_mib(accelerator.device)}
            if accelerator.is_main_process:
                with log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                job.on_log(row)
        if done % job.checkpoint_every == 0 and done < job.last and accelerator.is_main_process:
            save_checkpoint(job.directory, done, named, {"optimizer": optimizer.state_dict()}, job.keep_checkpoints)
    return row


_COUNTS = ("loss_sum", "tokens", "loss")


def peak_memory_mib(device: torch.device) -> float:
    """Peak memory so far in MiB: the accelerator's own where there is one, else this process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _decay_groups(job: Job) -> list[dict[str, Any]]:
    groups = []
    for group in job.groups:
        decayed = [p for _, p in group.parameters if p.ndim > 1]
        plain = [p for _, p in group.parameters if p.ndim <= 1]
        for parameters, decay in ((decayed, job.weight_decay), (plain, 0.0)):
            if parameters:
                groups.append(
                    {
                        "params": parameters,
                        "lr": group.lr,
                        "peak_lr": group.lr,
                        "weight_decay": decay,
                        "name": group.name,
                    }
                )
    return groups


def _no_sync(accelerator: Accelerator, model: nn.Module, last: bool) -> Any:
    """Ranks exchange gradients once a step, with the last micro-batch."""
    return contextlib.nullcontext() if last else accelerator.no_sync(model)


def _step_seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])


def _prefetched(job: Job, start: int) -> Iterator[tuple[int, list[Batch]]]:
    """Steps with their batches, the following ones being made by ``job.workers`` threads meanwhile."""
    if job.workers == 0:
        for step in range(start, job.last):
            yield step, job.batches(step)
        return
    with ThreadPoolExecutor(job.workers) as pool:
        pending: deque[Future[list[Batch]]] = deque()
        ahead = start
        for step in range(start, job.last):
            while ahead < min(job.last, step + 2 * job.workers):
                pending.append(pool.submit(job.batches, ahead))
                ahead += 1
            yield step, pending.popleft().result()


def _resume(job: Job, named: dict[str, nn.Parameter], optimizer: Any) -> int:
    """Load the newest checkpoint into model and optimiser; the step to go on with."""
    newest = newest_checkpoint(job.directory)
    if newest is None:
        return 0
    tensors, state = load_checkpoint(newest)
    if set(tensors) != set(named):
        raise InputError(f"checkpoint {newest} trains other parts than this recipe: use a new output directory")
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(tensors[name])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _truncate_log(log: Path, start: int) -> dict[str, Any]:
    """Forget log rows past the checkpoint that the run goes on from; the last row kept."""
    rows = read_log(log) if log.exists() else []
    kept = [row for row in rows if row["step"] <= start]
    if len(kept) < len(rows):
        with atomic_write(log, "w") as file:
            file.write("".join(json.dumps(row) + "\n" for row in kept))
    return kept[-1] if kept else {}


def read_log(path: Path) -> list[dict[str, Any]]:
    """Rows of a ``metrics.jsonl``; a last line cut short by a kill is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows
