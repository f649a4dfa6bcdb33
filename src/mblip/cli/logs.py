"""The package's log (the logger ``mblip``) on the screen: libraries log, and only verbs print."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class _Lines(logging.Handler):
    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        self._say(prefix + record.getMessage())


@contextmanager
def shown(say: Callable[[str], None], level: int = logging.INFO) -> Iterator[None]:
    """Show what the package logs from a level on, a line each, while a verb is at work."""
    logger, handler = logging.getLogger("mblip"), _Lines(say)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False  # or the handlers of a host program would show it once more
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before
