"""Open pictures from any source as upright RGB."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mblip.errors import quoted, refusal
from mblip.storage import UnreadableImage, convert_image, decode_image, to_rgb
from mblip.storage.folders import find_file
from mblip.storage.text import NO_ADDRESSES, is_address

Picture = str | PathLike[str] | bytes | Image.Image | NDArray[Any]


def open_picture(picture: Picture) -> Image.Image:
    """Open a path, the bytes of a file, a PIL image or an array [H, W], [H, W, 3 or 4] (0..255) as upright RGB.

    Raises:
        UnreadableImage: The picture is missing, damaged, an array of another shape or range, or no picture at all.
    """
    if isinstance(picture, Image.Image):
        return _from_pillow(picture)
    if isinstance(picture, np.ndarray):
        if picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] not in (1, 3, 4)) or not picture.size:
            raise UnreadableImage("array", f"its shape {picture.shape} is not [height, width, channels]")
        if picture.dtype.kind not in "iub" or not 0 <= picture.min() <= picture.max() <= 255:
            remedy = (
                "; convert values from 0 to 1 by (255 * array).astype('uint8')" if picture.dtype.kind == "f" else ""
            )
            reason = f"its values ({picture.dtype}) are not integers from 0 to 255{remedy}"
            raise UnreadableImage("array", reason)
        squeezed = picture[..., 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture
        if squeezed.dtype == np.bool_:  # black and white
            squeezed = squeezed * np.uint8(255)
        return to_rgb(Image.fromarray(squeezed.astype(np.uint8)))
    if isinstance(picture, bytes):
        return decode_image(picture, "bytes")
    if not isinstance(picture, str | PathLike):
        raise UnreadableImage(type(picture).__name__, "it is not a path, bytes, PIL image or array")
    return decode_image(_read(str(picture)), str(picture))


def _from_pillow(picture: Image.Image) -> Image.Image:
    file = getattr(picture, "filename", "")
    name = file if isinstance(file, str) and file else "PIL image"
    if not picture.width * picture.height:
        raise UnreadableImage(name, f"it has no pixels: its size is {picture.width}x{picture.height}")
    try:
        return convert_image(picture, name)
    except UnreadableImage:
        # Pillow may fail on broken metadata of a file that is otherwise readable.
        if not Path(name).is_file():
            raise
        return decode_image(_read(name), name)


def _read(name: str) -> bytes:
    path: Path | None = Path(name)
    if not name:
        raise UnreadableImage(name, "its name is empty")
    try:
        if not (path and path.exists()):
            path = find_file(Path(), name)
        if path is None:
            raise UnreadableImage(name, _missing(name))
        if not path.is_file():  # reading a pipe could block forever
            raise UnreadableImage(name, "it is a folder" if path.is_dir() else "it is not a file")
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImage(name, refusal(error)) from error
    except ValueError as error:  # a NUL in the path
        raise UnreadableImage(name, str(error)) from error


def _missing(name: str) -> str:
    if is_address(name):
        return NO_ADDRESSES
    if "\\" in name:
        return f"there is no such file; the path has backslashes: write {quoted(name.replace(chr(92), '/'))}"
    return "No such file or directory"
