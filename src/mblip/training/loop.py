"""The one training loop: token-weighted loss, AdamW, cosine, clipping, atomic checkpoints, exact resume.

A step is a pure function of its number: batches, augmentation and random draws follow from (seed, step). So a run that
was killed and started again is, on a CPU, the same run bit for bit.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mblip.errors import InputError, ResourceError, TrainingError
from mblip.training.checkpoints import load_checkpoint, newest_checkpoint, save_checkpoint, sound_checkpoint
from mblip.training.logs import Note, OnLog, StepLog, read_log
from mblip.training.parallel import (
    all_finite,
    clip_gradients,
    copy_into,
    distribute,
    gather_full,
    load_optimizer,
    start,
    sync_gradients,
)
from mblip.training.schedule import cosine
from mblip.training.tracking import Log

__all__ = ["Batch", "LoopConfig", "ParameterGroup", "Stopped", "enough_memory", "fit", "read_log"]

Batch = dict[str, Tensor]


class Stopped(Exception):
    """The run was asked to stop (SIGTERM) and has saved a checkpoint; the same command continues it."""


@dataclass
class ParameterGroup:
    """Parameters that share a peak learning rate; weight decay leaves out biases and norms (paper, section 3.3)."""

    name: str
    parameters: Sequence[tuple[str, nn.Parameter]]
    lr: float


@dataclass
class LoopConfig:
    """The settings of a training loop.

    Attributes:
        model: The module whose trainable parameters are saved in checkpoints.
        groups: Trainable parameters with their rates.
        batches: Step number -> the micro-batches of this process for that step.
        loss: Micro-batch -> named values. ``loss_sum`` and ``tokens`` are required, ``examples`` and ``images`` are counted
            for the rates, others are logged as means.
        steps: Number of optimiser steps.
        profile: ``original`` for the original's optimiser: only parameters named bias or LayerNorm.weight have no
            weight decay, the warm-up begins at 0, and the loss of a step is the mean of its micro-batches' means.
        stop: Stop at this step, although the schedule is made for ``steps``.
        workers: Number of threads that prepare the next batches; it does not change the result.
        sharding: See :func:`mblip.training.parallel.distribute`.
        validate: Step, log -> nothing; called every ``validate_every`` steps and at the end, in all processes.
        validate_first: Validate also before the first step, as step 0, for comparison.
        validated: Step -> whether it was validated; called with the step that a run continues from, which may have been killed
            between its checkpoint and its validation.
        describe: Step, micro-batch -> description of that batch for errors.
        memory_remedy: Advice in the error when memory runs out.
    """

    model: nn.Module
    groups: list[ParameterGroup]
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
    sharding: str = "none"
    profile: str = "correct"
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    log_every: int = 10
    workers: int = 1
    stop: int | None = None
    tracker: str = "none"
    validate: Callable[[int, Log], None] | None = None
    validate_every: int = 0
    validate_first: bool = False
    validated: Callable[[int], bool] = field(default=lambda step: True)
    describe: Callable[[int, int], str] = field(default=lambda step, index: f"micro-batch {index} of step {step + 1}")
    memory_remedy: str = "lower the batch"
    on_log: OnLog = field(default=lambda row: None)

    @property
    def last(self) -> int:
        """The step at which the run ends."""
        return self.steps if self.stop is None else min(self.stop, self.steps)


def fit(config: LoopConfig) -> dict[str, Any]:
    """Train to the last step, from the newest undamaged checkpoint if there is one; return the last log row.

    Damaged checkpoints are reported to ``on_log`` as a :class:`~mblip.training.logs.Note`.

    Raises:
        InputError: Every checkpoint is damaged.
        TrainingError: The loss or the gradients are not finite; the message names the batch and the last good checkpoint.
        ResourceError: Memory ran out (the message names the setting to change), or the disk is full.
        Stopped: SIGTERM was received, and a checkpoint is saved.
    """
    accelerator = start()
    names = {id(parameter): name for name, parameter in config.model.named_parameters()}
    places = {name: names[id(parameter)] for group in config.groups for name, parameter in group.parameters}
    model = distribute(config.model, accelerator, config.sharding)
    own = dict(config.model.named_parameters())  # shards, if the model was sharded
    named = {name: own[place] for name, place in places.items()}
    optimizer = torch.optim.AdamW(_decay_groups(config, named), betas=config.betas, fused=True)
    with accelerator.main_process_first():
        newest = sound_checkpoint(config.directory, lambda text: config.on_log(Note(text)))
    first = _resume(newest, named, optimizer)
    log = Log(config.directory, first, config.last, config.tracker, config.on_log, writes=accelerator.is_main_process)
    with log, _termination() as terminated, contextlib.closing(_prefetched(config, first)) as prefetched:
        if config.validate and _to_validate(config, first):
            with enough_memory(f"in the validation before step {first + 1}", config.memory_remedy):
                config.validate(first, log)
        for step, micro_batches in prefetched:
            torch.manual_seed(_step_seed(config.seed, step, accelerator.process_index))
            for group in optimizer.param_groups:
                share = cosine(step, config.steps, config.warmup, config.floor, from_zero=config.profile == "original")
                group["lr"] = group["peak_lr"] * share
            with enough_memory(f"at step {step + 1}", config.memory_remedy):
                totals = _accumulate(config, step, micro_batches, model, accelerator, terminated.is_set())
                whole_step = totals["taught"] if config.profile == "original" else totals["tokens"]
                norm = _scale_and_clip(config, list(named.values()), accelerator.num_processes / max(whole_step, 1.0))
                _check_finite(config, step, totals, norm)
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done = step + 1
            log.count(**{name: totals[name] for name in ("examples", "images", "tokens") if name in totals})
            if done % config.log_every == 0 or done == config.last:
                log.write(_row(done, totals, norm, optimizer, accelerator.num_processes), accelerator.device)
            stopping = totals["stop"] > 0 and done < config.last
            saving = stopping or (done % config.checkpoint_every == 0 and done < config.last)
            if saving or done == config.last:
                _check_weights(config, done, named, accelerator)
            if saving:
                tensors, state = gather_full(named), {"optimizer": gather_full(optimizer.state_dict())}
                if accelerator.is_main_process:
                    save_checkpoint(config.directory, done, tensors, state, config.keep_checkpoints)
            if stopping:
                raise Stopped(f"stopped after step {done}, which is saved; run the same command again to continue")
            if config.validate and config.validate_every and (done % config.validate_every == 0 or done == config.last):
                with enough_memory(f"in the validation after step {done}", config.memory_remedy):
                    config.validate(done, log)
    return log.row


def _to_validate(config: LoopConfig, first: int) -> bool:
    """Whether to validate before the first step of this process."""
    if first == 0:
        return config.validate_first
    return bool(config.validate_every) and first % config.validate_every == 0 and not config.validated(first)


def _accumulate(
    config: LoopConfig, step: int, micro_batches: list[Batch], model: nn.Module, accelerator: Accelerator, stop: bool
) -> dict[str, float]:
    """Accumulate the gradients of a step, and sum its named values over all micro-batches and processes."""
    sums: dict[str, Tensor] = {}
    losses = []
    wide = torch.float32 if accelerator.device.type == "mps" else torch.float64  # Apple's devices have no fp64
    for index, batch in enumerate(micro_batches):
        batch = {key: value.to(accelerator.device, non_blocking=True) for key, value in batch.items()}
        casting = torch.autocast(accelerator.device.type, torch.bfloat16, enabled=config.precision == "bf16")
        with casting, sync_gradients(accelerator, model, index == len(micro_batches) - 1):
            values = config.loss(model, batch)
            loss = values["loss_sum"]
            if config.profile == "original":
                values["taught"] = (values["tokens"] > 0).to(loss.dtype)
                loss = loss / values["tokens"].clamp(min=1)
            loss.backward()  # type: ignore[no-untyped-call]
        losses.append(values["loss_sum"].detach())
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value.detach().to(wide)
    # One synchronisation per step, which also lets all processes stop together.
    names = sorted(sums)
    own = [float(stop), float(len(micro_batches)), *torch.stack([sums[name] for name in names]).tolist()]
    everyone = accelerator.reduce(torch.tensor(own, dtype=wide, device=accelerator.device), "sum").tolist()
    totals = dict(zip(("stop", "micro_batches", *names), everyone, strict=True))
    if not math.isfinite(totals["loss_sum"]):
        found = torch.stack(losses).isfinite().tolist()
        where = config.describe(step, found.index(False)) if False in found else "a batch of another process"
        raise TrainingError(f"the loss became {totals['loss_sum']} in {where}; {_last_good(config)}")
    return totals


def _scale_and_clip(config: LoopConfig, parameters: list[nn.Parameter], scale: float) -> float:
    """Scale the gradients to the mean over the step's tokens (or micro-batches), and clip them; the norm before.

    Processes average their gradients, so ``scale`` is the number of processes / tokens of all processes.
    """
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(scale)
    return clip_gradients(parameters, config.clip)


def _check_finite(config: LoopConfig, step: int, totals: dict[str, float], norm: float) -> None:
    if not math.isfinite(norm):
        loss = totals["loss_sum"] / totals["tokens"]
        raise TrainingError(
            f"the gradients became {norm} at step {step + 1} with a loss of {loss:.3g}; {_last_good(config)}"
        )


def _check_weights(config: LoopConfig, done: int, named: dict[str, nn.Parameter], accelerator: Accelerator) -> None:
    """Check the weights before they are saved: a step with a finite loss and finite gradients may still break them."""
    broken = [name for name, parameter in named.items() if not all_finite(parameter)]
    everyone = accelerator.reduce(torch.tensor(float(len(broken)), device=accelerator.device), "sum")
    if everyone > 0:  # in all processes alike
        raise TrainingError(f"step {done} made {broken[0] if broken else 'weights'} infinite; {_last_good(config)}")


def _last_good(config: LoopConfig) -> str:
    checkpoint = newest_checkpoint(config.directory)
    kept = f"the last good checkpoint is {checkpoint}" if checkpoint else "that was before the first checkpoint"
    return f"{kept}: lower the learning rate or inspect that batch"


_COUNTS = ("loss_sum", "tokens", "loss", "examples", "images", "stop", "micro_batches", "taught")


def _row(done: int, totals: dict[str, float], norm: float, optimizer: torch.optim.Optimizer, processes: int) -> StepLog:
    means = {name: value / totals["micro_batches"] for name, value in totals.items() if name not in _COUNTS}
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups if group["weight_decay"]}
    return StepLog(done, totals["loss_sum"] / totals["tokens"], norm, totals["tokens"], means, rates, processes)


@contextlib.contextmanager
def enough_memory(where: str, remedy: str) -> Iterator[None]:
    """Turn an out-of-memory error inside the block into one that says where it happened and what to do.

    Raises:
        ResourceError: The memory of the accelerator or the machine ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in str(error):
            raise
        raise ResourceError(f"out of memory {where}: {remedy}") from error


