"""The one error a person can cause, and how a message names what was meant."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable


class InputError(Exception):
    """Input, recipe or environment that the caller can mend.

    The message is one clear sentence that names the file, the row where there is one, and the remedy. The command
    line prints it without a traceback and exits with code 2.
    """


_LISTED = 100  # names in a message, at most
_LONGEST = 200  # characters of a value in a message


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint ``"; did you mean 'x'? There are x, y, z"`` for an unknown name: the nearest first, the others after it.

    Args:
        name: What was typed.
        known: What would have been right.
    """
    names = sort_nearest(name, known)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    hint = guess(name, names)
    listed = ", ".join(names[:_LISTED]) + more if names else "none"
    return f"{hint} There are {listed}" if hint else f"; there are {listed}"


def guess(name: str, known: Iterable[str], spelled: Callable[[str], str] = str) -> str:
    """The hint ``"; did you mean 'x'?"`` for a mistyped name, or an empty string where nothing is near.

    Args:
        name: What was typed.
        known: What would have been right.
        spelled: How to show it.
    """
    # One wrong letter in four, or the name cut short: with more, as in "klingon" for "igbo", the hint misleads.
    known = list(known)
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    if not found:
        folded = {other.casefold(): other for other in known}
        found = [folded[close] for close in difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.75)]
    if not found and len(name) > 2:
        found = [longer for longer in known if longer.startswith(name)]
    return f"; did you mean {spelled(found[0])!r}?" if found else ""


def sort_nearest(
    name: str, known: Iterable[str], spellings: Callable[[str], Iterable[str]] = lambda other: (other,)
) -> list[str]:
    """Each of the known names once, the most like ``name`` first; those that are equally unlike it in their order.

    Args:
        name: What was typed.
        known: What would have been right.
        spellings: What each of these may be typed as; the nearest counts.
    """
    matcher = difflib.SequenceMatcher(b=name[:_LONGEST].casefold())

    def likeness(other: str) -> float:
        best = 0.0
        for spelling in spellings(other):
            matcher.set_seq1(spelling.casefold())
            best = max(best, matcher.ratio())
        return best

    return sorted(dict.fromkeys(known), key=likeness, reverse=True)


def shorten(value: str) -> str:
    """A value as messages show it: its beginning where it is long."""
    return value if len(value) <= _LONGEST else f"{value[: _LONGEST - 1]}…"
