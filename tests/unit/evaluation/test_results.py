"""What an evaluation leaves behind reads back, and what is damaged is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mblip.errors import InputError
from mblip.evaluation.results import (
    ITEMS,
    PREDICTIONS,
    RUN,
    SCORES,
    read_items,
    read_predictions,
    read_run,
    read_scores,
    write_run,
    write_scores,
)

FIXTURE = Path(__file__).parents[2] / "fixtures" / "evaluation" / "results"


def test_the_example_reads_back(tmp_path: Path) -> None:
    run, scores = read_run(FIXTURE), read_scores(FIXTURE)
    assert (run.kind, run.protocol, run.limit) == ("mblip", "generation", None)
    assert [(score.benchmark, score.language) for score in scores[:2]] == [("xgqa", "en"), ("xgqa", "de")]
    assert {score.language: score.language_fidelity for score in scores if score.benchmark == "xm3600"} == {
        "en": 1.0, "ar": 0.5, "id": None, "ja": 1.0, "sw": 1.0
    }  # fmt: skip
    write_run(tmp_path, run)
    write_scores(tmp_path, scores)
    assert (read_run(tmp_path), read_scores(tmp_path)) == (run, scores)


def test_items_carry_what_the_scores_are_made_of() -> None:
    files = sorted((FIXTURE / ITEMS).glob("*.jsonl"))
    scores = read_scores(FIXTURE)
    assert len(files) == len(scores) == 9
    for score in scores:
        items = read_items(FIXTURE, score.benchmark, score.language)
        answers = read_predictions(FIXTURE, score.benchmark, score.language)
        assert [item.id for item in items] == list(answers)
        assert score.n == len(items)
        for name in score.ci95:
            scale = 100 if name == "accuracy" else 1
            mean = scale * sum(item.values[name] for item in items) / len(items)
            assert mean == pytest.approx(score.metrics[name])


@pytest.mark.parametrize("read", [read_items, read_predictions])
def test_a_file_that_is_cut_off_or_gone_says_what_to_do(
    tmp_path: Path, read: Callable[[Path, str, str], object]
) -> None:
    shutil.copytree(FIXTURE, tmp_path, dirs_exist_ok=True)
    path = tmp_path / (ITEMS if read is read_items else PREDICTIONS) / "xgqa-en.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"xgqa-en.jsonl, line \d+ .*; delete that line and run mblip eval"):
        read(tmp_path, "xgqa", "en")
    path.unlink()
    with pytest.raises(InputError, match=r"xgqa-en.jsonl.*; run mblip eval on its directory again"):
        read(tmp_path, "xgqa", "en")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (RUN, "{", "is damaged"),
        (RUN, "[]", "is not what mblip eval writes"),
        (RUN, '{"model": "x"}', "lacks 'kind'"),
        (SCORES, "{}", "is not what mblip eval writes"),
        (SCORES, '[{"benchmark": 3}]', "record 1 lacks 'language'"),
    ],
)
def test_damaged_files(tmp_path: Path, file: str, text: str, message: str) -> None:
    shutil.copytree(FIXTURE, tmp_path, dirs_exist_ok=True)
    (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match=message):
        read_run(tmp_path) if file == RUN else read_scores(tmp_path)


def test_a_fidelity_is_a_number_or_nothing(tmp_path: Path) -> None:
    rows = json.loads((FIXTURE / SCORES).read_text())
    (tmp_path / SCORES).write_text(json.dumps([{**rows[0], "language_fidelity": "high"}]))
    with pytest.raises(InputError, match=r"'language_fidelity' must be float \| None, not 'high'"):
        read_scores(tmp_path)


def test_a_directory_of_another_format_or_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name a directory that mblip eval has written"):
        read_run(tmp_path)
    shutil.copy(FIXTURE / RUN, tmp_path)
    data = json.loads((tmp_path / RUN).read_text())
    (tmp_path / RUN).write_text(json.dumps({**data, "format": 99}))
    with pytest.raises(InputError, match="has format 99; this version reads 2"):
        read_run(tmp_path)
