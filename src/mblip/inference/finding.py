"""Find the pictures that a user names: files, folders, tars, patterns, lists and tables."""

from __future__ import annotations

import glob
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import repeat
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from mblip.corpora.json_stream import BadRow
from mblip.corpora.rows import PACKED, SHEETS, TABLES, read_rows
from mblip.errors import InputError, nearest, quoted
from mblip.storage import UnreadableImage, reading_text
from mblip.storage.cells import PictureCells, picture_columns
from mblip.storage.decoding import EXTENSIONS
from mblip.storage.encoded import NOT_READ, is_encoded
from mblip.storage.folders import is_junk, is_picture, walk_pictures
from mblip.storage.tars import Member, walk_tar
from mblip.storage.text import NO_ADDRESSES, is_address

LISTS = (".txt", ".lst")
TAR = ".tar"


class Cell(NamedTuple):
    """A picture in a cell of a Parquet file; written ``TABLE#ROW``, with rows from 0."""

    table: str
    column: str
    row: int

    def __str__(self) -> str:
        return f"{self.table}#{self.row}"


Place = str | Cell | Member
"""The place of a picture: a path, a cell of Parquet or a member of a tar; its text is the name in results."""


@dataclass
class Found:
    """The pictures that a user named.

    Attributes:
        pictures: Paths, cells of Parquet and members of tars; each once.
        numbers: The line or row of each in the list or table that names it; 0 if none does.
        lists: The lists and tables, each with the number of pictures before its own, and the unit of its numbers.
        skipped: Pictures and folders that are known to be unusable without opening them: name and reason.
        others: Number of files in folders that are not pictures in a known format, by ending.
    """

    pictures: list[Place] = field(default_factory=list)
    numbers: array[int] = field(default_factory=lambda: array("q"))
    lists: list[tuple[int, Path, str]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    def name_place(self, problem: UnreadableImage) -> UnreadableImage:
        """The problem of a picture together with the list or table, and the line or row there, that names it, if any."""
        number = self._places.get(problem.key, -1)
        if number < 0 or not self.numbers[number]:
            return problem
        _, path, unit = self.lists[bisect_right(self.lists, number, key=itemgetter(0)) - 1]
        return UnreadableImage(problem.key, f"{problem.reason} (named by {path}, {unit} {self.numbers[number]})")

    @cached_property
    def _places(self) -> dict[str, int]:
        # Made only when a picture of a list cannot be read, as there may be millions.
        return {str(picture): number for number, picture in enumerate(self.pictures)} if self.lists else {}

    def left_out(self) -> str:
        """A sentence about the files that were left out for their format; empty if there are none."""
        if not self.others:
            return ""
        most = [f"{count:,} {ending}" for ending, count in self.others.most_common(8)]
        more = f" and {len(self.others) - 8} other endings" if len(self.others) > 8 else ""
        total = self.others.total()
        files = "1 file that is not a picture" if total == 1 else f"{total:,} files that are not pictures"
        return f"left out {files} in a known format: {', '.join(most)}{more}"


def find_pictures(places: Sequence[str], column: str = "image") -> Found:
    """Find the pictures that a user names, each once.

    Args:
        places: Picture files; folders, searched recursively, or with tars and no pictures; tars; patterns such as
            ``photos/*.jpg`` and ``shards/*.tar``; lists (``.txt``) with one path per line; and tables
            (:func:`mblip.corpora.rows.read_rows`) with a column of paths, relative to the table's folder, or of
            pictures.
        column: Name of the tables' column.

    Raises:
        InputError: A place has no picture, or a table lacks the column.
    """
    found, seen = Found(), set[str]()
    for place in places:
        before = len(found.skipped)
        numbers = array("q")
        inside = list(_inside(place, column, found, numbers))
        if numbers:
            unit = "line" if Path(place).suffix.lower() in LISTS else "row"
            found.lists.append((len(found.pictures), Path(place), unit))
        if not inside:
            why = f"; {found.skipped[before][0]}: {found.skipped[before][1]}" if len(found.skipped) > before else ""
            raise InputError(f"{place} names no picture{why or _nothing(place, found)}")
        for picture, number in zip(inside, numbers or repeat(0), strict=False):
            if str(picture) not in seen:
                seen.add(str(picture))
                found.pictures.append(picture)
                found.numbers.append(number)
    return found


def _inside(place: str, column: str, found: Found, numbers: array[int]) -> Iterator[Place]:
    path = Path(place)
    if is_encoded(place):
        raise InputError(f"{quoted(place)} cannot be captioned: {NOT_READ}")
    if is_address(place) and not path.exists():
        raise InputError(f"{quoted(place)} cannot be captioned: {NO_ADDRESSES}")
    if path.is_dir():
        walked = walk_pictures(path)
        found.skipped += walked.refused
        tars = [] if walked.pictures else [tar for tar in sorted(path.glob("*.tar")) if not is_junk(tar.name)]
        found.others += walked.others - Counter({TAR: len(tars)})
        yield from walked.pictures
        for tar in tars:
            yield from _of_tar(tar, found)
    elif path.suffix.lower() == TAR and path.exists():
        yield from _of_tar(path, found)
    elif path.suffix.lower() in TABLES:
        yield from _of_table(path, column, found, numbers)
    elif path.suffix.lower() in LISTS and path.exists():
        with reading_text(path), path.open(encoding="utf-8-sig") as file:
            lines = ((number, line.strip()) for number, line in enumerate(file, start=1))
            yield from _paths(((number, line) for number, line in lines if line), path, "line", found, numbers)
    elif path.suffix.lower() in SHEETS and path.exists():
        read_rows(path)  # raises the error that says how to save it
    elif path.suffix.lower() in PACKED and path.exists():
        raise InputError(f"{path} is compressed: unpack it, and name the folder or table that comes out")
    elif path.exists():
        yield str(path)  # ./a.jpg and a.jpg are the same
    elif glob.has_magic(place):
        for match in map(Path, sorted(glob.glob(place, recursive=True))):  # noqa: PTH207
            if is_picture(match.name) and match.is_file():
                yield str(match)
            elif match.suffix.lower() == TAR and match.is_file() and not is_junk(match.name):
                yield from _of_tar(match, found)
            elif match.is_file() and not is_junk(match.name):
                found.others[match.suffix.lower() or match.name] += 1
    else:
        hint = f"; write {quoted(place.replace(chr(92), '/'))}" if chr(92) in place else ""
        raise InputError(f"there is no picture, folder or table {quoted(place)}{hint}")


def _of_tar(path: Path, found: Found) -> Iterator[Place]:
    """Yield the pictures of a tar, up to any damage. The last of several members with the same name counts."""
    members: dict[str, Member] = {}
    try:
        for number, member in enumerate(walk_tar(path), start=1):
            if member.name in members:
                found.skipped.append(
                    (
                        f"{path}, picture {number}",
                        f"it replaces an earlier picture of the same name, {member.name!r}",
                    )
                )
            members[member.name] = member
    except InputError as error:
        found.skipped.append((str(path), str(error)))
    yield from members.values()


def _nothing(place: str, found: Found) -> str:
    if Path(place).is_dir() or glob.has_magic(place):
        left_out = f"; {found.left_out()}" if found.others else ""
        return f" ({', '.join(EXTENSIONS)}){left_out}"
    return ": it has no row"


def _of_table(path: Path, column: str, found: Found, numbers: array[int]) -> Iterator[str | Cell]:
    wanted = None
    if path.suffix.lower() == ".parquet":
        pictures = picture_columns(path)
        if column in pictures:
            yield from (Cell(str(path), column, row) for row in range(len(PictureCells(path, column))))
            return
        if column == "image" and pictures and column not in _columns(path):
            raise InputError(
                f"{path} has no column 'image', but pictures in {', '.join(pictures)}: name one with --column"
            )
        wanted = [column]
    yield from _paths(_values(path, column, wanted), path, "row", found, numbers)


def _columns(path: Path) -> list[str]:
    import pyarrow.parquet as pq

    return list(pq.read_schema(path).names)


def _values(path: Path, column: str, wanted: list[str] | None) -> Iterator[tuple[int, Any]]:
    known = _columns(path) if wanted else None
    for number, row in enumerate(read_rows(path, wanted), start=1):
        if not isinstance(row, dict):
            yield number, row
        elif column in row:
            value = row[column]
            value = value.get("path") if isinstance(value, dict) else value
            yield from ((number, each) for each in value) if isinstance(value, list) and value else ((number, value),)
        elif number == 1:
            names = known or list(map(str, row))
            raise InputError(f"{path}, row 1 has no column {column!r}{nearest(column, names)}; name it with --column")
        else:
            yield number, BadRow(f"it has no column {column!r}")


def _paths(
    values: Iterator[tuple[int, Any]], path: Path, unit: str, found: Found, numbers: array[int]
) -> Iterator[str]:
    """Yield the paths among values, which are relative to the file they are in, and note their numbers; skip the rest."""
    for number, value in values:
        reason = ""
        if isinstance(value, BadRow):
            reason = str(value)
        elif not isinstance(value, str) or not value.strip():
            reason = f"this should be the path of a picture, not {quoted(value)}"
        elif is_encoded(value):
            reason = NOT_READ
        elif is_address(value):
            reason = f"{quoted(value)}: {NO_ADDRESSES}"
        if reason:
            found.skipped.append((f"{path}, {unit} {number}", reason))
        else:
            numbers.append(number)
            yield str(path.parent / value.strip())
