"""The errors of this package, and how a message names what was meant."""

from __future__ import annotations

import difflib
import errno
import re
import reprlib
from collections.abc import Callable, Iterable
from typing import Any

LONGEST = 200
"""Characters of one value that a message shows."""

_LONG_QUOTE = re.compile(rf"'(?:[^'\\]|\\.){{{LONGEST},}}'|\"(?:[^\"\\]|\\.){{{LONGEST},}}\"", re.DOTALL)


class MblipError(Exception):
    """What this package raises, and a caller may want to catch; always one of the four kinds below.

    The message is one clear sentence that names what failed, why, and the remedy. The command line prints it without a
    traceback and exits with code 2. A quoted value is shortened to :data:`LONGEST` characters; :func:`quoted` does so for
    values that are no texts.
    """

    def __init__(self, message: str = "", *rest: Any) -> None:
        super().__init__(shorten_quotes(message), *rest)

    def reworded(self, message: str) -> MblipError:
        """An error of the same kind with another message, for a caller that knows more, such as how to go on."""
        return next(kind for kind in KINDS if isinstance(self, kind) or kind is MblipError)(message)


class InputError(MblipError):
    """Input, a recipe, an option or an installation that a person can put right."""


class RemoteError(MblipError):
    """An endpoint, a hub or a cluster failed or does not answer; later the same call may work."""


class ResourceError(MblipError):
    """The machine lacks what is needed: memory, disk, open files, a device, room in a queue."""


class TrainingError(MblipError):
    """Training cannot go on: the loss or the gradients are not finite."""


KINDS: tuple[type[MblipError], ...] = (InputError, RemoteError, ResourceError, TrainingError, MblipError)
"""The kinds of errors, and last what they have in common."""

_SCARCE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EIO}
)


def of_system(error: OSError, message: str) -> MblipError:
    """A refusal of the operating system: ResourceError where the disk or another resource gave out, else InputError.

    Args:
        error: What was raised.
        message: What to say.
    """
    return ResourceError(message) if is_scarcity(error) else InputError(message)


def is_scarcity(error: OSError) -> bool:
    """Whether the operating system lacked something (disk, memory, open files), rather than refused what was asked."""
    return error.errno in _SCARCE


def shorten(text: str, longest: int = LONGEST) -> str:
    """A text without its middle where it is longer than so many characters."""
    if len(text) <= longest:
        return text
    end = longest // 4
    return f"{text[: longest - end - 1]}…{text[-end:]}"


def shorten_quotes(message: str) -> str:
    """A message whose quoted values are shortened, each to :data:`LONGEST` characters."""
    return _LONG_QUOTE.sub(lambda found: shorten(found[0]), message)


class _Brief(reprlib.Repr):
    """Representations that are never built longer than they are shown."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = LONGEST
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple = 3, 8, 8, 8

    def repr_bytes(self, value: bytes, level: int) -> str:
        return repr(value) if len(value) <= 20 else f"<{len(value):,} bytes>"


_brief = _Brief()


def quoted(value: Any) -> str:
    """A value as messages show it, in at most :data:`LONGEST` characters; bytes as their number."""
    return shorten(repr(value) if isinstance(value, str) and len(value) < LONGEST else _brief.repr(value))


_LISTED = 100  # names in a message, at most


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
    matcher = difflib.SequenceMatcher(b=name[:LONGEST].casefold())

    def likeness(other: str) -> float:
        best = 0.0
        for spelling in spellings(other):
            matcher.set_seq1(spelling.casefold())
            best = max(best, matcher.ratio())
        return best

    return sorted(dict.fromkeys(known), key=likeness, reverse=True)
