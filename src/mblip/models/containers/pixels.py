"""Read a checkpoint's image processor, with PIL and numpy only, and find the size of the images it makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# Version 5.17 of the package itself offers this class only where torchvision is installed.
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from mblip.errors import InputError
from mblip.models.checkpoint import read_json
from mblip.models.containers.towers import side_of
from mblip.storage.folders import check_files

_FILES = ("preprocessor_config.json", "processor_config.json")
# Sizes of a wide and a tall picture: a processor that keeps the aspect ratio makes two sizes of them.
_TRIALS = ((96, 64), (64, 96))


def read_image_processor(folder: Path, tower: Any) -> Any:
    """The image processor in a folder, or one that suits the tower if the folder has none.

    A processor that cuts pictures into tiles, such as LLaVA-NeXT's, is replaced by one with the same colour statistics
    that makes one image of the tower's size: the stock class reads one image per picture.

    Args:
        folder: The checkpoint's folder.
        tower: Configuration of the vision model.

    Raises:
        InputError: The processor cannot be read.
    """
    side = {"height": side_of(tower), "width": side_of(tower)}
    if not any((folder / name).is_file() for name in _FILES):
        if "clip" in tower.model_type and "siglip" not in tower.model_type:
            return CLIPImageProcessorPil(size={"shortest_edge": side["height"]}, crop_size=side)
        if "siglip" in tower.model_type:
            return SiglipImageProcessorPil(size=side)
        raise InputError(
            f"{folder} has no image processor ({_FILES[0]}), and a {tower.model_type} vision model does not say which "
            "colours it takes: copy the checkpoint again"
        )
    found = [name for name in _FILES if (folder / name).is_file()]
    said = {name: read_json(folder / name) for name in found}  # a damaged one is told here, by its name
    if found == [_FILES[1]] and "image_processor" not in said[_FILES[1]]:
        raise InputError(
            f"{folder / _FILES[1]} has no image_processor, and there is no {_FILES[0]}: copy the checkpoint again"
        )
    check_files(folder)
    try:
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
        with np.errstate(all="ignore"):
            made = pixels(processor, _TRIALS[0])
        is_finite = bool(np.isfinite(made).all())
    except (ValueError, OSError, TypeError, AttributeError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{folder} has no image processor that transformers can read: {reason}") from error
    if not is_finite:
        raise InputError(
            f"{folder}: the image processor makes values that are not finite for a picture; set its image_mean and "
            "image_std"
        )
    if made.ndim == 4:
        return processor
    colours = {name: getattr(processor, name) for name in ("image_mean", "image_std", "resample")}
    return SiglipImageProcessorPil(size=side, **colours)


def pixels(processor: Any, size: tuple[int, int]) -> Any:
    """The output of a processor for a black picture of this width and height."""
    return processor(Image.new("RGB", size), return_tensors="np")["pixel_values"]


def made_side(processor: Any) -> int:
    """Height and width of the images that a processor makes.

    Raises:
        InputError: They are not square, or not of one size.
    """
    shapes = {pixels(processor, size).shape[-2:] for size in _TRIALS}
    sides = {side for shape in shapes for side in shape}
    if len(sides) != 1:
        raise InputError(
            f"the image processor makes images of {' and '.join(f'{w} x {h}' for h, w in sorted(shapes))} pixels "
            "from a wide and a tall picture; set do_center_crop, or a size with one height and width"
        )
    return int(sides.pop())
