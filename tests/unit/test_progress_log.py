"""The package's log on the screen: each line once, only while a verb is at work."""

from __future__ import annotations

import logging

import pytest

from mblip.cli._progress import log_shown


def test_lines_are_shown_while_a_verb_works_and_the_logger_is_as_before() -> None:
    lines: list[str] = []
    logger = logging.getLogger("mblip.models.speedups")
    before = logging.getLogger("mblip").level
    with log_shown(lines.append):
        logger.info("speed-ups: %s", "packed_rows")
        logger.debug("nobody asked")
        logger.warning("packed_rows cannot be used")
    logger.warning("later")
    assert lines == ["speed-ups: packed_rows", "warning: packed_rows cannot be used"]
    assert logging.getLogger("mblip").level == before and not logging.getLogger("mblip").handlers


def test_an_error_leaves_the_logger_as_before() -> None:
    with pytest.raises(ZeroDivisionError), log_shown(print):
        _ = 1 / 0
    assert not logging.getLogger("mblip").handlers and logging.getLogger("mblip").propagate
