"""Image-grouped batches: the texts of a picture stand together, so that it is encoded once for all of them.

An epoch shuffles the pictures (not the texts), lays the texts of each picture side by side and cuts the row into global
batches of exactly the asked number of texts. Every text comes once an epoch; a picture is encoded a second time only
where a cut falls inside its texts. Which texts form the batch of a step follows from (seed, step) alone; how they are
spread over micro-batches and processes changes neither the batch nor, but for rounding, its gradient.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mblip.config import MixSection
from mblip.errors import InputError, nearest
from mblip.schema import Instruction
from mblip.storage import ShardReader, read_manifest

_COLUMNS = ["id", "source", "task", "images", "prompt", "answer", "prompt_language", "answer_language"]


class Mix:
    """The instructions of a mix that a recipe selects, as an Arrow table (about 150 bytes a row).

    Attributes:
        text_only: Rows without a picture; each stands alone where texts of one picture stand together.

    Raises:
        InputError: No mix there, or a selection that leaves nothing.
    """

    def __init__(self, section: MixSection) -> None:
        folder = Path(section.mix)
        read_manifest(folder)
        paths = ShardReader(folder, Instruction).paths
        table = pa.concat_tables([pq.read_table(path, columns=_COLUMNS) for path in paths])
        for column, wanted in (("task", section.tasks), ("answer_language", section.languages)):
            if wanted:
                known = pc.unique(table[column]).to_pylist()
                missing = [value for value in wanted if value not in known]
                if missing:
                    raise InputError(f"{folder} has no {column} {missing[0]!r}{nearest(missing[0], known)}")
                table = table.filter(pc.is_in(table[column], pa.array(wanted)))
        if section.exclude_languages:
            excluded = pa.array(section.exclude_languages)
            for column in ("answer_language", "prompt_language"):
                table = table.filter(pc.invert(pc.is_in(table[column], excluded)))
        if table.num_rows == 0:
            raise InputError(f"{folder}: the recipe's tasks and languages leave no instruction")
        self._group(table)

    def _group(self, table: pa.Table) -> None:
        self.table = table.combine_chunks()
        joined = pc.binary_join(self.table["images"].combine_chunks(), "\x00")
        groups = joined.dictionary_encode().indices.to_numpy()
        without = pc.equal(pc.list_value_length(self.table["images"].combine_chunks()), 0).to_numpy(
            zero_copy_only=False
        )
        if without.any():  # each text without a picture is a group of its own
            groups = groups.astype(np.int64)
            groups[without] = groups.max() + 1 + np.arange(without.sum())
            groups = np.unique(groups, return_inverse=True)[1]
        self.text_only = int(without.sum())
        self._rows = np.argsort(groups, kind="stable")
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(groups))])

    def split(self, texts: int, seed: int) -> tuple[Self, Self]:
        """The mix without, and with only, some pictures that have at least so many texts together.

        Raises:
            InputError: That would leave nothing to train on.
        """
        pictures = np.random.default_rng([seed, len(self)]).permutation(self._groups)
        sizes = np.diff(self._starts)[pictures]
        count = int(np.searchsorted(np.cumsum(sizes), texts)) + 1
        if count >= self._groups:
            raise InputError(
                f"validation_texts {texts} leaves nothing to train on: the mix has {len(self)} instructions"
            )
        held = np.zeros(len(self), dtype=bool)
        for picture in pictures[:count]:
            held[self._rows[self._starts[picture] : self._starts[picture + 1]]] = True
        return self._only(~held), self._only(held)

    def _only(self, wanted: NDArray[np.bool_]) -> Self:
        mix = type(self).__new__(type(self))
        mix._group(self.table.filter(pa.array(wanted)))
        return mix

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def pictures(self) -> int:
        """How many different pictures (or sets of pictures) the rows speak of."""
        return self._groups - self.text_only

    @property
    def _groups(self) -> int:
        return len(self._starts) - 1

    def part(self, *, text_only: bool) -> Self:
        """The rows without a picture alone, or those with one."""
        without = pc.equal(pc.list_value_length(self.table["images"].combine_chunks()), 0)
        return self._only((without if text_only else pc.invert(without)).to_numpy(zero_copy_only=False))

    def take(self, rows: NDArray[np.int64]) -> list[Instruction]:
        """The instructions at these rows."""
        columns = self.table.take(pa.array(rows)).to_pydict()
        columns["images"] = [tuple(keys) for keys in columns["images"]]
        return [
            Instruction(**dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)
        ]

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """All rows, pictures shuffled, the texts of a picture side by side and shuffled among themselves."""
        rng = np.random.default_rng([seed, epoch])
        pictures = rng.permutation(self._groups)
        rows = self._rows[np.argsort(rng.random(len(self._rows)), kind="stable")]  # shuffles texts ...
        rank = np.empty(self._groups, dtype=np.int64)
        rank[pictures] = np.arange(self._groups)
        owner = np.repeat(np.arange(self._groups), np.diff(self._starts))
        owner_of_row = np.empty(len(rows), dtype=np.int64)
        owner_of_row[self._rows] = owner
        return rows[np.argsort(rank[owner_of_row[rows]], kind="stable")]  # ... and brings pictures together


class GroupedBatches:
    """The rows of each step, over all processes.

    Args:
        mix: What to draw from.
        seed: Of the order.
        global_batch: Texts a step.

    Raises:
        InputError: The mix is smaller than one batch.
    """

    def __init__(self, mix: Mix, seed: int, global_batch: int) -> None:
        if len(mix) < global_batch:
            raise InputError(f"the mix has {len(mix)} instructions, fewer than one batch of {global_batch}")
        self.mix, self.seed, self.global_batch = mix, seed, global_batch
        self._order = lru_cache(maxsize=2)(mix.order)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass; the rest of a pass (less than a batch) is left for another order to bring."""
        return len(self.mix) // self.global_batch

    def rows(self, step: int) -> NDArray[np.int64]:
        """Row numbers of a step, texts of one picture adjacent."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return self._order(self.seed, epoch)[place * self.global_batch : (place + 1) * self.global_batch]


def deal(
    pictures: Sequence[Hashable], lengths: Sequence[Sequence[int]], micro_batch: int, ranks: int = 1
) -> list[list[list[int]]]:
    """Cut a global batch into micro-batches for each process, so that little is padded and no picture encoded twice.

    The texts of a picture stay together unless they are more than a micro-batch. Each micro-batch begins with the longest
    texts left and takes in the pictures whose texts need the least padding beside them; the processes get micro-batches
    of similar size and equal number. Which texts make up the step, and so its gradient, is not touched.

    Args:
        pictures: Of each text; an empty tuple, of a text without a picture, is like no other.
        lengths: Of each text, in tokens, in each tensor that pads it (see :meth:`TextLayout.lengths`).
        micro_batch: Most texts at once.
        ranks: Number of processes; at most as many as texts.

    Returns:
        By process, its micro-batches, largest first (where memory runs out, it does so at once): positions of texts.
    """
    limit = min(micro_batch, -(-len(pictures) // ranks))
    if len(pictures) <= limit:
        return [[list(range(len(pictures)))]]
    texts: dict[Hashable, list[int]] = {}
    for position, picture in enumerate(pictures):
        texts.setdefault((None, position) if picture == () else picture, []).append(position)
    pieces = [found[i : i + limit] for found in texts.values() for i in range(0, len(found), limit)]
    packs = _packed(pieces, np.array(lengths), limit)
    while len(packs) % ranks:
        fullest = max(range(len(packs)), key=lambda number: len(packs[number]))
        pack = packs[fullest]
        packs[fullest : fullest + 1] = [pack[: len(pack) // 2], pack[len(pack) // 2 :]]
    return [packs[rank::ranks] for rank in range(ranks)]


def _packed(pieces: list[list[int]], lengths: NDArray[np.int64], limit: int) -> list[list[int]]:
    """Pieces joined to packs of at most ``limit`` texts, the one that takes most tokens first."""
    sizes = np.array([len(piece) for piece in pieces])
    widths = np.stack([lengths[piece].max(0) for piece in pieces])
    areas = sizes * widths.sum(1)
    waiting = np.ones(len(pieces), dtype=bool)
    packs = []
    for first in np.argsort(-widths.sum(1), kind="stable"):
        if not waiting[first]:
            continue
        pack, size, width, chosen = list[int](), 0, widths[first], first
        while True:
            waiting[chosen] = False
            pack += pieces[chosen]
            size, width = size + sizes[chosen], np.maximum(width, widths[chosen])
            fitting = np.flatnonzero(waiting & (sizes <= limit - size))
            if not len(fitting):
                break
            grown = (size + sizes[fitting]) * np.maximum(width, widths[fitting]).sum(1)
            chosen = fitting[np.argmin(grown - areas[fitting])]
        packs.append((size * width.sum(), pack))
    return [pack for _, pack in sorted(packs, key=lambda found: -found[0])]
