"""The one error a person can cause, and how the command line shows it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable


class InputError(Exception):
    """Input, recipe or environment that the caller can mend.

    The message is one clear sentence that names the file, the row where there is one, and the remedy. The command
    line prints it without a traceback and exits with code 2.
    """


def nearest(name: str, known: Iterable[str], spelled: Callable[[str], str] = str) -> str:
    """The hint ``"; did you mean 'x'?"`` for a mistyped name, or an empty string where nothing is near.

    Args:
        name: What was typed.
        known: What would have been right.
        spelled: How to show it.
    """
    # One wrong letter in four, or the name cut short: with more, as in "klingon" for "igbo", the hint misleads.
    known = list(known)
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    if not found and len(name) > 2:
        found = [longer for longer in known if longer.startswith(name)]
    return f"; did you mean {spelled(found[0])!r}?" if found else ""
