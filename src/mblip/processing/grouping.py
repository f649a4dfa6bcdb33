"""Image-grouped batches: the texts of a picture are adjacent, so that it is encoded once for all of them.

An epoch shuffles the pictures (not the texts), puts the texts of each picture side by side and cuts the sequence into
global batches of exactly the requested number of texts. Every text comes once per epoch; a picture is encoded a second
time only if a cut falls inside its texts. The texts of a step depend only on (seed, step). Their distribution over
micro-batches and processes changes neither the batch nor, up to rounding, its gradient.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mblip.config import MixSection
from mblip.errors import InputError, counted, nearest
from mblip.processing.rows import MAPPED_FROM, Rows, open_rows
from mblip.schema import Instruction

Places = NDArray[Any]  # of uint32 if that suffices, else int64


class Mix:
    """The instructions of a mix that a recipe selects.

    The rows of a large mix are not in memory (:mod:`mblip.processing.rows`); the selection and grouping take four to
    eight bytes per row.

    Attributes:
        text_only: Number of rows without a picture; each is a group of its own.

    Raises:
        InputError: There is no mix, or the selection leaves nothing.
    """

    def __init__(self, section: MixSection, mapped_from: int = MAPPED_FROM) -> None:
        folder = Path(section.mix)
        self._rows = open_rows(folder, mapped_from)
        masks = [_selected(batch, section) for batch in self._rows.batches(*_SELECTING)]
        for column, wanted in (("task", section.tasks), ("answer_language", section.languages)):
            if wanted:
                known = sorted(
                    {value for batch in self._rows.batches(column) for value in batch[0].unique().to_pylist()}
                )
                if missing := [value for value in wanted if value not in known]:
                    raise InputError(f"{folder} has no {column} {missing[0]!r}{nearest(missing[0], known)}")
        mask = np.concatenate(masks) if masks else np.empty(0, dtype=bool)
        if not mask.any():
            raise InputError(f"{folder}: the recipe's tasks and languages leave no instruction")
        self._select(None if mask.all() else np.flatnonzero(mask).astype(_places(len(mask))))

    def _select(self, chosen: Places | None) -> None:
        """Select rows (None: all of them), and group them by picture."""
        self._chosen = chosen
        self._count = len(self._rows) if chosen is None else len(chosen)
        self._starts, self._order, self.text_only = _group(self._rows, chosen)

    def split(self, texts: int, seed: int) -> tuple[Self, Self]:
        """Split off pictures with at least ``texts`` texts in total; returns the rest and the split-off part.

        Raises:
            InputError: Nothing would be left to train on.
        """
        pictures = np.random.default_rng([seed, len(self)]).permutation(self._groups)
        sizes = np.diff(self._starts)[pictures]
        count = int(np.searchsorted(np.cumsum(sizes, dtype=np.int64), texts)) + 1
        if count >= self._groups:
            raise InputError(
                f"validation_texts {texts} leaves nothing to train on: the mix has {counted(len(self), 'instruction')}"
            )
        held = np.zeros(len(self), dtype=bool)
        for picture in pictures[:count]:
            held[self._members(int(picture))] = True
        return self._only(~held), self._only(held)

    def part(self, *, text_only: bool) -> Self:
        """The rows without a picture, or those with one."""
        found = np.concatenate([_without_picture(batch) for batch in self._rows.batches("images")])
        return self._only((found if self._chosen is None else found[self._chosen]) == text_only)

    def _only(self, wanted: NDArray[np.bool_]) -> Self:
        mix = type(self).__new__(type(self))
        mix._rows = self._rows
        places = np.flatnonzero(wanted).astype(_places(len(self._rows)))
        mix._select(places if self._chosen is None else self._chosen[places])
        return mix

    def __len__(self) -> int:
        return self._count

    @property
    def pictures(self) -> int:
        """Number of different pictures (or sets of pictures) of the rows."""
        return self._groups - self.text_only

    @property
    def _groups(self) -> int:
        return len(self._starts) - 1

    def image_keys(self) -> list[str]:
        """Every picture of the rows, once."""
        keys: dict[str, None] = {}
        for column in self._columns("images"):
            keys.update(dict.fromkeys(pc.unique(pc.list_flatten(column)).to_pylist()))
        return list(keys)

    def languages(self) -> set[str]:
        """The languages of the answers."""
        found: set[str] = set()
        for column in self._columns("answer_language"):
            found.update(column.unique().to_pylist())
        return found

    def _columns(self, name: str) -> Iterator[pa.Array]:
        """A column of the rows, in parts."""
        done = 0
        for batch in self._rows.batches(name):
            column, done, begin = batch[0], done + batch.num_rows, done
            if self._chosen is not None:
                own = self._chosen[np.searchsorted(self._chosen, begin) : np.searchsorted(self._chosen, done)]
                column = column.take(pa.array(own - begin))
            yield column

    def take(self, rows: Places) -> list[Instruction]:
        """The instructions at these rows."""
        return self._rows.take(rows if self._chosen is None else self._chosen[rows])

    def _members(self, group: int) -> Places:
        """The rows of a group."""
        start, stop = int(self._starts[group]), int(self._starts[group + 1])
        return np.arange(start, stop) if self._order is None else self._order[start:stop]

    def order(self, seed: int, epoch: int) -> Order:
        """All rows with pictures shuffled; the texts of a picture are adjacent and shuffled among themselves."""
        return Order(self, seed, epoch)


class Order:
    """The order of an epoch, from which each step reads a few rows.

    The generator draws a permutation of the groups, and then a number for each row, by which the rows of a group are
    sorted. Those numbers are drawn when they are needed, because the generator can jump to any position.
    """

    def __init__(self, mix: Mix, seed: int, epoch: int) -> None:
        self._mix = mix
        rng = np.random.default_rng([seed, epoch])
        self._groups = rng.permutation(mix._groups).astype(_places(mix._groups))
        self._state: Any = rng.bit_generator.state
        sizes = np.diff(mix._starts)[self._groups]
        self._ends = np.cumsum(sizes, dtype=_places(len(mix)))

    def __getitem__(self, places: slice) -> NDArray[np.int64]:
        """The rows at a slice of the order."""
        start, stop, _ = places.indices(len(self._mix))
        if start >= stop:
            return np.empty(0, dtype=np.int64)
        first, last = np.searchsorted(self._ends, [start, stop - 1], side="right").tolist()
        begins = int(self._ends[first - 1]) if first else 0
        generator = np.random.PCG64(0)  # without a seed it would ask the system for one; the state is set below
        rows = np.concatenate([self._texts(int(group), generator) for group in self._groups[first : last + 1]])
        return rows[start - begins : stop - begins]

    def _texts(self, group: int, generator: np.random.PCG64) -> NDArray[np.int64]:
        members = self._mix._members(group).astype(np.int64)
        if len(members) == 1:
            return members
        generator.state = self._state
        generator.advance(int(self._mix._starts[group]))
        return members[np.argsort(np.random.Generator(generator).random(len(members)), kind="stable")]


_SELECTING = ("task", "answer_language", "prompt_language")


def _selected(batch: pa.RecordBatch, section: MixSection) -> NDArray[np.bool_]:
    """Mask of the rows of a batch that a recipe selects."""
    mask = np.ones(batch.num_rows, dtype=bool)
    for column, wanted in (("task", section.tasks), ("answer_language", section.languages)):
        if wanted:
            mask &= _is_in(batch.column(column), wanted)
    for column in ("answer_language", "prompt_language"):
        if section.exclude_languages:
            mask &= ~_is_in(batch.column(column), section.exclude_languages)
    return mask


def _is_in(column: pa.Array, values: Sequence[str]) -> NDArray[np.bool_]:
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    found: NDArray[np.bool_] = pc.is_in(column, pa.array(values)).to_numpy(zero_copy_only=False)
    return found


def _without_picture(batch: pa.RecordBatch) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = pc.equal(pc.list_value_length(batch.column("images")), 0).to_numpy(zero_copy_only=False)
    return found


def _places(count: int) -> type[np.uint32] | type[np.int64]:
    """The smallest integer type for this number of rows."""
    return np.uint32 if count < 2**32 else np.int64


def _group(rows: Rows, chosen: Places | None) -> tuple[Places, Places | None, int]:
    """Group rows by their picture (or set of pictures).

    Groups are numbered by their first rows; rows without a picture come after them, each in its own group.

    Returns:
        The start of each group in the order of the groups, and the end of the last; the row at each place of that
        order, None if it is the order of the rows; and the number of rows without a picture.
    """
    count = len(rows) if chosen is None else len(chosen)
    starts, keys, empties = list[Places](), list[NDArray[np.int64]](), list[NDArray[np.bool_]]()
    at = done = 0
    before: str | None = None
    for batch in rows.batches("images"):
        column, empty = batch.column("images"), _without_picture(batch)
        done, end = done + batch.num_rows, done
        if chosen is not None:
            own = chosen[np.searchsorted(chosen, end) : np.searchsorted(chosen, done)] - end
            column, empty = column.take(pa.array(own)), empty[own]
        if not len(column):
            continue
        joined = pc.binary_join(column, "\x00")
        changed = np.ones(len(column), dtype=bool)
        changed[0] = joined[0].as_py() != before
        changed[1:] = pc.not_equal(joined[1:], joined[:-1]).to_numpy(zero_copy_only=False)
        changed |= empty
        begun = np.flatnonzero(changed)
        texts = joined.take(pa.array(begun)).to_pylist()
        keys.append(np.fromiter(map(hash, texts), np.int64, len(texts)))  # stable within a process, which is enough
        starts.append((at + begun).astype(_places(count)))
        empties.append(empty[begun])
        before = joined[-1].as_py()
        at += len(column)
    ends = np.append(np.concatenate(starts), np.array([count], dtype=_places(count)))
    key, empty = np.concatenate(keys), np.concatenate(empties)
    without = int(empty.sum())
    # In a mix of this package the rows of a picture are adjacent, so no picture comes a second time.
    if not without and _are_different(key):
        return ends, None, 0
    key[empty] = 0
    _, first, groups = np.unique(key, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    groups = rank[groups]
    if without:
        groups[empty] = len(first) + np.arange(without)
        groups = np.unique(groups, return_inverse=True)[1]
    each = np.repeat(groups, np.diff(ends))
    order = np.argsort(each, kind="stable").astype(_places(count))
    return np.concatenate([[0], np.cumsum(np.bincount(each))]).astype(_places(count)), order, without


def _are_different(numbers: NDArray[np.int64]) -> bool:
    found = np.sort(numbers)
    return not (found[1:] == found[:-1]).any()


class GroupedBatches:
    """The rows of each step, over all processes.

    Args:
        mix: The mix.
        seed: Seed of the order.
        global_batch: Number of texts per step.

    Raises:
        InputError: The mix is smaller than one batch.
    """

    def __init__(self, mix: Mix, seed: int, global_batch: int) -> None:
        if len(mix) < global_batch:
            raise InputError(f"the mix has {counted(len(mix), 'instruction')}, fewer than one batch of {global_batch}")
        self.mix, self.seed, self.global_batch = mix, seed, global_batch
        self._order = lru_cache(maxsize=2)(mix.order)

    @property
    def steps_per_epoch(self) -> int:
        """Number of complete batches in one pass; the rest of a pass (less than a batch) is left to other orders."""
        return len(self.mix) // self.global_batch

    def rows(self, step: int) -> NDArray[np.int64]:
        """Row numbers of a step, with texts of one picture adjacent."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return self._order(self.seed, epoch)[place * self.global_batch : (place + 1) * self.global_batch]


def assign_micro_batches(
    pictures: Sequence[Hashable], lengths: Sequence[Sequence[int]], micro_batch: int, ranks: int = 1
) -> list[list[list[int]]]:
    """Cut a global batch into micro-batches for each process, with little padding and no picture encoded twice.

    The texts of a picture stay together unless they exceed a micro-batch. Each micro-batch begins with the longest
    remaining texts and adds the pictures whose texts need the least padding. All processes get the same number of
    micro-batches of similar size. The texts of the step, and so its gradient, do not change.

    Args:
        pictures: Picture of each text; an empty tuple, for a text without a picture, equals no other.
        lengths: Tokens of each text in each tensor that pads it (see :meth:`TextLayout.lengths`).
        micro_batch: Maximum number of texts at once.
        ranks: Number of processes; at most as many as texts.

    Returns:
        The micro-batches of each process as indices of texts, largest first, so that memory runs out at once if it
        does.
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
    """Join pieces to packs of at most ``limit`` texts, sorted by tokens, the largest first."""
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
