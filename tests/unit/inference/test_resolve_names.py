"""Names that are empty are told, and are not taken for the working directory."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from mblip.cli.app import app
from mblip.errors import InputError


@pytest.mark.parametrize(
    "command", [["caption", "", "--language", "sw"], ["caption", " ", "--language", "sw"], ["doctor", ""]]
)
def test_an_empty_name_is_told(command: list[str]) -> None:
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, InputError) and "empty" in str(done.exception)
