"""Words that are never shown with a picture in some language, so that one can ask what transfers to them."""

from __future__ import annotations

import hashlib
from functools import lru_cache


@lru_cache(maxsize=1 << 16)
def is_held_out(word: str, language: str, share: float) -> bool:
    """Whether this share of (word, language) pairs, chosen by a hash, holds the pair; English is never held out.

    Args:
        word: The English word, as the example's corpus knows it.
        language: mC4 code.
        share: ``translation.never_shown`` of the data recipe.
    """
    if language == "en":
        return False
    digest = hashlib.blake2b(f"{word}\0{language}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64
