"""Uploads to the demo page, kept in a private folder for this run, under names that do not reveal it."""

from __future__ import annotations

import html
import json
import os
import re
import secrets
import time
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

_SHOWN = "uploads"  # clients see this instead of the folder
_SECONDS = 3600  # lifetime of an upload
_KEPT = 64  # number of uploads of the largest size that fit


class Uploads:
    """The files that clients may name: uploads of this run and the page's own examples.

    A client's name for a file is looked up and never joined to a path, so no spelling can lead elsewhere.

    Args:
        folder: Folder for the files, readable only by this user.
        max_bytes: Largest size of a file. The folder holds at most 64 times as much, and at most 4,096 files; the
            oldest files are removed first.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        shown = str(folder)
        as_json = [json.dumps(shown, ensure_ascii=ascii_)[1:-1] for ascii_ in (True, False)]
        self._spellings = {os.fsencode(one) for one in (shown, *as_json, html.escape(shown), quote(shown))}
        self._own: dict[str, Path] = {}
        self._sent: dict[str, tuple[Path, int, float]] = {}  # oldest first
        self._held = 0

    def keep_own(self) -> None:
        """Let clients name every file that is in the folder now, which are the page's examples."""
        self._own = {self._name(path): path for path in self.folder.rglob("*") if path.is_file()}

    def add(self, name: str, data: bytes) -> str:
        """Store a file; returns its name for the client, of which only the ending comes from the client.

        Raises:
            OSError: The disk is full.
        """
        # Small files count as larger ones, to limit their number.
        counted = max(len(data), self.max_bytes // _KEPT)
        self._make_room(counted)
        end = re.sub(r"[^\w.-]+", "_", re.split(r"[/\\]", name)[-1], flags=re.ASCII).lstrip(".")[-60:] or "picture"
        path = self.folder / secrets.token_hex(16) / end
        path.parent.mkdir(mode=0o700)
        try:
            path.write_bytes(data)
        except OSError:
            _remove(path)
            raise
        self._held += counted
        self._sent[self._name(path)] = path, counted, time.monotonic()
        return self._name(path)

    def find(self, name: object) -> Path | None:
        """The file that a client names; None if there is none."""
        if not isinstance(name, str):
            return None
        sent = self._sent.get(name)
        return sent[0] if sent else self._own.get(name)

    def open(self, name: object) -> BinaryIO | None:
        """Open the file that a client names; None if there is none, or it was removed."""
        path = self.find(name)
        try:
            # Links are not followed, in case someone has replaced the file by one.
            return open(path, "rb", opener=_without_links) if path else None
        except OSError:
            return None

    def hide(self, text: bytes) -> bytes:
        """Remove the folder's path from an answer, plain or escaped as in JSON, HTML or an address."""
        for spelling in self._spellings:
            text = text.replace(spelling, _SHOWN.encode())
        return text

    def _name(self, path: Path) -> str:
        return f"{_SHOWN}/{path.relative_to(self.folder).as_posix()}"

    def _make_room(self, size: int) -> None:
        now = time.monotonic()
        while self._sent:
            name, (path, bytes_, since) = next(iter(self._sent.items()))
            if self._held + size <= _KEPT * self.max_bytes and now - since < _SECONDS:
                break
            _remove(path)
            del self._sent[name]
            self._held -= bytes_


def _without_links(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0))


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.parent.rmdir()
