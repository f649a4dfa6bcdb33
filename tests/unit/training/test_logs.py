"""Log rows are read back as they were written, in the flat form that earlier versions wrote too."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from mblip.errors import InputError
from mblip.training.logs import AnsweredSample, StepLog, ValidationLog, read_steps, read_validations
from mblip.training.tracking import METRICS, Log

STEP = StepLog(
    20, 1.5, 0.25, 640.0, {"cell_loss": 2.0}, {"lora": 1e-3, "qformer": 5e-5}, 2, 3.0, 61.0, {"tokens": 100.0}, 2048.0
)
CHECKED = ValidationLog(
    20, 2.0, 9, 1, {"vqa": 2.0}, {"sw": 2.0}, 0.5, (AnsweredSample("1", "sw", "Jina?", "mbwa", "paka"),), 0.75
)


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_step_is_flat_in_the_file_and_whole_when_read(tmp_path: Path) -> None:
    assert list(STEP.to_row()) == [
        "step", "loss", "grad_norm", "tokens", "cell_loss", "lr_lora", "lr_qformer", "processes", "seconds", "seconds_left",
        "tokens_per_second", "peak_memory_mib",
    ]  # fmt: skip
    assert read_steps(write(tmp_path / "metrics.jsonl", STEP.to_row())) == [STEP]


def test_a_validation_is_read_back(tmp_path: Path) -> None:
    path = write(tmp_path / "validation.jsonl", CHECKED.to_row(), ValidationLog(40, 1.0).to_row())
    assert read_validations(path) == [CHECKED, ValidationLog(40, 1.0)]


def test_rows_of_earlier_versions_and_a_line_cut_short_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "metrics.jsonl", {"step": 1, "loss": 2, "lr_llm": 0.1, "images_per_second": 3.0})
    path.write_text(path.read_text(encoding="utf-8") + '{"step": 2, "lo', encoding="utf-8")
    [row] = read_steps(path)
    assert (row.learning_rates, row.per_second, row.processes) == ({"llm": 0.1}, {"images": 3.0}, 1)
    assert math.isnan(row.grad_norm)


@pytest.mark.parametrize(
    "row", [{"loss": 1.0}, {"step": 1}, {"step": "one", "loss": 1.0}, [1], 3, {"step": 1, "loss": {}}]
)
def test_what_is_no_row_is_named(tmp_path: Path, row: object) -> None:
    path = write(tmp_path / "log.jsonl", row)
    for read in (read_steps, read_validations):
        with pytest.raises(InputError, match=r"log\.jsonl is damaged"):
            read(path)


@pytest.mark.parametrize(
    "data", [b'{"step": 1}\n{"x": "\xe9"}\n', b'{"step": 1}\n[]\n', b'{"step": true}\n', b"2\n", b"\xff\xfe" * 9]
)
def test_a_run_does_not_go_on_with_a_damaged_log(tmp_path: Path, data: bytes) -> None:
    (tmp_path / METRICS).write_bytes(data)
    with pytest.raises(InputError, match=r"metrics\.jsonl is damaged \(.*\); delete the line, or the file"):
        Log(tmp_path, 0, 1, "none", lambda row: None, writes=True)


def test_a_row_with_other_ends_of_lines_in_an_answer_is_one_row(tmp_path: Path) -> None:
    row = replace(CHECKED, samples=(AnsweredSample("1", "sw", "a\u2028b", "a\u0085b", "a\u2029b\x1c"),))
    path = tmp_path / "validation.jsonl"
    path.write_text(json.dumps(row.to_row(), ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_validations(path) == [row]
