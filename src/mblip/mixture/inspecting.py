"""Picking records of a folder to look at."""

from __future__ import annotations

from pathlib import Path

from mblip.errors import InputError, nearest
from mblip.schema import Example, Instruction
from mblip.storage import Manifest, ShardReader, language_of


def pick_records(
    folder: Path, manifest: Manifest, count: int, language: str = "", task: str = ""
) -> list[Example] | list[Instruction]:
    """The first records of a folder, of one language or task where they are named.

    Raises:
        InputError: The folder holds no record of that language or task.
    """
    for what, wanted, held in (("language", language, manifest.by_language), ("task", task, manifest.by_task)):
        if wanted and wanted not in held:
            raise InputError(f"{folder} holds no record of the {what} {wanted!r}{nearest(wanted, held)}")
    kind: type[Example] | type[Instruction] = Example if manifest.kind == "Example" else Instruction
    found: list[Example | Instruction] = []
    for record in ShardReader(folder, kind):
        if len(found) == count:
            break
        if task in ("", record.task) and language in ("", _language(record)):
            found.append(record)
    return found  # type: ignore[return-value]


def _language(record: Example | Instruction) -> str:
    if isinstance(record, Example):
        return language_of(record.languages.values())
    return language_of([record.answer_language, record.prompt_language])
