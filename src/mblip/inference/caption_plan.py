"""Plans for captioning very many pictures in tasks, each of which has a fixed range of the pictures.

One folder holds everything: ``plan.json`` and ``pictures.jsonl`` say what is captioned and how. Each task has a file
``captions-NNNNN-of-NNNNN.jsonl`` that grows row by row, and a file ``.done`` beside it, written last, when it is
finished.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from mblip.errors import InputError, check_readable, counted
from mblip.inference import finding
from mblip.inference.caption_file import ENDINGS, CaptionFile, SkippedList
from mblip.inference.finding import Cell, Found
from mblip.more_languages import VARIABLE
from mblip.storage import JsonlWriter, exclusive_lock, no_empty_folders, read_jsonl, write_json
from mblip.storage.tars import Member

_KINDS: dict[str, type[Cell | Member]] = {"cell": Cell, "member": Member}


@dataclass(frozen=True)
class Plan:
    """The pictures to caption, and the settings.

    Attributes:
        folder: Folder of the tasks' files.
        model: Name of the model in rows.
        languages: mC4 codes.
        sources: The names that the user gave, as absolute paths.
        tasks: Number of tasks.
        generation: Options of ``generate``.
        quantization: Quantisation of the language model.
        pictures: Number of pictures.
        digest: SHA-256 of their names.
        here: Folder that relative paths start from.
        batch_size: Number of captions generated together; plans that differ only here are equal.
        more_languages: File of languages beyond the 96 that was in use; empty if there was none.
    """

    folder: Path
    model: str
    languages: tuple[str, ...]
    sources: tuple[str, ...]
    tasks: int
    generation: dict[str, Any]
    quantization: str
    pictures: int
    digest: str
    here: str
    batch_size: int
    more_languages: str = ""

    @property
    def shards(self) -> list[Shard]:
        """The tasks, in the order of their pictures."""
        return [Shard(self.folder, number, self.tasks) for number in range(self.tasks)]

    def bounds(self, number: int) -> tuple[int, int]:
        """First picture of a task, and the one after its last picture."""
        return self.pictures * number // self.tasks, self.pictures * (number + 1) // self.tasks


@dataclass(frozen=True)
class Shard:
    """One task: a range of the pictures, and its files."""

    folder: Path
    number: int
    tasks: int

    @property
    def rows(self) -> Path:
        """The file of its captions."""
        return self.folder / f"captions-{self.number:05d}-of-{self.tasks:05d}.jsonl"

    @property
    def mark(self) -> Path:
        """The file that marks it as finished."""
        return self.rows.with_suffix(".done")

    @property
    def skipped(self) -> Path:
        """The list of its pictures that could not be read; missing if there are none."""
        return self.rows.with_name(self.rows.name + ".skipped.jsonl")


@dataclass(frozen=True)
class Wanted:
    """A picture of a plan, and the languages in which it has captions already."""

    picture: finding.Place
    done: tuple[str, ...] = ()


class Output:
    """The destination of several tasks' captions: one file in the end, or a folder with the tasks' files.

    Args:
        to: A file with one of :data:`~mblip.inference.caption_file.ENDINGS`, or a folder.
        encoding: Encoding of a CSV file.

    Attributes:
        encoding: Encoding of a CSV file.
        folder: The plan's folder: ``to`` itself, or ``FILE.tasks`` beside the file, which is removed in the end.

    Raises:
        InputError: The file has another ending, or the folder has other content.
    """

    def __init__(self, to: Path, encoding: str = "utf-8") -> None:
        to = to.resolve() if to.is_symlink() else to  # so that replacing the file keeps the link
        self.to, self.encoding = to, encoding
        self.is_file = not to.is_dir() and bool(to.suffix)
        if self.is_file and to.suffix.lower() not in ENDINGS:
            raise InputError(f"--to {to}: the ending must be one of {', '.join(ENDINGS)}, or name a folder")
        if not self.is_file and encoding != "utf-8":
            raise InputError(f"--encoding {encoding} is for a .csv file; the files in a folder are JSON lines in UTF-8")
        self.folder = (to.with_name(to.name + ".tasks") if self.is_file else to).absolute()
        if not self.has_plan and self.folder.is_dir() and any(_strange(file.name) for file in self.folder.iterdir()):
            raise InputError(f"{self.folder} holds other files: name a new folder with --to")

    @property
    def has_plan(self) -> bool:
        """Whether a plan exists."""
        return (self.folder / "plan.json").is_file()

    @property
    def skipped(self) -> Path:
        """The list of the pictures without captions."""
        return SkippedList(self.skipped_of).path

    @property
    def skipped_of(self) -> Path:
        """The path beside which the list of skipped pictures is."""
        return self.to if self.is_file else self.to / "captions"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock the output against other commands; after a failure that has kept nothing, what was created is removed.

        Raises:
            InputError: Another command writes there.
        """
        with no_empty_folders(self.folder):
            if not self.is_file:
                self.folder.mkdir(parents=True, exist_ok=True)
            with exclusive_lock(self.to if self.is_file else self.folder, "writing captions"):
                yield


