"""The errors of this package, and helpers for messages."""

from __future__ import annotations

import difflib
import errno
import re
import reprlib
from collections.abc import Iterable
from typing import Any

LONGEST = 200
"""Maximal characters of one value in a message."""

_LONG_QUOTE = re.compile(rf"'(?:[^'\\]|\\.){{{LONGEST},}}'|\"(?:[^\"\\]|\\.){{{LONGEST},}}\"", re.DOTALL)


class MblipError(Exception):
    """Base class of this package's errors; always one of the four kinds below.

    The message is one clear sentence that names the failure, its reason and the remedy. The command line prints it
    without a traceback and exits with code 2. A quoted value is shortened to :data:`LONGEST` characters; :func:`quoted`
    does so for values that are not texts.
    """

    def __init__(self, message: str = "", *rest: Any) -> None:
        super().__init__(shorten_quotes(message), *rest)

    def reworded(self, message: str) -> MblipError:
        """An error of the same kind with another message, for a caller that knows more, such as how to continue."""
        return next(kind for kind in KINDS if isinstance(self, kind) or kind is MblipError)(message)


class InputError(MblipError):
    """Wrong input, recipe, option or installation, which the user can correct."""


class RemoteError(MblipError):
    """An endpoint, a hub or a cluster failed or does not answer; the same call may work later."""


class ResourceError(MblipError):
    """The machine lacks a resource: memory, disk, open files, a device, room in a queue."""


class TrainingError(MblipError):
    """Training cannot continue: the loss or the gradients are not finite."""


KINDS: tuple[type[MblipError], ...] = (InputError, RemoteError, ResourceError, TrainingError, MblipError)
"""The kinds of errors, and last their base class."""

_SCARCE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EIO}
)


def of_system(error: OSError, message: str) -> MblipError:
    """The error for a failure of the operating system: ResourceError if a resource ran out, else InputError.

    Args:
        error: The original error.
        message: The message.
    """
    return ResourceError(message) if is_scarcity(error) else InputError(message)


def is_scarcity(error: OSError) -> bool:
    """Whether the operating system ran out of a resource (disk, memory, open files), and did not refuse the request."""
    return error.errno in _SCARCE


def shorten(text: str, longest: int = LONGEST) -> str:
    """A text without its middle if it is longer than ``longest`` characters."""
    if len(text) <= longest:
        return text
    end = longest // 4
    return f"{text[: longest - end - 1]}…{text[-end:]}"


def shorten_quotes(message: str) -> str:
    """A message whose quoted values are shortened, each to :data:`LONGEST` characters."""
    return _LONG_QUOTE.sub(lambda found: shorten(found[0]), message)


class _Brief(reprlib.Repr):
    """Representations of limited length that are never built in full."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = LONGEST
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple = 3, 8, 8, 8

    def repr_bytes(self, value: bytes, level: int) -> str:
        return repr(value) if len(value) <= 20 else f"<{len(value):,} bytes>"


_brief = _Brief()


def quoted(value: Any) -> str:
    """A value for messages, in at most :data:`LONGEST` characters; bytes as their number."""
    return shorten(repr(value) if isinstance(value, str) and len(value) < LONGEST else _brief.repr(value))


_LISTED = 100  # maximal number of names in a message


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint ``"; did you mean 'x'? There are x, y, z"`` for an unknown name: the nearest first, the others after it.

    Args:
        name: The typed name.
        known: The valid names.
    """
    names = sort_nearest(name, known)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    hint = guess(name, names)
    listed = ", ".join(names[:_LISTED]) + more if names else "none"
    return f"{hint} There are {listed}" if hint else f"; there are {listed}"


def guess(name: str, known: Iterable[str]) -> str:
    """The hint ``"; did you mean 'x'?"`` for a mistyped name, or an empty string if nothing is near.

    Args:
        name: The typed name.
        known: The valid names.
    """
    # At most one wrong letter in four, or the name cut short: with more, as in "klingon" for "igbo", the hint misleads.
    known = list(known)
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    if not found:
        folded = {other.casefold(): other for other in known}
        found = [folded[close] for close in difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.75)]
    if not found and len(name) > 2:
        found = [longer for longer in known if longer.startswith(name)]
    return f"; did you mean {found[0]!r}?" if found else ""


def sort_nearest(name: str, known: Iterable[str]) -> list[str]:
    """The known names, each once, the most similar to ``name`` first; equally similar ones keep their order.

    Args:
        name: The typed name.
        known: The valid names.
    """
    matcher = difflib.SequenceMatcher(b=name[:LONGEST].casefold())

    def likeness(other: str) -> float:
        matcher.set_seq1(other.casefold())
        return matcher.ratio()

    return sorted(dict.fromkeys(known), key=likeness, reverse=True)
