"""How a long job tells how far it is: by calling back, since only the command line shows anything."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]
"""Called with the stage, how much of it is done and, where that is known, of how much."""


def silent(stage: str, done: int, total: int | None) -> None:
    """The :data:`Progress` that tells nobody."""
