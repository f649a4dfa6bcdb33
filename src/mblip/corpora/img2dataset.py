"""Find the image of each address in img2dataset's output, whose shards have numbered images and a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mblip.corpora.json_stream import hash_text
from mblip.errors import InputError, check_readable


class FetchedImages:
    """Image keys by address, for a folder that img2dataset wrote in WebDataset tars or in files.

    Memory per image is eight bytes and the key.

    Raises:
        InputError: There are no tables of img2dataset, or a damaged one.
    """

    def __init__(self, folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        hashes: list[int] = []
        keys: list[str] = []
        tables = sorted(folder.glob("[0-9]*.parquet"))
        if not tables:
            raise InputError(
                f"{folder} has no 00000.parquet: it is not an output of img2dataset in webdataset or files"
            )
        for path in tables:
            in_tar = path.with_suffix(".tar").is_file()
            try:
                table = pq.read_table(path, columns=["url", "key", "status"])
            except (OSError, pa.ArrowException) as error:
                check_readable(path)
                raise InputError(f"{path} is not a table of img2dataset: {str(error).splitlines()[0]}") from error
            for url, key, status in zip(*(table[name].to_pylist() for name in table.column_names), strict=True):
                if status == "success":
                    hashes.append(hash_text(url))
                    keys.append(key if in_tar else f"{path.stem}/{key}")
        order = np.argsort(np.array(hashes, np.uint64), kind="stable")
        self._hashes = np.array(hashes, np.uint64)[order]
        self._keys = np.array(keys, dtype=bytes)[order]

    def key(self, url: str) -> str:
        """The key of an address's image, without an extension; empty if it was not fetched."""
        wanted = np.uint64(hash_text(url))
        place = int(np.searchsorted(self._hashes, wanted))
        if place == len(self._hashes) or self._hashes[place] != wanted:
            return ""
        return bytes(self._keys[place]).decode()
