"""Pick records of a folder for display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mblip.errors import InputError, nearest
from mblip.schema import Example, Instruction
from mblip.storage import Manifest, ShardReader, language_of

Counts = dict[str, dict[str, dict[str, int]]]


def pick_records(
    folder: Path, manifest: Manifest, count: int, languages: Sequence[str] = (), task: str = ""
) -> list[Example] | list[Instruction]:
    """The first records of a folder, optionally of some languages or one task.

    Raises:
        InputError: The folder has no record of one of the languages or of the task.
    """
    wanted = [("language", code, manifest.by_language) for code in languages] + [("task", task, manifest.by_task)]
    for what, name, held in wanted:
        if name and name not in held:
            raise InputError(f"{folder} has no record with the {what} {name!r}{nearest(name, held)}")
    kind: type[Example] | type[Instruction] = Example if manifest.kind == "Example" else Instruction
    found: list[Example | Instruction] = []
    for record in ShardReader(folder, kind):
        if len(found) == count:
            break
        if task in ("", record.task) and (not languages or _language(record) in languages):
            found.append(record)
    return found  # type: ignore[return-value]


def count_only(counts: Counts, languages: Sequence[str] = (), task: str = "") -> Counts:
    """The counts by source, task and language, filtered by languages and task if these are given."""
    found: Counts = {}
    for source, tasks in counts.items():
        for name, by_language in tasks.items():
            kept = {code: count for code, count in by_language.items() if not languages or code in languages}
            if kept and task in ("", name):
                found.setdefault(source, {})[name] = kept
    return found


def _language(record: Example | Instruction) -> str:
    if isinstance(record, Example):
        return language_of(record.languages.values())
    return language_of([record.answer_language, record.prompt_language])
