"""Names that may be written below a folder, and addresses as they may be shown."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_DRIVE = re.compile(r"^[A-Za-z]:")
_LONGEST = 255  # bytes of one part of a path on the usual file systems


def unsafe(path: str) -> str:
    """Why a relative path must not be written below a folder; empty where it may."""
    if "\0" in path:
        return "holds a NUL character"
    if "\\" in path:
        return "holds a backslash"
    if path.startswith("/") or _DRIVE.match(path):
        return "is absolute"
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in path):
        return "holds a control character"
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts:
        return "names nothing"
    if ".." in parts:
        return "leaves its folder by '..'"
    if any(len(part.encode("utf-8", "surrogateescape")) > _LONGEST for part in parts):
        return f"has a part longer than {_LONGEST} bytes"
    return ""


def shown(url: str) -> str:
    """An address without what may be secret: name, password and the values of a query (signed links have keys there)."""
    try:
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an address that cannot be read"
    return f"{parts.scheme}://{host}{port}{parts.path}{'?...' if parts.query else ''}"
