"""Progress callbacks for long jobs, as only the command line displays anything."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]
"""Called with the stage, the amount done, and the total if it is known."""


def silent(stage: str, done: int, total: int | None) -> None:
    """The :data:`Progress` that does nothing."""


def size_text(number: int) -> str:
    """A number of bytes in a readable unit, such as ``6.65 GB``."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}" if number < 999.5 * size else f"{number / size:,.0f} {unit}"
    return f"{number} bytes"
