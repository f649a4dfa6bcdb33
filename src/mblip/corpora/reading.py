"""Find the reader of a corpus, and read it as a recipe says."""

from __future__ import annotations

import inspect
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict, ValidationError, validate_call

from mblip import plugins
from mblip.config import DataRecipe, SourceSection
from mblip.corpora.json_stream import hash_text
from mblip.corpora.provenance import raw_files
from mblip.errors import InputError, nearest
from mblip.schema import Drop, Example
from mblip.storage import ImageStore, UnreadableImage, language_of, open_images
from mblip.storage.text import unstorable

READERS = (
    "aokvqa",
    "chat",
    "coco",
    "flickr30k",
    "gqa",
    "imagenet",
    "llava",
    "matching",
    "mblip_train",
    "nlvr2",
    "parallel",
    "table",
    "vqav2",
    "web_capfilt",
    "xvnli",
)
"""Modules of this package with a ``read(source, ...)``, whose parameters are a recipe's options.

Optional members are ``urls(...)`` with the same options, which yields image keys and addresses; ``words(example)``, the
English words that ``translation.held_out`` withholds from some languages; ``describe_row(name, columns)``, the words for a
row, from the second part of an example's id and that option; ``FOR_PICTURES``, the options whose files are
only needed to fetch pictures; and ``NO_PICTURES``, true if no row has a picture. Other packages register modules of this
kind (:data:`mblip.plugins.corpora`)."""

for _name in READERS:
    plugins.corpora.register(_name, f"mblip.corpora.{_name}", plugins.OWN)

BAD = ("bad row", "duplicate id", "unusable text", "missing image", "damaged image")
"""Reasons of drops that are errors in the data, and not the reader's choice."""


_BLOCK = 8192  # examples whose ids are looked up together


def read_source(
    recipe: DataRecipe, source: SourceSection, *, done: int = 0, scratch: Path | None = None
) -> Iterator[Example | Drop]:
    """Read one source of a recipe; unusable rows and repeated ids become drops.

    Args:
        recipe: The recipe, which decides whether bad rows stop the reading.
        source: One of its sources.
        done: Number of records to skip because they were read before; their images are not opened again.
        scratch: Folder where a reader saves intermediate results, for runs that are stopped.

    Raises:
        InputError: A reader or option is unknown, a file is unreadable, or a bad row must stop the reading.
    """
    records: Iterator[Example | Drop] = islice(_unique(_checked(_call(source, recipe.seed, scratch))), done, None)
    if source.images:
        records = _with_images(records, source)
    return _stop_at_bad_rows(records, source) if recipe.bad_rows == "error" else records


@dataclass(frozen=True)
class Counted:
    """The content of a source.

    Attributes:
        examples: By task and language.
        drops: Rows left out, by reason.
        first: The first example of each task.
    """

    examples: dict[str, dict[str, int]]
    drops: dict[str, int]
    first: list[Example]


def count_examples(recipe: DataRecipe, source: SourceSection) -> Counted:
    """Count a source by reading all of it.

    Raises:
        InputError: As in :func:`read_source`, or there are no examples.
    """
    counts: dict[str, Counter[str]] = {}
    drops: Counter[str] = Counter()
    first: list[Example] = []
    first_drop: Drop | None = None
    for record in read_source(recipe, source):
        if isinstance(record, Drop):
            first_drop = first_drop or record
            drops[record.reason] += 1
            continue
        if record.task not in counts:
            counts[record.task] = Counter()
            first.append(record)
        counts[record.task][language_of(record.languages.values())] += 1
    if not counts:
        raise nothing_read(source, first_drop)
    return Counted({task: dict(sorted(counts[task].items())) for task in sorted(counts)}, dict(drops), first)


def nothing_read(source: SourceSection, first: Drop | None) -> InputError:
    """The error for a source without examples; ``first`` is the first record that was left out."""
    if first:
        why = f"the first row left out is {first.id}: {first.reason} ({first.detail})"
    else:
        files = ", ".join(map(str, files_to_read(source)))
        why = f"{files or 'its reader'} has no row that fits its options"
    return InputError(f"source {source.name!r} yields no example; {why}; check its options")


def files_to_read(source: SourceSection) -> list[Path]:
    """The raw files and folders that reading the texts of a source needs.

    Raises:
        InputError: There is no such reader.
    """
    module = reader_module(source)
    return raw_files(source, module.read, getattr(module, "FOR_PICTURES", ()))


def place_of(source: SourceSection, record: str) -> str:
    """The raw file of a record and its row there, or its id if the reader does not count rows.

    Args:
        source: The record's source.
        record: Its id.
    """
    module = reader_module(source)
    files = raw_files(source, module.read)
    if describe := getattr(module, "describe_row", None):
        record = describe(record.removeprefix(f"{source.name}/"), source.options.get("columns"))
    return f"{files[0]}, {record}" if files else record


