"""Scripts for readers run, and the README stays short with one small picture."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from mblip.nano.scenes import Scene

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "five_scripts.py"


def test_every_example_is_tested() -> None:
    assert [path.name for path in (ROOT / "examples").glob("*.py")] == [SCRIPT.name]


def test_five_scripts(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "nano:nano-blip2-en"])
    names = runpy.run_path(str(SCRIPT), run_name="__main__")
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    assert {len(row) for row in rows} == {6}
    table = names["page"](
        [names["render"](Scene.from_key("fox@0#1"))], [["a fox", "<лиса>", "ثعلب", "लोमड़ी", "キツネ"]]
    )
    assert "&lt;лиса&gt;" in table and table.count("<tr>") == 2 and 'lang="ar" dir="auto"' in table


def test_the_readme_is_short_and_its_picture_small() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert (ROOT / picture).stat().st_size < 300_000
