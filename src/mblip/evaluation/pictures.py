"""Find the pictures of benchmarks below a root, in the folders or tars that each benchmark names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from mblip.storage import ImageStore, UnreadableImage, image_scheme, open_images


class PictureSources:
    """Several image stores as one, searched in order.

    Attributes:
        places: The paths that they were opened from.
    """

    def __init__(self, places: Sequence[str], as_stored: bool = False, own: ImageStore | None = None) -> None:
        self.places = tuple(places)
        self._stores: list[ImageStore] = [*([own] if own else []), *(open_images(place, as_stored) for place in places)]

    def get(self, key: str) -> Image.Image:
        """The image, upright, in RGB.

        Raises:
            UnreadableImage: It is missing, damaged or refused.
        """
        for store in self._stores:
            if key in store:
                return store.get(key)
        raise UnreadableImage(key, f"none of {', '.join(self.places) or 'no folders'} holds it")

    def __contains__(self, key: str) -> bool:
        return any(key in store for store in self._stores)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The keys that no store has, each once."""
        return [key for key in dict.fromkeys(keys) if key not in self]


def find_pictures(
    names: Sequence[str],
    root: Path | None,
    extra: Sequence[str] = (),
    as_stored: bool = False,
    own: ImageStore | None = None,
) -> PictureSources:
    """The pictures of a benchmark.

    Args:
        names: Its folders (:attr:`Benchmark.images`).
        root: The folder to search below; a tar with a folder's name, such as ``coco/val2014.tar``, is used too. With
            None, only stores of a plug-in's image scheme are found.
        extra: Image stores to search first.
        as_stored: See :func:`~mblip.storage.decode_image`.
        own: A store to search before all others; the named folders are then not searched.

    Raises:
        InputError: An extra store does not exist, or a tar cannot be read.
    """
    found = list(extra)
    for name in names if own is None else ():
        if image_scheme(name):
            found.append(name)
        elif root and (root / name).is_dir():
            found.append(str(root / name))
        elif root and (tar := root / f"{name}.tar").is_file():
            found.append(str(tar))
    return PictureSources(found, as_stored, own)
