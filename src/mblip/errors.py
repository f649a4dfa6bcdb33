"""The errors of this package, and helpers for messages."""

from __future__ import annotations

import difflib
import errno
import os
import re
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LONGEST = 200
"""Maximum characters of one value in a message."""

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
    """An endpoint, the Hub or a cluster failed or did not answer; the same call may work later."""


class ResourceError(MblipError):
    """The machine lacks a resource: memory, disk space, file handles, a device, or room in a queue."""


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


_CIRCLE = "its links lead in a circle: name the file itself"
_NO_FOLDER = "a part of its path is a file, where a folder is expected: correct the path"
_SHORTER = "choose a shorter name"
_FULL = "free the space, or choose another disk"
_REMEDIES = {
    errno.EACCES: "give yourself the right to read it",
    errno.EPERM: "give yourself the right to read it",
    errno.EISDIR: "a file is expected there: name one, or move the folder away",
    errno.ENOTDIR: _NO_FOLDER,
    errno.ENAMETOOLONG: _SHORTER,
    errno.ELOOP: _CIRCLE,
    errno.EMFILE: "close some files, or allow more with ulimit -n",
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
}
_WRITE_REMEDIES = _REMEDIES | {
    errno.EACCES: "choose a folder that can be written",
    errno.EPERM: "choose a folder that can be written",
    errno.EEXIST: _NO_FOLDER,  # from making a folder
    errno.EISDIR: "it is a folder: choose another name",
}

_ANY_REMEDIES = _REMEDIES | {  # where it is not known whether it was reading or writing
    errno.EACCES: "give yourself the right to it",
    errno.EPERM: "give yourself the right to it",
}


def refusal(error: OSError) -> str:
    """The reason why the operating system refuses to read a file, and the remedy if one is known."""
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{error.strerror or error}{f'; {remedy}' if remedy else ''}"


def cannot_read(path: str | Path, error: OSError, what: str = "") -> MblipError:
    """The error for a file or folder that the operating system refuses to read; ``what`` comes before its path."""
    link = leads_nowhere(path) if isinstance(error, FileNotFoundError) else ""
    return of_system(error, f"cannot read {what}{shorten(str(path))}: {refusal(error)}{link}")


def cannot_write(path: object, error: OSError) -> MblipError:
    """The error for a file or folder that the operating system refuses to write."""
    remedy = _WRITE_REMEDIES.get(error.errno or 0, "free the space or choose a folder that can be written")
    return of_system(error, f"cannot write {shorten(str(path))}: {error.strerror or error}; {remedy}")


def leads_nowhere(path: str | Path) -> str:
    """The end of a message about a missing file, if it is a link without a target; empty otherwise."""
    is_link = os.path.islink(path)  # noqa: PTH114  # False for a name that the system refuses
    return "; it is a link that leads to no file: name the file itself, or copy it again" if is_link else ""


def unforeseen(error: OSError) -> MblipError | None:
    """The error for a refusal that no other code has told of; None if its reason is none that a person can mend."""
    if error.errno not in _REMEDIES and not is_scarcity(error):
        return None
    place = f"{shorten(os.fsdecode(error.filename))}: " if isinstance(error.filename, str | bytes) else ""
    remedy = _ANY_REMEDIES.get(error.errno or 0, "make room, then run the same command")
    return of_system(error, f"{place}{error.strerror or error}; {remedy}")


def check_readable(path: Path) -> None:
    """Check that a file can be opened, before or after a library that would report it in its own words.

    A missing file passes: its absence has other reasons and remedies.

    Raises:
        MblipError: It cannot be opened.
    """
    try:
        path.open("rb").close()
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not path.is_symlink():
            return
        raise cannot_read(path, error) from error


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


def counted(count: int, noun: str) -> str:
    """A number with its noun: ``"1 row"``, ``"2,400 rows"``.

    Args:
        count: How many.
        noun: The word for one, whose plural ends in an added ``s``.
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


_LISTED = 100  # maximum number of names in a message


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint ``"; did you mean 'x'? Available: x, y, z"`` for an unknown name: the nearest first, the others after it.

    Args:
        name: The typed name.
        known: The valid names.
    """
    names = sort_nearest(name, known)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    hint = guess(name, names)
    listed = ", ".join(names[:_LISTED]) + more if names else "none"
    return f"{hint} Available: {listed}" if hint else f"; available: {listed}"


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
