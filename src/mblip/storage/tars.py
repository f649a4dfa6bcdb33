"""Read pictures inside tars without extracting them, so that names and links cannot lead anywhere."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mblip.errors import InputError, check_readable, refusal
from mblip.storage.decoding import UnreadableImage
from mblip.storage.folders import is_picture


class Member(NamedTuple):
    """A picture in a tar, written ``TAR#NAME``."""

    tar: str
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.tar}#{self.name}"

    def read(self, key: str = "") -> bytes:
        """The bytes of its file.

        The tar is opened each time, which is safe for threads and processes, and cheap compared with decoding.

        Args:
            key: Name for errors; its text by default.

        Raises:
            UnreadableImage: The tar is missing or cut off.
        """
        key = key or str(self)
        try:
            with Path(self.tar).open("rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise UnreadableImage(key, f"{self.tar}: {refusal(error)}") from error
        if len(data) < self.size:
            raise UnreadableImage(key, f"{self.tar} is cut off")
        return data


def walk_tar(path: Path) -> Iterator[Member]:
    """Yield the pictures of a tar, in its order.

    Raises:
        InputError: The tar cannot be read, is compressed, or damaged from this point on.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isreg() and not member.issparse() and is_picture(member.name):
                    yield Member(str(path), member.name.removeprefix("./"), member.offset_data, member.size)
                tar.members = []  # type: ignore[attr-defined]  # else it keeps every header
    except (tarfile.TarError, OSError, ValueError) as error:
        check_readable(path)
        raise InputError(f"{path} is not a readable, uncompressed tar: {error}") from error
