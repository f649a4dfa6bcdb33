"""Pictures written as base64 in a text: bare, or in a data URL."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote

NOT_READ = "it is a picture in base64, which is not read here: save it as a file, and name its path"

_URL = re.compile(r"data:[^,]{0,200};\s*base64\s*,", re.IGNORECASE)
# First characters of JPEG (in both alphabets), PNG, GIF, WebP, BMP and TIFF in base64.
_BEGINNINGS = ("/9j/", "_9j_", "iVBOR", "R0lGOD", "UklGR", "Qk", "SUkq", "TU0A")
_LEAST = 64  # characters; shorter texts are names
_LONGEST = 300  # characters; a file's name is shorter and has a dot, which base64 and a list of such texts do not have
_STANDARD = str.maketrans("-_", "+/")


def is_encoded(text: str) -> bool:
    """Whether a text is a picture in base64, and not its name."""
    if _URL.match(text):
        return True
    bare = text.lstrip()
    return len(bare) > _LEAST and bare.startswith(_BEGINNINGS) and "." not in bare[:_LONGEST]


def decode_picture(text: str) -> bytes:
    """The bytes in base64, bare or in a data URL, whose declared type is ignored.

    Line breaks, blanks, the URL-safe alphabet, percent-encoding and missing or additional padding are accepted.

    Raises:
        ValueError: The text is neither; it says why.
    """
    data = text
    if text[:5].lower() == "data:":
        data = text.partition(",")[2]
        if not _URL.match(text):
            raise ValueError("a data URL must read data:image/TYPE;base64,...")
    if "%" in data:
        data = unquote(data)
    data = "".join(data.split()).translate(_STANDARD).rstrip("=")
    try:
        return base64.b64decode(data + "=" * (-len(data) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"not valid base64 ({error})") from error
