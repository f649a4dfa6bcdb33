"""Describe downloads in words, with size and licence first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path

from mblip.catalogue.download import Item, Plan
from mblip.catalogue.entries import DataSet, SetFile
from mblip.catalogue.names import shown
from mblip.catalogue.wanted import ByHand
from mblip.errors import counted
from mblip.progress import size_text

_MANY = 6  # largest number of files that are listed one by one


def describe_plan(plan: Plan, sets: Iterable[DataSet]) -> list[str]:
    """Describe a download, with one paragraph per data set, and the total."""
    lines = []
    for entry in sets:
        items = [item for item in plan.items if item.entry is entry]
        lines.append(f"{entry.name}: {entry.title}" if entry.title else entry.name)
        lines.append(
            f"  licence: {entry.licence or 'not stated in the catalogue'}{f'; {entry.page}' if entry.page else ''}"
        )
        lines += [f"  {line}" for line in _standings(items)]
        asked = [item for item in items if item.standing == "to ask for"]
        if entry.ask and (asked or any(item.standing != "complete" for item in items)):
            lines.append(f"  to be requested: {entry.ask}")
        elif asked:
            lines.append("  to be got by hand; the catalogue does not say from where")
        lines += [f"    put it at {item.target}" for item in asked]
        if entry.notes:
            lines.append(f"  note: {entry.notes}")
    lines.append(_sum(plan))
    return lines


def describe_by_hand(lacking: Iterable[ByHand], folder: Path) -> list[str]:
    """Say where to get what no catalogue has, and where to put it."""
    lines = []
    for (what, source), group in groupby(lacking, key=lambda one: (one.what, one.source)):
        lines.append(f"{what}: to be got by hand{f' from {source}' if source else ', which no catalogue has'}")
        lines += [f"  put it at {' or '.join(map(str, one.places(folder)))}" for one in group]
    return lines


def describe_catalogue(catalogue: Mapping[str, DataSet]) -> list[tuple[str, str, str, str]]:
    """Name, size, licence and title of each data set."""
    return [(entry.name, size_of(entry), entry.licence, entry.title) for entry in catalogue.values()]


def size_of(entry: DataSet) -> str:
    """Size of a data set, as far as it is known."""
    unknown = [file for file in entry.files if file.url and file.bytes is None and file.about_bytes is None]
    if not entry.files:
        return "see " + ", ".join(entry.needs) if entry.needs else "-"
    if entry.bytes is None:
        return "not stated" if unknown else "to ask for"
    about = "" if entry.is_exact or not any(file.about_bytes for file in entry.files) else "about "
    more = f" and {counted(len(unknown), 'more file')}" if unknown else ""
    return f"{about}{size_text(entry.bytes)}{more}"


def _standings(items: list[Item]) -> list[str]:
    lines = []
    complete = [item for item in items if item.standing == "complete"]
    if complete:
        lines.append(f"there already: {len(complete)} of {counted(len(items), 'file')}")
    todo = [item for item in items if item.standing in ("missing", "damaged", "packed")]
    lines += [_line(item) for item in todo[:_MANY]]
    if len(todo) > _MANY:
        rest = todo[_MANY:]
        known = sum(item.left or 0 for item in rest)
        lines.append(f"and {counted(len(rest), 'more file')}, {size_text(known)} or more")
    return lines


def _line(item: Item) -> str:
    if item.standing == "packed":
        return f"{item.file.target}: there, to be unpacked"
    about = "about " if item.size is not None and item.file.bytes is None and item.file.about_bytes else ""
    size = "size unknown" if item.size is None else f"{about}{size_text(item.size)}"
    have = f", {size_text(item.have)} of it there already" if item.have else ""
    why = f" again, because {item.why}" if item.standing == "damaged" else ""
    return f"{_name(item.file)}: {size}{have}{why}, from {_from(item.file)}"


def _name(file: SetFile) -> str:
    return "checkpoint, into the cache of the Hub" if file.is_checkpoint else file.target


def _from(file: SetFile) -> str:
    return file.url if file.hub else shown(file.url)


def _sum(plan: Plan) -> str:
    if not plan.open:
        return "nothing to download" if plan.to_ask_for else "everything is there"
    unknown = f", and {counted(plan.unknown, 'file')} of unknown size" if plan.unknown else ""
    fetched = [item for item in plan.open if item.standing != "packed"]
    packed = len(plan.open) - len(fetched)
    unpacked = f"; {counted(packed, 'archive')} to unpack" if packed else ""
    count = counted(len(fetched), "file")
    return f"to download: {count}, {size_text(plan.left)}{unknown}{unpacked}, into {plan.folder}"
