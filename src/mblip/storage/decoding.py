"""Decode image files of any format to upright RGB, the same way for everything that reads pictures."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from functools import cache

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from mblip.errors import InputError, quoted, shorten
from mblip.storage.metadata import without_metadata

MAX_PIXELS = 89_478_485  # Pillow's threshold for decompression bombs: 256 MiB of RGB
# Pillow knows more formats, but some run other programs (EPS: Ghostscript), and photos do not use them. Formats are
# tried in this order; the first one that Pillow has not loaded makes it import all of its plug-ins.
_ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "HEIF": (".heic", ".heif", ".hif", ".heics", ".heifs"),  # with the extra "heic"
    "DIB": (".dib",),
    "ICO": (".ico",),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "QOI": (".qoi",),
    "TGA": (".tga",),
}
FORMATS = tuple(_ENDINGS)
"""Pillow's names of the supported formats."""
EXTENSIONS = tuple(ending for endings in _ENDINGS.values() for ending in endings)
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class UnreadableImage(InputError):
    """An image that is missing, damaged or refused, with its ``key`` and the ``reason``."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"image {quoted(key)} cannot be used: {reason}")
        self.key = key
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnreadableImage], tuple[str, str]]:
        return type(self), (self.key, self.reason)


def decode_image(data: bytes, key: str, at_least: int = 0, as_stored: bool = False) -> Image.Image:
    """Decode an image file to RGB, upright by its EXIF orientation; for an animation, the first frame.

    Args:
        data: The file's bytes, in any of :data:`FORMATS`, independent of the file's name.
        key: Name for errors.
        at_least: If not 0, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as both sides keep this many
            pixels, which is several times faster for large photos.
        as_stored: Only apply Pillow's ``convert("RGB")``, as the original mBLIP does: no rotation, transparency
            dropped, greys of more than 8 bits clipped, and ``at_least`` without effect.

    Raises:
        UnreadableImage: The file is not an image, is cut off, larger than :data:`MAX_PIXELS`, or needs a decoder that
            is not installed.
    """
    if not data:
        raise UnreadableImage(key, "the file is empty")
    if lacking := _lacks_decoder(data):
        raise UnreadableImage(key, lacking)
    try:
        return _decode(data, key, at_least, as_stored)
    except DECODE_ERRORS as error:
        # Text, colour profile or thumbnail may be broken although the pixels are intact. EXIF, which has the
        # orientation, is dropped last.
        for bare in (without_metadata(data, keep_exif=True), without_metadata(data, keep_exif=False)):
            if bare is not None:
                with suppress(*DECODE_ERRORS):
                    return _decode(bare, key, at_least, as_stored)
        raise UnreadableImage(key, _why(error)) from error


def upright(image: Image.Image) -> Image.Image:
    """A picture rotated by its EXIF orientation; unchanged if that cannot be read."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except DECODE_ERRORS:
        orientation = 1
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def convert_image(image: Image.Image, key: str) -> Image.Image:
    """Convert an image that Pillow has opened, but perhaps not read yet, to upright RGB.

    Raises:
        UnreadableImage: Its pixels are damaged.
    """
    try:
        image.load()
        return to_rgb(upright(image))
    except DECODE_ERRORS as error:
        raise UnreadableImage(key, _why(error)) from error


def _decode(data: bytes, key: str, at_least: int, as_stored: bool) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=_formats()) as image:
        if image.width * image.height > MAX_PIXELS:
            raise UnreadableImage(key, f"{image.width}x{image.height} pixels are more than {MAX_PIXELS:,}")
        if as_stored:
            return image.convert("RGB")
        if at_least:
            image.draft("RGB", (at_least, at_least))
        image.load()
        return to_rgb(upright(image))


def _why(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not a readable image (unknown format)"
    return f"not a readable image ({shorten(' '.join(str(error).split())) or 'damaged'})"


def _lacks_decoder(data: bytes) -> str:
    """The package to install for a phone's picture without a decoder; empty if there is a decoder."""
    if data[4:8] != b"ftyp":
        return ""
    brands = data[8 : 8 + 4 * 16]
    if b"avi" in brands:
        return "" if features.check("avif") else "it is AVIF, which this Pillow does not read: pip install -U pillow"
    if any(brand in brands for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")):
        return "" if _registers_heif() else "it is HEIC/HEIF, which needs an extra: pip install 'mblip[heic]'"
    return "it is a video (MP4 or MOV), not a picture"


@cache
def _registers_heif() -> bool:
    """Register the decoder of HEIC/HEIF with Pillow, if it is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _formats() -> tuple[str, ...]:
    return FORMATS if _registers_heif() else tuple(name for name in FORMATS if name != "HEIF")


_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture of any mode to RGB; transparent areas become white.

    Greys of more than 8 bits, which Pillow would clip to white or black, are scaled down: values above 255 are read as
    16 bits, and fractions as shares of white.
    """
    if image.mode[0] in "IF":
        grey = np.nan_to_num(np.asarray(image).astype(np.float64))
        if image.mode.startswith("I;16") or grey.max(initial=0) > 255:
            grey = grey // 256
        elif image.mode == "F" and grey.max(initial=0) <= 1:
            grey = grey * 255
        image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered)
    return image.convert("RGB")
