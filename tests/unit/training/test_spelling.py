from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from mblip.models.locate import locate
from mblip.training.spelling import spelled_in_bytes


@pytest.fixture(scope="module")
def nano() -> object:
    return AutoTokenizer.from_pretrained(locate("nano:nano-mlm"))


@pytest.mark.parametrize("word", ["harbour", "Mashua", "bandarini", "กรุงเทพ", "zzz"])
def test_words_outside_the_vocabulary_are_spelled_in_bytes(nano: object, word: str) -> None:
    assert spelled_in_bytes(nano, word)


@pytest.mark.parametrize("word", ["Leopard", "leopards", "鼓"])
def test_words_of_the_vocabulary_are_not(nano: object, word: str) -> None:
    assert not spelled_in_bytes(nano, word)


@pytest.mark.parametrize(("word", "expected"), [("hello", False), ("ab", False), ("เมือง", True)])
def test_a_byte_level_vocabulary(tmp_path: Path, word: str, expected: bool) -> None:
    from tests import checkpoints

    assert spelled_in_bytes(checkpoints.tokenizer("bytes"), word) is expected
