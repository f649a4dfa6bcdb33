"""Pictures from wherever they come to upright RGB."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mblip.storage import UnreadableImage, decode_image

Picture = str | PathLike[str] | bytes | Image.Image | NDArray[Any]


def open_picture(picture: Picture) -> Image.Image:
    """A path, the bytes of a file, a PIL image or an array [H, W], [H, W, 3 or 4] (0..255) as upright RGB.

    Raises:
        UnreadableImage: Missing, damaged, or an array of another shape.
    """
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    if isinstance(picture, np.ndarray):
        if picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] not in (1, 3, 4)):
            raise UnreadableImage("array", f"its shape {picture.shape} is not [height, width, channels]")
        squeezed = picture[..., 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture
        return Image.fromarray(squeezed.astype(np.uint8)).convert("RGB")
    if isinstance(picture, bytes):
        return decode_image(picture, "bytes")
    path = Path(picture)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableImage(str(picture), error.strerror or str(error)) from error
    return decode_image(data, str(picture))
