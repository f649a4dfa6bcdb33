"""Rows of a run's logs: what training says, writes and reads back.

``metrics.jsonl`` holds :class:`StepLog`, ``validation.jsonl`` :class:`ValidationLog`, one JSON object a line.
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
        step: Optimiser steps done.
        loss: Mean over the tokens of the step, in nats.
        grad_norm: Norm of the gradients before clipping.
        tokens: Tokens of the step that have a loss.
        means: Further values of the loss function, means over the micro-batches.
        learning_rates: By group of parameters.
        processes: How many trained together.
        seconds: Since this process began.
        seconds_left: To the last step, at the mean speed so far.
        per_second: ``examples``, ``images`` and ``tokens`` a second.
        peak_memory_mib: Most memory held so far, in MiB.
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
        """The row as it is written and tracked: flat, ``lr_<group>`` and ``<what>_per_second``."""
        return {
            "step": self.step, "loss": self.loss, "grad_norm": self.grad_norm, "tokens": self.tokens, **self.means,
            **{f"{_LR}{name}": rate for name, rate in self.learning_rates.items()}, "processes": self.processes,
            "seconds": self.seconds, "seconds_left": self.seconds_left,
            **{f"{name}{_RATE}": rate for name, rate in self.per_second.items()}, "peak_memory_mib": self.peak_memory_mib,
        }  # fmt: skip

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        """A row that was written; a value of an unknown name is one of ``means``."""
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
    """An answer of the model that a person may look at."""

    id: str
    language: str
    prompt: str
    answer: str
    reference: str


@dataclass(frozen=True, slots=True)
class ValidationLog:
    """One row of ``validation.jsonl``.

    Attributes:
        step: Optimiser steps done.
        loss: In nats a token, over all texts.
        texts: How many they are.
        left_out: Texts whose picture cannot be read.
        by_task: The loss of each task.
        by_language: The loss by the language of the answer (mC4 code).
        exact: Share of the samples that were answered word for word; None where there are none.
        samples: Answers to look at.
        seconds: That the validation took.
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
"""What is told of each row as it is made."""


def read_log(path: Path) -> list[dict[str, Any]]:
    """Rows of a log as they were written; a last line cut short by a kill is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def read_steps(path: Path) -> list[StepLog]:
    """The rows of a ``metrics.jsonl``.

    Raises:
        InputError: One is no such row.
    """
    with _named(path):
        return [StepLog.from_row(row) for row in read_log(path)]


def read_validations(path: Path) -> list[ValidationLog]:
    """The rows of a ``validation.jsonl``.

    Raises:
        InputError: One is no such row.
    """
    with _named(path):
        return TypeAdapter(list[ValidationLog]).validate_python(read_log(path))


@contextlib.contextmanager
def _named(path: Path) -> Any:
    try:
        yield
    except (ValidationError, AttributeError) as error:
        what = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else "a row is no object"
        raise InputError(f"{path} is damaged ({what}); delete the line, or the file") from error
