"""Find pictures in folders from Macs, phones and Windows."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from mblip.errors import MblipError, cannot_read, check_readable, refusal
from mblip.storage.decoding import EXTENSIONS

# Files that systems leave in folders: previews, settings, resource forks of a Mac's files on other drives.
_JUNK = {
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    ".ds_store",
    "icon\r",
    "__macosx",
    "@eadir",
    "$recycle.bin",
    ".thumbnails",
}


def is_junk(name: str) -> bool:
    """Whether a file or folder, or a parent folder, is not the user's own."""
    return any(part.startswith("._") or part.lower() in _JUNK for part in name.split("/"))


def is_picture(name: str) -> bool:
    """Whether a file's name has the ending of a supported picture format."""
    return name.lower().endswith(EXTENSIONS) and not is_junk(name)


def has_content(folder: Path) -> bool:
    """Whether a folder exists and holds anything that is not hidden; an unreadable one counts as empty."""
    try:
        return any(entry.name[0] != "." for entry in folder.iterdir())
    except OSError:
        return False


@dataclass
class Walked:
    """The content of a folder.

    Attributes:
        pictures: Paths, in order.
        refused: Pictures and folders that cannot be read, with the reason.
        others: Number of files that are not pictures in a supported format, by ending.
    """

    pictures: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


def walk_pictures(folder: str | Path) -> Walked:
    """All pictures below a folder; a linked folder is visited once, under its own name if it is below the folder."""
    walked, seen = Walked(), set[tuple[int, int]]()
    waiting, linked = [str(folder)], list[str]()
    while waiting or linked:
        here = waiting.pop() if waiting else linked.pop(0)
        try:
            status = os.stat(here)  # noqa: PTH116
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(here) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            walked.refused.append((here, f"the folder cannot be read: {refusal(error)}"))
            continue
        for entry in found:
            if is_junk(entry.name):
                continue
            kind = _kind(entry)
            if kind == "folder":
                (linked if entry.is_symlink() else waiting).append(entry.path)
            elif not is_picture(entry.name):
                walked.others[os.path.splitext(entry.name)[1].lower() or entry.name] += 1  # noqa: PTH122
            elif kind == "file":
                walked.pictures.append(entry.path)
            else:
                walked.refused.append((entry.path, kind))
    walked.pictures.sort()
    return walked


def _kind(entry: os.DirEntry[str]) -> str:
    """``folder``, ``file``, or the reason why it is neither."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        return "the link is broken" if entry.is_symlink() else "it is not a file, but a device, pipe or socket"
    except OSError as error:
        return f"it cannot be read: {refusal(error)}"


def find_file(folder: Path, key: str) -> Path | None:
    """The file of a key below a folder, in any spelling of accents and ending; None if there is none.

    In a folder that cannot be searched, its path as it is written: opening it tells why.
    """
    refused = None
    for name in spellings(key):
        path = folder / name
        try:
            if path.is_file():
                return path
        except PermissionError:
            refused = refused or path
        except (OSError, ValueError):  # the name is too long, or has a NUL
            continue
    return refused


def closed_folder(path: str | Path) -> MblipError | None:
    """The error about the first folder on a path, its last one included, that may not be searched; None if all may."""
    for folder in (*reversed(Path(path).parents), Path(path)):
        try:
            os.stat(f"{folder}/.")  # noqa: PTH116  # a Path leaves the dot out
        except PermissionError as error:
            return cannot_read(folder, error, "the folder ")
        except (OSError, ValueError):  # it is a file, or is not there
            return None
    return None


def spellings(key: str) -> Iterator[str]:
    """Possible names of a key's file: accents composed or decomposed, the ending missing or in capitals."""
    # Archives made on a Mac decompose accents (NFD), unlike annotations; some corpora omit ".jpg".
    forms = list(dict.fromkeys([key, unicodedata.normalize("NFC", key), unicodedata.normalize("NFD", key)]))
    yield from forms
    ending = PurePosixPath(key).suffix
    if ending.lower() in EXTENSIONS:
        others = [other for other in (ending.lower(), ending.upper(), _capital(ending)) if other != ending]
        yield from (form.removesuffix(ending) + other for form in forms for other in others)
        return
    for written in (str.lower, str.upper, _capital):
        yield from (form + written(extension) for form in forms for extension in EXTENSIONS)


def _capital(ending: str) -> str:
    return "." + ending[1:].capitalize()


_OF_CHECKPOINTS = (".json", ".jinja", ".model", ".txt", ".safetensors", ".bin")


def check_files(folder: str | Path) -> None:
    """Check that the files of a checkpoint can be opened; transformers ignores some that cannot, and names no remedy.

    A name that is no folder passes.

    Raises:
        MblipError: A file or the folder cannot be opened.
    """
    try:
        files = [path for path in sorted(Path(folder).iterdir()) if path.suffix in _OF_CHECKPOINTS]
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise cannot_read(folder, error) from error
    for path in files:
        check_readable(path)
