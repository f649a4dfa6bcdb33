"""Limit what Gradio stores for the page's visitors, also for those who never fetch their answers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

_RUNNING = 500  # questions being answered
_KEPT = 1000  # visitors with answers that may still be fetched
# Gradio copies the description of the page, about 200 kB, for each visitor. We store nothing there.
STATES = 64


class Sessions:
    """The visitors, or single calls, for whom messages are kept.

    Args:
        queue: Gradio's queue. By itself, it forgets the oldest visitor even while a question of theirs is being
            answered.
    """

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    def waits(self, name: str) -> bool:
        """Whether messages are kept for a session or call."""
        return name in self._queue.pending_messages_per_session

    def make_room(self, listening: Collection[str]) -> bool:
        """Forget the oldest answers that nobody fetched; returns whether there is room for another question.

        Args:
            listening: Names of visitors who are waiting for an answer, whose messages are kept.
        """
        running = {event.session_hash for event in self._queue.event_ids_to_events.values()}
        messages = self._queue.pending_messages_per_session
        for name in list(messages)[: max(len(messages) + 1 - _KEPT, 0)]:
            if name not in running and name not in listening:
                del messages[name]
                self._queue.pending_event_ids_session.pop(name, None)
        return len(running) < _RUNNING