@contextlib.contextmanager
def _termination() -> Iterator[threading.Event]:
    """An event that SIGTERM sets; a second SIGTERM ends the process as usual."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield event
        return

    def note(number: int, frame: FrameType | None) -> None:
        event.set()
        signal.signal(signal.SIGTERM, before)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)


def _decay_groups(config: LoopConfig, named: dict[str, nn.Parameter]) -> list[dict[str, Any]]:
    groups = []
    for group in config.groups:
        parameters = {name: named[name] for name, _ in group.parameters}
        decays = {name: _decays(name, parameter, config.profile) for name, parameter in parameters.items()}
        for decay, wanted in ((config.weight_decay, True), (0.0, False)):
            if members := [parameter for name, parameter in parameters.items() if decays[name] is wanted]:
                settings = {"lr": group.lr, "peak_lr": group.lr, "weight_decay": decay, "name": group.name}
                groups.append({"params": members, **settings})
    return groups


def _decays(name: str, parameter: nn.Parameter, profile: str) -> bool:
    if profile == "original":  # it exempts BERT's names, so the Q-Former's layernorm.weight decays
        return "bias" not in name and "LayerNorm.weight" not in name
    return parameter.ndim > 1


def _step_seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])


def _prefetched(config: LoopConfig, first: int) -> Generator[tuple[int, list[Batch]], None, None]:
    """Yield steps with their batches, while ``config.workers`` threads prepare the next ones."""
    if config.workers == 0:
        for step in range(first, config.last):
            yield step, config.batches(step)
        return
    pool = ThreadPoolExecutor(config.workers)
    try:
        pending: deque[Future[list[Batch]]] = deque()
        ahead = first
        for step in range(first, config.last):
            while ahead < min(config.last, step + 2 * config.workers):
                pending.append(pool.submit(config.batches, ahead))
                ahead += 1
            yield step, pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _resume(newest: Path | None, named: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
    """Load a checkpoint into model and optimiser; returns the step to continue with."""
    if newest is None:
        return 0
    tensors, state = load_checkpoint(newest)
    if set(tensors) != set(named):
        raise InputError(f"checkpoint {newest} trains other parts than this recipe: use a new output directory")
    for name, parameter in named.items():
        copy_into(parameter, tensors[name])
    try:
        load_optimizer(optimizer, state["optimizer"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"checkpoint {newest} holds the optimiser of another recipe or version ({error}): use a new output directory"
        ) from error
    return int(state["step"])
