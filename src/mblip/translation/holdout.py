"""Held-out pairs of word and language, which never occur in training, to measure transfer."""

from __future__ import annotations

import hashlib
from functools import lru_cache


@lru_cache(maxsize=1 << 16)
def is_held_out(word: str, language: str, share: float) -> bool:
    """Whether a pair is among the share of (word, language) pairs that a hash holds out; English is never held out.

    Args:
        word: The English word in the example's corpus.
        language: mC4 code.
        share: ``translation.held_out`` of the data recipe.
    """
    if language == "en":
        return False
    digest = hashlib.blake2b(f"{word}\0{language}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64
