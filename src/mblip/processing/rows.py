"""The instructions of a mix as record batches: in memory if they are few, else mapped from a file beside the mix.

Parquet cannot be read row by row, but a training step needs rows from all over the mix. So a large mix is unpacked once
into an Arrow file. The system reads its pages when they are needed, shares them among all processes of the machine, and
drops them when memory is short. The file is made again when the mix changes, and may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mblip.errors import InputError, check_readable
from mblip.schema import Instruction
from mblip.storage import Manifest, ShardReader, atomic_path, cache_folder, exclusive_lock, read_manifest
from mblip.storage.locks import BusyError

COLUMNS = ["id", "source", "task", "images", "prompt", "answer", "prompt_language", "answer_language"]
MAPPED_FROM = 1_000_000
"""Number of rows from which a mix is mapped; fewer rows take less than half a gigabyte of memory."""
UNPACKED = ".unpacked"
_PATIENCE = 0.5  # seconds between two checks while another process unpacks
_BATCH = 1 << 17  # rows of one record batch in the file
_REPEATED = ("source", "task", "prompt_language", "answer_language")  # few values, stored as numbers


class Rows:
    """The rows of a mix, in the order of its shards.

    Args:
        batches: Record batches of :data:`COLUMNS`.
    """

    def __init__(self, batches: Sequence[pa.RecordBatch]) -> None:
        self._batches = list(batches)
        self._ends = np.cumsum([batch.num_rows for batch in self._batches], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def batches(self, *columns: str) -> Iterator[pa.RecordBatch]:
        """Yield batches with these columns."""
        for batch in self._batches:
            yield batch.select(list(columns))

    def take(self, rows: NDArray[np.integer]) -> list[Instruction]:
        """The instructions at these rows."""
        found: list[Instruction | None] = [None] * len(rows)
        owners = np.searchsorted(self._ends, rows, side="right")
        for number in np.unique(owners).tolist():
            batch, places = self._batches[number], np.flatnonzero(owners == number)
            inside = rows[places].astype(np.int64) - (int(self._ends[number]) - batch.num_rows)
            for place, values in zip(places.tolist(), batch.take(pa.array(inside)).to_pylist(), strict=True):
                found[place] = Instruction(**{**values, "images": tuple(values["images"])})
        return [instruction for instruction in found if instruction is not None]


def open_rows(folder: Path, mapped_from: int = MAPPED_FROM) -> Rows:
    """The rows of a mix.

    Args:
        folder: Folder of the mix.
        mapped_from: Number of rows from which they are mapped.

    Raises:
        InputError: There is no mix, or no place to unpack it, as on a full disk.
    """
    manifest = read_manifest(folder)
    paths = ShardReader(folder, Instruction).paths
    if manifest.rows < mapped_from:
        batches = [batch for path in paths for batch in _batches(path, COLUMNS)]
        return Rows(pa.Table.from_batches(batches).combine_chunks().to_batches() if batches else [])
    return Rows(_mapped(_unpacked(folder, manifest, paths)))


def _unpacked(folder: Path, manifest: Manifest, paths: Sequence[Path]) -> Path:
    """The Arrow file of a mix, made if it is missing: beside the mix, or in a cache if that folder is read-only."""
    digest = hashlib.sha256(json.dumps(manifest.shards, sort_keys=True).encode()).hexdigest()[:16]
    places = [folder / UNPACKED, cache_folder("unpacked")]
    for place in places:
        if (place / f"{digest}.arrow").is_file():
            return place / f"{digest}.arrow"
    writable = [place for place in places if _is_writable(place)]
    if not writable:
        raise InputError(
            f"the mix must be unpacked, but neither {places[0]} nor {places[1]} can be written: make one writable"
        )
    place, file = writable[0], writable[0] / f"{digest}.arrow"
    while not file.is_file():
        try:
            with exclusive_lock(file, "unpacking the mix"):
                if not file.is_file():
                    for old in place.glob("*.arrow") if place.parent == folder else ():
                        old.unlink()  # belongs to an older mix in the folder
                    _unpack(paths, file)
        except BusyError:  # another process of this machine unpacks it
            time.sleep(_PATIENCE)
    return file


def _is_writable(place: Path) -> bool:
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            return True
    except OSError:
        return False


def _unpack(paths: Sequence[Path], to: Path) -> None:
    schema = pa.schema(
        [
            pa.field(name, pa.dictionary(pa.int32(), pa.string()) if name in _REPEATED else _type(name))
            for name in COLUMNS
        ]
    )
    values: dict[str, pa.Array] = {}
    for name in _REPEATED:  # the file format needs one dictionary for the complete file
        found: dict[str, None] = {}
        for path in paths:
            for batch in _batches(path, [name]):
                found.update(dict.fromkeys(batch.column(0).unique().to_pylist()))
        values[name] = pa.array(list(found), pa.string())
    with (
        atomic_path(to) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as file,
    ):
        for path in paths:
            for batch in _batches(path, COLUMNS):
                arrays = [
                    pa.DictionaryArray.from_arrays(pc.index_in(batch.column(name), values[name]), values[name])
                    if name in _REPEATED
                    else batch.column(name)
                    for name in COLUMNS
                ]
                file.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))


def _batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    try:
        yield from pq.ParquetFile(path).iter_batches(batch_size=_BATCH, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} is damaged ({str(error).splitlines()[0][:200]}); make the mix again") from error


def _type(name: str) -> pa.DataType:
    return pa.list_(pa.string()) if name == "images" else pa.string()


def _mapped(path: Path) -> list[pa.RecordBatch]:
    try:
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        return [file.get_batch(number) for number in range(file.num_record_batches)]
    except (OSError, pa.ArrowInvalid) as error:
        check_readable(path)
        raise InputError(f"{path} is damaged ({error}): delete it, and it will be made again") from error
