"""Pictures that people upload to the demo page: in a private folder, for this run, under names that say nothing of it."""

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

_SHOWN = "uploads"  # what clients see instead of the folder
_SECONDS = 3600  # that an upload is kept at most
_KEPT = 64  # uploads of the largest size that fit


class Uploads:
    """The files that clients may name: what was uploaded in this run and the page's own examples, nothing else.

    A client's name for a file is looked up, never joined to a path: no spelling of it can lead elsewhere.

    Args:
        folder: For the files; readable by this user alone.
        max_bytes: Of a file; the folder holds at most 64 times as much, and the oldest files go first. However small
            they are, it holds at most 4,096.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        shown = str(folder)
        as_json = [json.dumps(shown, ensure_ascii=ascii_)[1:-1] for ascii_ in (True, False)]
        self._spellings = {os.fsencode(one) for one in (shown, *as_json, html.escape(shown), quote(shown))}
        self._own: dict[str, Path] = {}
        self._sent: dict[str, tuple[Path, int, float]] = {}  # the oldest is first
        self._held = 0

    def keep_own(self) -> None:
        """Let clients name every file that now lies in the folder: the page's examples."""
        self._own = {self._name(path): path for path in self.folder.rglob("*") if path.is_file()}

    def add(self, name: str, data: bytes) -> str:
        """Keep a file; gives the client's name for it, of which only the end comes from the client.

        Raises:
            OSError: The disk is full.
        """
        # Files of a few bytes would otherwise fill a file system with their number.
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

    def open(self, name: object) -> tuple[Path, BinaryIO] | None:
        """The file that a client names, with its bytes; None if there is none, or it was put out."""
        path = self.find(name)
        try:
            # What lies there now is what was put there: no link that somebody made since is followed.
            return (path, open(path, "rb", opener=_without_links)) if path else None
        except OSError:
            return None

    def hide(self, text: bytes) -> bytes:
        """An answer without the folder's path, as it is or as JSON, HTML or an address spells it."""
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