def make_plan(
    output: Output, found: Found, *, model: str, languages: Sequence[str], sources: Sequence[str], tasks: int, resume: bool,
    generation: dict[str, Any], quantization: str, batch_size: int, encoding: str = "utf-8",
) -> tuple[Plan, bool]:  # fmt: skip
    """Read the plan of a folder, if it belongs to this command, or make a new one.

    Args:
        output: Destination of the captions.
        found: The pictures.
        model: Name of the model in rows.
        languages: mC4 codes.
        sources: The names that the user gave.
        tasks: Number of tasks; at most as many are made as there are pictures.
        resume: Add missing captions to an existing file.
        generation: Options of ``generate``.
        quantization: Quantisation of the language model.
        batch_size: Number of captions generated together.
        encoding: Encoding of a CSV file.

    Returns:
        The plan, and whether its pictures are those found now.

    Raises:
        InputError: The existing plan belongs to another command, or the file exists and ``resume`` is false.
    """
    digest = hashlib.sha256("\0".join(map(str, found.pictures)).encode("utf-8", "surrogatepass")).hexdigest()
    more = os.environ.get(VARIABLE)
    plan = Plan(
        output.folder, model, tuple(languages), tuple(str(Path(source).absolute()) for source in sources), tasks, generation,
        quantization, len(found.pictures), digest, str(Path.cwd()), batch_size,
        str(Path(more).absolute()) if more else "",
    )  # fmt: skip
    if output.has_plan and (any(output.folder.glob("captions-*")) or (output.folder / "logs").exists()):
        return _same_plan(plan)
    done: Any = ()
    if output.is_file:
        file = CaptionFile(output.to, model, resume, encoding)
        done = file.done
        (file.finish if len(done) else file.close)()
    output.folder.mkdir(parents=True, exist_ok=True)
    count = 0
    with JsonlWriter(output.folder / "pictures.jsonl") as pictures:
        for picture in found.pictures:
            there = [code for code in languages if (str(picture), code) in done]
            if len(there) < len(languages):
                pictures.write({"picture": _plain(picture), **({"done": there} if there else {})})
                count += 1
    with JsonlWriter(output.folder / "skipped.jsonl") as skipped:
        for name, reason in found.skipped:
            skipped.write({"image": name, "reason": reason})
    plan = Plan(**{**_fields(plan), "pictures": count, "tasks": max(1, min(tasks, count)), "folder": plan.folder})
    write_json(output.folder / "plan.json", {**_fields(plan), "folder": "", "asked": tasks})
    return plan, True


def read_plan(folder: Path) -> Plan:
    """The plan of a folder.

    Raises:
        InputError: There is no plan, or it is damaged.
    """
    return _read(folder)[0]


def planned_skipped(folder: Path) -> list[tuple[str, str]]:
    """Pictures and folders that were unusable when the tasks were planned: name and reason."""
    return [(row["image"], row["reason"]) for row in read_jsonl(folder / "skipped.jsonl")]


def pictures_of(plan: Plan, shard: Shard) -> Iterator[Wanted]:
    """The pictures of a task, in order."""
    start, stop = plan.bounds(shard.number)
    with (plan.folder / "pictures.jsonl").open("rb") as file:
        for line in islice(file, start, stop):
            row = json.loads(line)
            picture = row["picture"]
            place = picture if isinstance(picture, str) else _KINDS[picture[0]](*picture[1:])
            yield Wanted(place, tuple(row.get("done", ())))


def _plain(picture: finding.Place) -> str | list[Any]:
    if isinstance(picture, str):
        return picture
    return [next(kind for kind, made in _KINDS.items() if isinstance(picture, made)), *picture]


def _fields(plan: Plan) -> dict[str, Any]:
    return {**asdict(plan), "folder": str(plan.folder)}


def _read(folder: Path) -> tuple[Plan, int]:
    """The plan of a folder, and the number of tasks that was requested."""
    path = folder / "plan.json"
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        asked = read.pop("asked")
        read |= {"folder": folder, "languages": tuple(read["languages"]), "sources": tuple(read["sources"])}
        return Plan(**read), asked
    except (OSError, ValueError, TypeError, KeyError) as error:
        check_readable(path)
        raise InputError(f"{path} cannot be read ({error}); delete {folder} and run the same command again") from error


_SAME = ("model", "languages", "sources", "generation", "quantization")
_WORDS = {"sources": "pictures", "generation": "--beams or --max-tokens"}


def _same_plan(plan: Plan) -> tuple[Plan, bool]:
    there, asked = _read(plan.folder)
    for field in _SAME:
        before, now = getattr(there, field), getattr(plan, field)
        if before != now:
            raise InputError(
                f"{plan.folder} holds captions of a command with different {_WORDS.get(field, field)} ({before}, not "
                f"{now}): run that command, delete the folder, or name another place with --to"
            )
    if asked != plan.tasks:
        raise InputError(
            f"{plan.folder} was split into {counted(asked, 'task')}: give the same --tasks {asked}, or delete the folder"
        )
    return there, there.digest == plan.digest


def _strange(name: str) -> bool:
    """Whether a file cannot come from a planning that was killed."""
    return not (name.lstrip(".").startswith(("pictures.jsonl", "skipped.jsonl", "plan.json")) or name.endswith(".lock"))
