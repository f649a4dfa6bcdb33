"""Remove metadata from image files: it may be broken although the pixels are intact."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_EXIF = b"Exif\0\0"


def without_metadata(data: bytes, keep_exif: bool) -> bytes | None:
    """The file without metadata; None if it is not PNG, JPEG or WebP, whose metadata are in separate chunks.

    Args:
        data: The file's bytes.
        keep_exif: Keep the EXIF chunk, which has the orientation.
    """
    if data.startswith(_PNG):
        return _PNG + b"".join(_png_chunks(data, keep_exif))
    if data.startswith(_JPEG):
        return _JPEG + b"".join(_jpeg_segments(data, keep_exif))
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        body = b"WEBP" + b"".join(_webp_chunks(data, keep_exif))
        return b"RIFF" + struct.pack("<I", len(body)) + body
    return None


def _png_chunks(data: bytes, keep_exif: bool) -> Iterator[bytes]:
    place = len(_PNG)
    while place < len(data):
        length, kind = int.from_bytes(data[place : place + 4]), data[place + 4 : place + 8]
        after = place + 12 + length
        # The names of critical chunks begin with a capital letter.
        if kind[:1].isupper() or kind == b"tRNS" or (keep_exif and kind == b"eXIf"):
            yield data[place:after]
        place = after


def _jpeg_segments(data: bytes, keep_exif: bool) -> Iterator[bytes]:
    place = len(_JPEG)
    while data[place : place + 1] == b"\xff":
        marker = data[place + 1] if place + 1 < len(data) else 0xDA
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if marker == 0xDA:  # the pixels begin
            break
        after = place + 2 + int.from_bytes(data[place + 2 : place + 4])
        described = 0xE0 <= marker <= 0xEF or marker == 0xFE
        exif = marker == 0xE1 and data.startswith(_EXIF, place + 4)
        # Adobe's segment (0xEE) defines the coding of colours.
        if not described or marker == 0xEE or (exif and keep_exif):
            yield data[place:after]
        place = after
    yield data[place:]


def _webp_chunks(data: bytes, keep_exif: bool) -> Iterator[bytes]:
    place, dropped = 12, {b"ICCP": 0x20, b"XMP ": 0x04} | ({} if keep_exif else {b"EXIF": 0x08})
    while place < len(data):
        kind, length = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        after = place + 8 + length + length % 2
        chunk = data[place:after]
        if kind == b"VP8X" and len(chunk) > 8:  # its flags announce the chunks that follow
            chunk = chunk[:8] + bytes([chunk[8] & ~sum(dropped.values())]) + chunk[9:]
        if kind not in dropped:
            yield chunk
        place = after