def reader_module(source: SourceSection) -> Any:
    """The module that reads a source, see :data:`READERS`.

    Raises:
        InputError: There is no such reader, or its package is damaged.
    """
    if source.reader not in plugins.corpora:
        raise InputError(f"source {source.name!r}: no reader {source.reader!r}{plugins.corpora.hint(source.reader)}")
    return plugins.corpora[source.reader]


def _checked(records: Iterator[Example | Drop]) -> Iterator[Example | Drop]:
    """Drop examples with a text, id or image key that later steps cannot store."""
    for record in records:
        if isinstance(record, Example):
            carried = (*record.texts.items(), ("id", record.id), *(("image", key) for key in record.images))
            problem = next((f"{role} {why}" for role, text in carried if (why := _unusable(text))), "")
            if problem:
                record = Drop(ascii(record.id)[1:-1], record.source, "unusable text", problem, record.task)
        yield record


_INVISIBLE = ("Cc", "Cf", "Zs", "Zl", "Zp")  # controls, marks such as U+200B and U+200F, and blanks


def _unusable(text: str) -> str:
    if not text or text.isspace():
        return "is blank"
    if what := unstorable(text):
        return f"contains {what}"
    if not text.isascii() and all(unicodedata.category(character) in _INVISIBLE for character in text):
        return "has no visible character"
    return ""


def _unique(records: Iterator[Example | Drop]) -> Iterator[Example | Drop]:
    """Drop examples with a repeated id; memory per example is eight bytes."""
    seen = np.empty(0, np.uint64)
    number = 0
    while block := list(islice(records, _BLOCK)):
        examples = [record for record in block if isinstance(record, Example)]
        hashes = np.array([hash_text(example.id) for example in examples], np.uint64)
        again = np.ones(len(hashes), dtype=bool)
        again[np.unique(hashes, return_index=True)[1]] = False
        if len(seen):
            again |= seen[np.minimum(np.searchsorted(seen, hashes), len(seen) - 1)] == hashes
        seen = np.sort(np.concatenate([seen, hashes[~again]]), kind="stable")  # merges two sorted runs
        repeated = iter(again.tolist())
        for record in block:
            if isinstance(record, Example):
                number += 1
                if next(repeated):
                    detail = f"example {number} of the source has the id of an earlier one"
                    record = Drop(record.id, record.source, "duplicate id", detail, record.task)
            yield record


def _with_images(records: Iterator[Example | Drop], source: SourceSection) -> Iterator[Example | Drop]:
    """Drop examples with an image that the source's store lacks, or cannot decode if that is checked."""
    store = open_images(source.images)
    last: tuple[str, ...] = ()
    problem: tuple[str, str] | None = None
    for record in records:
        if isinstance(record, Example):
            if record.images != last:  # texts of the same image are usually adjacent
                last, problem = record.images, _image_problem(store, record.images, source.decode_images)
            if problem:
                record = Drop(record.id, record.source, *problem, record.task)
        yield record


def _image_problem(store: ImageStore, keys: tuple[str, ...], decode: bool) -> tuple[str, str] | None:
    for key in keys:
        if key not in store:
            return "missing image", key
        if decode:
            try:
                store.get(key, at_least=1)
            except UnreadableImage as error:
                return "damaged image", str(error)
    return None


def _stop_at_bad_rows(records: Iterator[Example | Drop], source: SourceSection) -> Iterator[Example | Drop]:
    for record in records:
        if isinstance(record, Drop) and record.reason in BAD:
            # The id of a bad row has its file and number already.
            where = record.id if record.reason == "bad row" else place_of(source, record.id)
            raise InputError(f"{where}: {record.reason} ({record.detail}); correct it, or set bad_rows to drop")
        yield record


def _call(source: SourceSection, seed: int, scratch: Path | None) -> Iterator[Example | Drop]:
    read = reader_module(source).read
    options: dict[str, Any] = dict(source.options)
    known = list(inspect.signature(read).parameters)[1:]
    if "seed" in known:
        options.setdefault("seed", seed)
    if "scratch" in known:
        options["scratch"] = scratch
    for name in options:
        if name not in known:
            raise InputError(f"source {source.name!r}: {source.reader!r} has no option {name!r}{nearest(name, known)}")
    checked = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(read)
    try:
        records: Iterator[Example | Drop] = checked(source.name, **options)
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(str(part) for part in first["loc"])
        raise InputError(f"source {source.name!r}: option {option!r}: {first['msg'].lower()}") from error
    return records
