"""The image scheme ``nano:``: ``nano:scenes`` has the picture of any scene key, drawn on demand."""

from __future__ import annotations

from PIL import Image

from mblip.errors import InputError, quoted
from mblip.nano.scenes import Scene, render
from mblip.storage import ImageStore, UnreadableImage


class SceneStore:
    """The store of emoji scenes, whose content is given by their keys."""

    def get(self, key: str, at_least: int = 0) -> Image.Image:
        """See :class:`~mblip.storage.ImageStore`."""
        try:
            return render(Scene.from_key(key))
        except ValueError as error:
            raise UnreadableImage(key, str(error)) from error

    def __contains__(self, key: str) -> bool:
        try:
            Scene.from_key(key)
        except ValueError:
            return False
        return True


def open_scenes(name: str, as_stored: bool = False) -> ImageStore:
    """The store of a name after ``nano:``.

    Raises:
        InputError: There is no such store.
    """
    if name != "scenes":
        raise InputError(f"{quoted(f'nano:{name}')} is not an image store: name nano:scenes")
    return SceneStore()
