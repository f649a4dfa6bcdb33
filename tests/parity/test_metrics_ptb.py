"""The tokeniser against the jar that pycocoevalcap carries, and against its tokens of real rows."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import ModuleType

import pytest
from tests.scripts import load_script

from mblip.evaluation.metrics.ptb_tokenizer import tokenize


@pytest.fixture(scope="module")
def parity(root: Path) -> ModuleType:
    """The generator of strings and the call of the jar."""
    return load_script(root / "benchmarks/ptb_parity.py")


def test_five_thousand_strings_equal_the_jar(parity: ModuleType, java: str) -> None:
    folder = os.environ.get("MBLIP_BENCH", "")
    rows = parity.real_rows(Path(folder)) if folder else parity.SENTENCES
    texts = list(parity.strings(5000, rows, seed=12))
    theirs = parity.java_tokens(texts, java)
    assert len(set(texts)) > 4500
    assert [pair for pair in zip(texts, theirs, map(tokenize, texts), strict=True) if pair[1] != pair[2]] == []


def test_the_fixture_is_what_the_jar_says(parity: ModuleType, java: str, root: Path) -> None:
    lines = (root / "tests/fixtures/evaluation/ptb_tokens.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert parity.java_tokens([row["text"] for row in rows], java) == [row["tokens"] for row in rows]


def test_strings_are_in_more_than_thirty_scripts_and_stay_the_same(parity: ModuleType) -> None:
    import unicodedata

    texts = list(parity.strings(3000, parity.SENTENCES, seed=1))
    scripts = {unicodedata.name(letter, "").split(" ")[0] for text in texts for letter in text if letter.isalpha()}
    assert len(scripts) > 30
    assert texts == list(parity.strings(3000, parity.SENTENCES, seed=1))


def test_real_rows(bench: Path) -> None:
    rows = [json.loads(line) for line in (bench / "_gold/ptb_tokenizer.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == 1414
    assert [row for row in rows if tokenize(row["text"]) != row["tokens"]] == []
