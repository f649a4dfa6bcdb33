"""What Gradio remembers of the visitors of the page, bounded: whoever never fetches an answer takes up no room for long."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

_RUNNING = 500  # questions under way
_KEPT = 1000  # visitors with answers that may still be fetched
# Gradio copies the description of the page, some 200 kB, for each visitor. Nothing of ours is kept there.
STATES = 64


class Sessions:
    """The visitors, or single calls, for whom messages are kept.

    Args:
        queue: Gradio's. By itself it forgets the oldest visitor, also while a question of theirs is under way.
    """

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    def waits(self, name: str) -> bool:
        """Whether messages are kept for a session or call of that name."""
        return name in self._queue.pending_messages_per_session

    def make_room(self, listening: Collection[str]) -> bool:
        """Forget the oldest answers that nobody fetched; whether there is room for one more question.

        Args:
            listening: Names of those who wait for an answer just now, which are kept.
        """
        running = {event.session_hash for event in self._queue.event_ids_to_events.values()}
        messages = self._queue.pending_messages_per_session
        for name in list(messages)[: max(len(messages) + 1 - _KEPT, 0)]:
            if name not in running and name not in listening:
                del messages[name]
                self._queue.pending_event_ids_session.pop(name, None)
        return len(running) < _RUNNING
