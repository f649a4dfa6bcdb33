"""Text files that are not in UTF-8: what they seem to be, where it shows, and the remedy."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mblip.errors import InputError, of_system

NO_ADDRESSES = (
    "it is an address, and pictures are not fetched here: download it first (mblip data images, or img2dataset)"
)

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/|data:|www\.", re.IGNORECASE)
_BLOCK = 1 << 20
_COMPRESSED = (b"\x1f\x8b", b"PK\x03\x04", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ")
_UTF32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)  # before UTF-16, whose mark one of them begins with
_CP1252_MARKS = bytes([0x80, 0x84, 0x85, 0x91, 0x92, 0x93, 0x94, 0x96, 0x97, 0xA0, 0xA7, 0xAB, 0xB0, 0xBB])
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def is_address(text: str) -> bool:
    """Whether a text is an address (``https:``, ``s3:``, ``data:``) and no path; a drive of one letter is none."""
    return bool(_ADDRESS.match(text))


@contextmanager
def reading_text(path: Path) -> Iterator[None]:
    """Within it a file is read as UTF-8.

    Raises:
        InputError: It cannot be read, or is not UTF-8.
    """
    check_text(path)
    try:
        yield
    except UnicodeDecodeError as error:
        raise not_utf8(path) from error
    except OSError as error:
        raise of_system(error, f"cannot read {path}: {error.strerror}") from error


def check_text(path: Path) -> None:
    """Look at the first bytes of a file that is to be read as UTF-8; one that cannot be read is the caller's to tell.

    UTF-16 without a mark can be valid UTF-8 full of NUL characters, which would otherwise be noticed late and oddly.

    Raises:
        InputError: They are those of UTF-16, UTF-32 or a compressed file.
    """
    with suppress(OSError):
        if _seems(path):
            raise not_utf8(path)


def not_utf8(path: Path) -> InputError:
    """What to say of a file that is not UTF-8: the line of the first byte that shows it, what it is, the remedy."""
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
            f"{where}; save the file as UTF-8 (it seems to be in Windows-1252, called cp1252 too: in Excel choose 'CSV UTF-8', "
            f"or run iconv -f CP1252 -t UTF-8)"
        )
    return InputError(f"{where}; save the file as UTF-8, or unpack it if it is compressed")


def _is_cp1252(path: Path) -> bool:
    """Whether a file that is not UTF-8 reads as Windows-1252, its accented letters among others, as in western Europe."""
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
    # JSON, YAML and tables begin with a character of ASCII, which is every other byte zero in UTF-16.
    if head.startswith(_UTF16) or head[:2].count(0) == 1 == head[2:4].count(0):
        return "UTF-16"
    return ""
