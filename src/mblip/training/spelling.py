"""Find words that a tokeniser spells in bytes, which take many tokens and are slow to learn."""

from __future__ import annotations

import re
from itertools import chain, islice
from pathlib import Path
from typing import Any

from mblip.processing.rows import open_rows

_TEXTS = 5000  # answers that are checked
_SHOWN = 5
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def spelled_in_bytes(tokenizer: Any, word: str) -> bool:
    """Whether a word's tokens include single bytes of characters, or are only the unknown token."""
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(word, add_special_tokens=False)["input_ids"])
    if any(_BYTE.fullmatch(token) for token in tokens) or (tokenizer.unk_token and tokenizer.unk_token in tokens):
        return True
    # A byte-level vocabulary does not mark bytes: a token is part of a character if its text is invalid.
    ids = tokenizer.convert_tokens_to_ids(tokens)
    broken = sum("\ufffd" in tokenizer.decode([token]) for token in ids)
    return broken > 0 and "\ufffd" not in word and len(ids) > len(word)


def warn_of_bytes(tokenizer: Any, mix: Path) -> str:
    """A warning about words in a mix's answers that the tokeniser spells in bytes; empty if there are none."""
    rows = (batch.column("answer").to_pylist() for batch in open_rows(mix).batches("answer"))
    answers = islice(chain.from_iterable(rows), _TEXTS)
    words = list(dict.fromkeys(word for answer in answers for word in re.findall(r"[^\W\d_]{2,}", answer)))
    lost = [word for word in words if spelled_in_bytes(tokenizer, word)]
    if not lost:
        return ""
    shown = ", ".join(lost[:_SHOWN]) + (" ..." if len(lost) > _SHOWN else "")
    return (
        f"the tokeniser spells {len(lost):,} of the {len(words):,} words of the answers in bytes ({shown}): they take "
        "many tokens and many examples to learn; a language model whose vocabulary has them learns them faster"
    )
