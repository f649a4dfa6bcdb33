"""How a long job tells how far it is: by calling back, since only the command line shows anything."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]
"""Called with the stage, how much of it is done and, where that is known, of how much."""


def silent(stage: str, done: int, total: int | None) -> None:
    """The :data:`Progress` that tells nobody."""


def size_text(number: int) -> str:
    """A number of bytes in the unit that a person would choose, as in ``6.65 GB``."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}" if number < 999.5 * size else f"{number / size:,.0f} {unit}"
    return f"{number} bytes"
