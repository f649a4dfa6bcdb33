"""What a run says: one line for each row of its log."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from mblip.cli.train import SHOWN, _TrainingScreen
from mblip.training.logs import AnsweredSample, Note, StepLog, ValidationLog


def told(row: StepLog | ValidationLog | Note) -> list[str]:
    console = Console(file=io.StringIO(), width=60, highlight=False)
    with _TrainingScreen(console) as progress:
        progress.tell(row)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_a_step_is_a_line_that_says_how_many_processes_work() -> None:
    row = StepLog(
        7, 1.5, seconds=3.0, seconds_left=61.0, per_second={"examples": 12.25, "tokens": 100.0}, peak_memory_mib=2048.0
    )
    line = "step 7  loss 1.5000  12.2 texts/s, 100 tokens/s, 2.0 GiB, 0:01:01 left"
    assert told(row) == [line]
    assert told(replace(row, processes=2)) == [f"{line}, 2 processes"]
    [endless] = told(replace(row, seconds_left=1e30))
    assert "999999999 days" in endless


def test_a_note_is_told_as_it_is() -> None:
    assert told(Note("checkpoint [x] is damaged")) == ["checkpoint [x] is damaged"]


def test_a_validation_tells_what_is_worst_and_what_it_left_out() -> None:
    samples = (AnsweredSample("1", "en", "Caption:", "[b]dog[/b], " * 20, "cat"),) * (SHOWN + 2)
    languages = {f"l{number}": float(number) for number in range(8)}
    row = ValidationLog(7, 2.0, 9, 3, {"vqa": 1.0}, languages, 0.0, samples)
    first, worst, *shown = told(row)
    assert (
        first
        == "validation at step 7: loss 2.0000, 0% of 7 samples word for word, 3 texts left out (unreadable pictures)"
    )
    assert worst == "  highest by language: l7 7.00, l6 6.00, l5 5.00, l4 4.00, l3 3.00, 3 more"
    assert len(shown) == SHOWN and shown[0].startswith("  Caption: → [b]dog[/b], [b]dog") and shown[0].endswith("cat)")


def test_a_checkpoint_that_is_not_gone_on_from_is_told_of() -> None:
    assert told(Note("checkpoint [x] is damaged")) == ["checkpoint [x] is damaged"]
