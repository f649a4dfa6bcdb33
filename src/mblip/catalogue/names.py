"""Check names that are written below a folder, and remove secrets from addresses."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_DRIVE = re.compile(r"^[A-Za-z]:")
_LONGEST = 255  # bytes of one part of a path on the usual file systems


def unsafe(path: str) -> str:
    """Why a relative path must not be written below a folder; empty if it may."""
    if "\0" in path:
        return "contains a NUL character"
    if "\\" in path:
        return "contains a backslash"
    if path.startswith("/") or _DRIVE.match(path):
        return "is absolute"
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in path):
        return "contains a control character"
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts:
        return "names nothing"
    if ".." in parts:
        return "leaves its folder by '..'"
    if any(len(part.encode("utf-8", "surrogateescape")) > _LONGEST for part in parts):
        return f"has a part longer than {_LONGEST} bytes"
    return ""


def shown(url: str) -> str:
    """An address without possible secrets: user name, password and query values (which have keys in signed links)."""
    try:
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an address that cannot be read"
    return f"{parts.scheme}://{host}{port}{parts.path}{'?...' if parts.query else ''}"
