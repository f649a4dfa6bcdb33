"""Text that cannot be read or stored: files that are not in UTF-8, with the likely encoding, the place and the remedy."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mblip.errors import InputError, cannot_read

NO_ADDRESSES = (
    "it is an address, and pictures are not fetched here: download it first (mblip data images, or img2dataset)"
)

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/|data:|www\.", re.IGNORECASE)
_BLOCK = 1 << 20
_COMPRESSED = (b"\x1f\x8b", b"PK\x03\x04", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ")
_UTF32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)  # checked before UTF-16, because one begins with its mark
_CP1252_MARKS = bytes([0x80, 0x84, 0x85, 0x91, 0x92, 0x93, 0x94, 0x96, 0x97, 0xA0, 0xA7, 0xAB, 0xB0, 0xBB])
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def is_address(text: str) -> bool:
    """Whether a text is an address (``https:``, ``s3:``, ``data:``) and not a path, such as one with a drive letter."""
    return bool(_ADDRESS.match(text))


def unstorable(text: str) -> str:
    """The character for which UTF-8 or a tokeniser refuses a text, in words; empty for a text that can be stored."""
    if "\0" in text:
        return "a NUL character"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:  # JSON can write it as \ud83d
            return f"half a surrogate pair at character {error.start}"
    return ""


@contextmanager
def reading_text(path: Path) -> Iterator[None]:
    """Turn errors of reading a file as UTF-8 inside the block into clear ones.

    Raises:
        InputError: The file cannot be read, or is not UTF-8.
    """
    check_text(path)
    try:
        yield
    except UnicodeDecodeError as error:
        raise not_utf8(path) from error
    except OSError as error:
        raise cannot_read(path, error) from error


def check_text(path: Path) -> None:
    """Check the first bytes of a file that should be UTF-8; the caller reports an unreadable file.

    UTF-16 without a mark can be valid UTF-8 full of NUL characters, which would cause confusing errors later.

    Raises:
        InputError: The bytes are those of UTF-16, UTF-32 or a compressed file.
    """
    with suppress(OSError):
        if _seems(path):
            raise not_utf8(path)


def not_utf8(path: Path) -> InputError:
    """The error for a file that is not UTF-8: the line of the first wrong byte, the likely encoding, the remedy."""
    decoder, line, where = codecs.getincrementaldecoder("utf-8")(), 1, f"{path} is not UTF-8"
    cut_off = False
    with path.open("rb") as file:
        block = b"."
        while block:
            block = file.read(_BLOCK)
            try:
                line += decoder.decode(block, final=not block).count("\n")
            except UnicodeDecodeError as error:
                line += error.object.count(b"\n", 0, error.start)
                where = f"{path}, line {line}: the byte 0x{error.object[error.start]:02X} is not UTF-8"
                cut_off = error.reason == "unexpected end of data"
                break
    kind = _seems(path)
    if kind == "compressed":
        return InputError(f"{where}; the file is compressed: unpack it")
    if kind:
        return InputError(f"{where}; the file is in {kind}: save the file as UTF-8")
    if not cut_off and _is_cp1252(path):
        return InputError(
            f"{where}; save the file as UTF-8 (it seems to be in Windows-1252, called cp1252 too: in Excel choose 'CSV "
            f"UTF-8', or run iconv -f CP1252 -t UTF-8)"
        )
    return InputError(f"{where}; save the file as UTF-8, or unpack it if it is compressed")


def _is_cp1252(path: Path) -> bool:
    """Whether a file that is not UTF-8 seems to be Windows-1252: its accented letters are among other letters."""
    with path.open("rb") as file:
        head = file.read(_BLOCK)
    high = [byte for byte in head if byte >= 0x80]
    letters = sum(chr(byte).isalpha() or byte in _CP1252_MARKS for byte in high)
    control = sum(byte < 0x20 and byte not in b"\t\r\n\f" for byte in head)
    return bool(high) and letters >= 0.9 * len(high) and not control and len(high) < 0.3 * len(head)


def _seems(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(_COMPRESSED):
        return "compressed"
    if head.startswith(_UTF32) or (len(head) == 8 and [head[:4].count(0), head[4:].count(0)] == [3, 3]):
        return "UTF-32"
    # JSON, YAML and tables begin with ASCII characters, so in UTF-16 every other byte is zero.
    if head.startswith(_UTF16) or head[:2].count(0) == 1 == head[2:4].count(0):
        return "UTF-16"
    return ""
