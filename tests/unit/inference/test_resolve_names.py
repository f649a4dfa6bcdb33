"""Names that are empty are told, and are not taken for the working directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mblip.cli.app import app
from mblip.errors import InputError
from mblip.models.locate import find_model


def test_a_mix_is_no_unfinished_run(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("title: t\n")
    with pytest.raises(InputError, match="is not finished"):
        find_model(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="is a mix, which trains a model"):
        find_model(tmp_path)


def test_an_unfinished_run_is_not_taken_for_predictions(tmp_path: Path) -> None:
    run, table = tmp_path / "run", tmp_path / "t.csv"
    run.mkdir()
    for name in ("recipe.yaml", "identity.json", "metrics.jsonl", "validation.jsonl"):
        (run / name).write_text("{}\n")
    (tmp_path / "a.png").touch()
    table.write_text("image,caption\na.png,x\n")
    asked = [
        "eval",
        str(run),
        "--table",
        str(table),
        "--task",
        "caption",
        "--language",
        "sw",
        "--to",
        str(tmp_path / "e"),
    ]
    done = CliRunner().invoke(app, asked)
    assert isinstance(done.exception, InputError) and f"the run {run} is not finished" in str(done.exception)


@pytest.mark.parametrize(
    "command", [["caption", "", "--language", "sw"], ["caption", " ", "--language", "sw"], ["doctor", ""]]
)
def test_an_empty_name_is_told(command: list[str]) -> None:
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, InputError) and "empty" in str(done.exception)
