"""Image stores: a folder, WebDataset tars, or the nano scenes, all asked by key.

An unreadable image is an error that carries its key and the reason. It never becomes a blank picture.
"""

from __future__ import annotations

import glob
import hashlib
import io
import os
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mblip.errors import InputError
from mblip.storage.files import atomic_write

MAX_PIXELS = 89_478_485  # Pillow's own threshold of a decompression bomb: 256 MiB of RGB
# Pillow knows more formats, but some of these run other programs (EPS: Ghostscript), and no photo comes in them. They are
# tried in this order, and the first that Pillow does not know from the start makes it import all it has.
_ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
    "DIB": (".dib",),
    "ICO": (".ico",),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "QOI": (".qoi",),
    "TGA": (".tga",),
}
FORMATS = tuple(_ENDINGS)
EXTENSIONS = tuple(ending for endings in _ENDINGS.values() for ending in endings)
_DECODE_ERRORS = (
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
    """An image that is missing, damaged or refused; ``key`` says which and ``reason`` why."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"image {key!r} cannot be used: {reason}")
        self.key = key
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnreadableImage], tuple[str, str]]:
        return type(self), (self.key, self.reason)


class ImageStore(Protocol):
    """Images by key."""

    def get(self, key: str, at_least: int = 0) -> Image.Image:
        """The image, upright, in RGB; for ``at_least`` see :func:`decode_image`.

        Raises:
            UnreadableImage: It is missing, damaged or refused.
        """
        ...

    def __contains__(self, key: str) -> bool:
        """Whether the store holds this key (the image may still prove damaged)."""
        ...


class FolderStore:
    """The files below a folder; keys are relative paths, with or without the extension.

    Raises:
        InputError: There is no such folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise InputError(f"{self.folder} is not a folder of images")

    def get(self, key: str, at_least: int = 0) -> Image.Image:
        """See :class:`ImageStore`."""
        path = self._find(key)
        if path is None:
            raise UnreadableImage(key, f"{self.folder} holds no such file")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UnreadableImage(key, f"{path}: {error.strerror}") from error
        return decode_image(data, key, at_least)

    def __contains__(self, key: str) -> bool:
        try:
            return self._find(key) is not None
        except UnreadableImage:
            return False

    def _find(self, key: str) -> Path | None:
        if PurePosixPath(key).is_absolute() or ".." in PurePosixPath(key).parts or "\0" in key or "\\" in key:
            raise UnreadableImage(key, "the key leads out of the folder")
        for name in _spellings(key):
            path = self.folder / name
            with suppress(OSError):  # a name too long for the file system
                if path.is_file():
                    return path
        return None


class TarStore:
    """The images inside one or more WebDataset tars; keys are member names, with or without the extension.

    Nothing is ever extracted, so that member names and links cannot lead anywhere. The index (24 bytes an image) is
    built once and kept beside each tar as ``NAME.tar.index.npz`` where that folder can be written.

    Raises:
        InputError: A tar that is missing, compressed or damaged, or a name that occurs twice.
    """

    def __init__(self, paths: list[str | Path]) -> None:
        self.paths = [Path(path) for path in paths]
        parts = []
        for number, path in enumerate(self.paths):
            part = _tar_index(path)
            part["tar"] = number
            parts.append(part)
        index = np.concatenate(parts)
        self._index = index[np.argsort(index["name"], kind="stable")]
        twice = np.flatnonzero(self._index["name"][1:] == self._index["name"][:-1])
        if len(twice):
            first, second = (self.paths[self._index[twice[0] + step]["tar"]] for step in (0, 1))
            raise InputError(f"{first} and {second} hold an image of the same name; keys must be unique over all tars")

    def __len__(self) -> int:
        return len(self._index)

    def get(self, key: str, at_least: int = 0) -> Image.Image:
        """See :class:`ImageStore`."""
        row = self._find(key)
        if row is None:
            raise UnreadableImage(key, f"none of {len(self.paths)} tars holds it, the first being {self.paths[0]}")
        path = self.paths[row["tar"]]
        try:
            # Opened anew each time: safe for threads and forked workers, and cheap beside decoding.
            with path.open("rb") as file:
                file.seek(int(row["offset"]))
                data = file.read(int(row["size"]))
        except OSError as error:
            raise UnreadableImage(key, f"{path}: {error.strerror}") from error
        if len(data) < row["size"]:
            raise UnreadableImage(key, f"{path} is cut off")
        return decode_image(data, key, at_least)

    def __contains__(self, key: str) -> bool:
        return self._find(key) is not None

    def _find(self, key: str) -> Any:
        for name in _spellings(key):
            wanted = _name_hash(name)
            row = int(np.searchsorted(self._index["name"], wanted))
            if row < len(self._index) and self._index["name"][row] == wanted:
                return self._index[row]
        return None


class _SceneStore:
    """The emoji scenes, drawn when asked for; the key alone says what is in them."""

    def get(self, key: str, at_least: int = 0) -> Image.Image:
        from mblip.nano.scenes import SceneStore

        try:
            return SceneStore().get(key)
        except ValueError as error:
            raise UnreadableImage(key, str(error)) from error

    def __contains__(self, key: str) -> bool:
        from mblip.nano.scenes import Scene

        try:
            Scene.from_key(key)
        except ValueError:
            return False
        return True


def open_images(uri: str | Path) -> ImageStore:
    """Open an image store.

    Args:
        uri: A folder; a ``.tar``, or several by glob (``data/*.tar``) or range (``data/{000..099}.tar``), or the folder
            that holds them and nothing but tables beside; or ``nano:scenes``, the emoji scenes that the package
            composes by itself.

    Raises:
        InputError: There is no such store.
    """
    text = str(uri)
    if text == "nano:scenes":
        return _SceneStore()
    if text.endswith(".tar"):
        # Path.glob wants a relative pattern.
        paths = [path for pattern in _expand_ranges(text) for path in sorted(glob.glob(pattern)) or [pattern]]  # noqa: PTH207
        return TarStore([Path(path) for path in paths])
    if text and Path(text).is_dir():
        return TarStore(sorted(Path(text).glob("*.tar"))) if _holds_tars(text) else FolderStore(text)
    raise InputError(f"{text!r} is no image store: name a folder, a .tar or a pattern of them, or nano:scenes")


# What lies beside tars: the tables of those who fetched them, and this module's index.
_TABLES = (".json", ".jsonl", ".parquet", ".csv", ".npz")


def _holds_tars(folder: str) -> bool:
    found = False
    with os.scandir(folder) as entries:
        for entry in entries:  # the first picture ends the search
            suffix = os.path.splitext(entry.name)[1]  # noqa: PTH122
            if suffix == ".tar":
                found = True
            elif suffix not in _TABLES and not entry.name.startswith("."):
                return False
    return found


def decode_image(data: bytes, key: str, at_least: int = 0) -> Image.Image:
    """Decode an image file to RGB, turned upright by its EXIF orientation; of an animation, the first frame.

    Args:
        data: The file's bytes, in any of :data:`FORMATS`, whatever the name says.
        key: What errors call it.
        at_least: If not 0, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as both sides keep this many
            pixels; several times faster for large photos.

    Raises:
        UnreadableImage: Not an image, cut off, or larger than :data:`MAX_PIXELS`.
    """
    if not data:
        raise UnreadableImage(key, "the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(key, f"{image.width}x{image.height} pixels are more than {MAX_PIXELS:,}")
            if at_least:
                image.draft("RGB", (at_least, at_least))
            upright: Image.Image = ImageOps.exif_transpose(image)
            return to_rgb(upright)
    except UnidentifiedImageError as error:
        raise UnreadableImage(key, "not a readable image (in no format that is known here)") from error
    except _DECODE_ERRORS as error:
        raise UnreadableImage(key, f"not a readable image ({' '.join(str(error).split()) or 'damaged'})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode in RGB; where it is transparent, white shows through, as on a page.

    Greys of more than 8 bits, which Pillow would clip to white or black, are scaled down: those above 255 are read as
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


def _spellings(key: str) -> Iterator[str]:
    # Archives made on a Mac spell accents apart (NFD) where the annotations do not; some corpora omit ".jpg".
    forms = list(dict.fromkeys([key, unicodedata.normalize("NFC", key), unicodedata.normalize("NFD", key)]))
    yield from forms
    if PurePosixPath(key).suffix.lower() not in EXTENSIONS:
        yield from (form + extension for form in forms for extension in EXTENSIONS)


_INDEX_TYPE = np.dtype([("name", "<u8"), ("offset", "<i8"), ("size", "<u4"), ("tar", "<u4")])


def _name_hash(name: str) -> int:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _tar_index(path: Path) -> np.ndarray[Any, Any]:
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"cannot read the tar {path}: {error.strerror}") from error
    stamp = np.array([status.st_size, status.st_mtime_ns], np.int64)
    saved = path.with_name(path.name + ".index.npz")
    with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile), np.load(saved) as file:
        if np.array_equal(file["stamp"], stamp) and file["index"].dtype == _INDEX_TYPE:
            return np.array(file["index"])
    try:
        with tarfile.open(path, "r:") as tar:
            rows = [
                (_name_hash(member.name.removeprefix("./")), member.offset_data, member.size, 0)
                for member in tar
                if member.isreg() and not member.issparse() and member.name.lower().endswith(EXTENSIONS)
            ]
    except (tarfile.TarError, OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable, uncompressed tar: {error}") from error
    index = np.array(rows, _INDEX_TYPE)
    with suppress(InputError), atomic_write(saved) as file:  # a read-only folder costs a rebuild next time
        np.savez(file, stamp=stamp, index=index)
    return index


def _expand_ranges(pattern: str) -> Iterator[str]:
    """Expand ``{000..012}`` as a shell does, keeping the zeros."""
    before, brace, rest = pattern.partition("{")
    inside, closing, after = rest.partition("}")
    first, dots, last = inside.partition("..")
    if not (brace and closing and dots and first.isdigit() and last.isdigit()):
        yield pattern
        return
    for number in range(int(first), int(last) + 1):
        yield from _expand_ranges(f"{before}{number:0{len(first)}d}{after}")
