"""Rows of a run's logs, to show, write and read back.

``metrics.jsonl`` holds :class:`StepLog` and ``validation.jsonl`` :class:`ValidationLog`, one JSON object per line.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from mblip.errors import InputError

_RATE, _LR = "_per_second", "lr_"


@dataclass(frozen=True, slots=True)
class StepLog:
    """One row of ``metrics.jsonl``, about the steps since the row before.

    Attributes:
        step: Number of optimiser steps done.
        loss: Mean loss over the tokens of the step, in nats.
        grad_norm: Norm of the gradients before clipping.
        tokens: Number of supervised tokens in the step.
        means: Other values of the loss function, averaged over the micro-batches.
        learning_rates: Learning rate by group of parameters.
        processes: Number of processes that trained together.
        seconds: Seconds since this process started.
        seconds_left: Seconds to the last step, at the mean speed so far.
        per_second: ``examples``, ``images`` and ``tokens`` per second.
        peak_memory_mib: Peak memory so far, in MiB.
    """

    step: int
    loss: float
    grad_norm: float = math.nan
    tokens: float = 0.0
    means: dict[str, float] = field(default_factory=dict)
    learning_rates: dict[str, float] = field(default_factory=dict)
    processes: int = 1
    seconds: float = 0.0
    seconds_left: float = 0.0
    per_second: dict[str, float] = field(default_factory=dict)
    peak_memory_mib: float = 0.0

    def to_row(self) -> dict[str, Any]:
        """The row as it is written and tracked: flat, with ``lr_<group>`` and ``<what>_per_second``."""
        return {
            "step": self.step, "loss": self.loss, "grad_norm": self.grad_norm, "tokens": self.tokens, **self.means,
            **{f"{_LR}{name}": rate for name, rate in self.learning_rates.items()}, "processes": self.processes,
            "seconds": self.seconds, "seconds_left": self.seconds_left,
            **{f"{name}{_RATE}": rate for name, rate in self.per_second.items()}, "peak_memory_mib": self.peak_memory_mib,
        }  # fmt: skip

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        """Read a written row; values with unknown names belong to ``means``."""
        held: dict[str, Any] = {"means": {}, "learning_rates": {}, "per_second": {}}
        for name, value in row.items():
            if name in _PLAIN:
                held[name] = value
            elif name.startswith(_LR):
                held["learning_rates"][name.removeprefix(_LR)] = value
            elif name.endswith(_RATE):
                held["per_second"][name.removesuffix(_RATE)] = value
            else:
                held["means"][name] = value
        return TypeAdapter(cls).validate_python(held)


_PLAIN = StepLog.__dataclass_fields__.keys() - {"means", "learning_rates", "per_second"}


@dataclass(frozen=True, slots=True)
class AnsweredSample:
    """An answer of the model for a person to look at."""

    id: str
    language: str
    prompt: str
    answer: str
    reference: str


@dataclass(frozen=True, slots=True)
class ValidationLog:
    """One row of ``validation.jsonl``.

    Attributes:
        step: Number of optimiser steps done.
        loss: Mean loss over the tokens of all texts, in nats.
        texts: Number of texts.
        left_out: Number of texts whose picture cannot be read.
        by_task: The loss of each task.
        by_language: The loss by the language of the answer (mC4 code).
        exact: Share of the samples that were answered word for word; None without samples.
        samples: Answers to look at.
        seconds: Duration of the validation in seconds.
    """

    step: int
    loss: float
    texts: int = 0
    left_out: int = 0
    by_task: dict[str, float] = field(default_factory=dict)
    by_language: dict[str, float] = field(default_factory=dict)
    exact: float | None = None
    samples: tuple[AnsweredSample, ...] = ()
    seconds: float = 0.0

    def to_row(self) -> dict[str, Any]:
        """The row as it is written."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence for the person who trains, such as that a checkpoint is damaged."""

    text: str


OnLog = Callable[[StepLog | ValidationLog | Note], None]
"""A function that is called with each row of a log."""


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a log as they were written; a last line that a kill cut short is left out.

    Raises:
        InputError: The file is no text, or a row has no step.
    """
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # other ends of lines, such as U+2028, may be in an answer
    except UnicodeDecodeError as error:
        raise _damaged(path, f"byte {error.start} is not UTF-8") from error
    for number, line in enumerate(lines, 1):
        with contextlib.suppress(json.JSONDecodeError):
            row = json.loads(line)
            if not isinstance(row, dict) or type(row.get("step")) is not int:
                raise _damaged(path, f"line {number} is not a row with a step")
            rows.append(row)
    return rows


def read_steps(path: Path) -> list[StepLog]:
    """The rows of a ``metrics.jsonl``.

    Raises:
        InputError: A row is malformed.
    """
    with _named(path):
        return [StepLog.from_row(row) for row in read_log(path)]


def read_validations(path: Path) -> list[ValidationLog]:
    """The rows of a ``validation.jsonl``.

    Raises:
        InputError: A row is malformed.
    """
    with _named(path):
        return TypeAdapter(list[ValidationLog]).validate_python(read_log(path))


@contextlib.contextmanager
def _named(path: Path) -> Any:
    try:
        yield
    except ValidationError as error:
        raise _damaged(path, error.errors(include_url=False)[0]["msg"]) from error


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"{path} is damaged ({what}); delete the line, or the file")
