"""``manifest.json``: content and origin of a folder of shards, and the records that were left out, with reasons."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from mblip.errors import InputError, cannot_read
from mblip.more_languages import add_languages, carried
from mblip.schema import Drop, Example, Instruction
from mblip.storage.files import sha256_file, write_json
from mblip.storage.jsonl import parse_record, read_records
from mblip.storage.shards import ShardReader, count_rows

MANIFEST = "manifest.json"
EXCLUSIONS = "exclusions.jsonl"
_KINDS: dict[str, type[Example] | type[Instruction]] = {"Example": Example, "Instruction": Instruction}


@dataclasses.dataclass(slots=True)
class Manifest:
    """The contents of a folder of shards.

    Attributes:
        kind: ``Example`` or ``Instruction``.
        rows: Records in all shards.
        counts: Records by source, task and language (see :func:`language_of`), in this nesting.
        drops: Excluded records by reason.
        seed: Seed of the steps before.
        recipe_hash: SHA-256 of the resolved recipe.
        licences: Licence by source.
        versions: Versions of this package, Python and the libraries that affect the bytes.
        shards: SHA-256 by file name.
        prompts: For instructions, their prompts in all languages by task, with fields; empty if unknown.
        evaluation_prompts_seen: Prompts among them that benchmarks use; these benchmarks are not zero-shot for a model
            of this mix.
        more_languages: Languages that a recipe has added to the table, so that readers of the folder know them.
    """

    kind: str
    rows: int
    counts: dict[str, Any]
    drops: dict[str, int]
    seed: int
    recipe_hash: str
    licences: dict[str, str]
    versions: dict[str, str]
    shards: dict[str, str]
    prompts: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    evaluation_prompts_seen: list[str] = dataclasses.field(default_factory=list)
    more_languages: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def by_source(self) -> dict[str, int]:
        """Records by source."""
        return self._total(0)

    @property
    def by_task(self) -> dict[str, int]:
        """Records by task."""
        return self._total(1)

    @property
    def by_language(self) -> dict[str, int]:
        """Records by language."""
        return self._total(2)

    def _total(self, level: int) -> dict[str, int]:
        total: Counter[str] = Counter()
        for key, count in _flatten(self.counts):
            total[key[level]] += count
        return dict(sorted(total.items()))


def language_of(languages: Iterable[str]) -> str:
    """The language under which a record is counted: the first of its languages that is not English, else English.

    A translated question with an English answer, or an English prompt for a Swahili caption, was allocated to the other
    language, and the counts must equal the allocation.
    """
    return next((language for language in languages if language != "en"), "en")


def write_manifest(
    folder: str | Path,
    kind: type[Example] | type[Instruction],
    *,
    seed: int,
    recipe_hash: str,
    licences: Mapping[str, str],
    prompts: Mapping[str, list[str]] | None = None,
    evaluation_prompts_seen: Iterable[str] = (),
    packages: Mapping[str, str] | None = None,
) -> Manifest:
    """Count the records in a folder's shards and exclusion files, and write ``manifest.json``.

    Call it last: a folder without a manifest is unfinished. Counting from the files gives the same manifest for any
    number of writers.

    Args:
        folder: The folder.
        kind: Type of its records.
        seed: Seed of the recipe.
        recipe_hash: Hash of the recipe.
        licences: Licence by source.
        prompts: Prompts of its instructions, by task.
        evaluation_prompts_seen: Prompts among them that the evaluation uses.
        packages: Versions of other packages that affect the bytes.

    Raises:
        InputError: There are no shards, one is damaged, or a source has no licence.
    """
    reader: ShardReader[Any] = ShardReader(folder, kind)
    counts = _count(reader)
    for source in counts:
        if source not in licences:
            raise InputError(
                f"{folder} has records of {source!r}, but the source has no licence; set it in the options"
            )
    manifest = Manifest(
        kind=kind.__name__,
        rows=len(reader),
        counts=counts,
        drops=dict(sorted(Counter(drop.reason for drop in read_drops(folder)).items())),
        seed=seed,
        recipe_hash=recipe_hash,
        licences={source: licences[source] for source in counts},
        versions=_versions() | dict(packages or {}),
        shards={path.name: sha256_file(path) for path in reader.paths},
        prompts=dict(prompts or {}),
        evaluation_prompts_seen=list(evaluation_prompts_seen),
    )
    manifest.more_languages = carried(manifest.by_language)
    totals = {"by_source": manifest.by_source, "by_task": manifest.by_task, "by_language": manifest.by_language}
    write_json(Path(folder) / MANIFEST, dataclasses.asdict(manifest) | totals)
    return manifest


def read_manifest(folder: str | Path) -> Manifest:
    """Read ``manifest.json`` and check its totals against the shards and exclusion files beside it.

    The check reads the footers of the shards, not their rows; :func:`check_shards` compares every byte.

    Raises:
        InputError: There is no folder or no manifest (the folder is unfinished), or the manifest is damaged or does not
            fit the files.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        if not Path(folder).exists():
            raise InputError(
                f"there is no folder {folder}; mblip data sample makes folders of examples, mblip data mix makes a mix"
            )
        raise InputError(
            f"{folder} has no {MANIFEST}: it is not a folder of examples or a mix, or it is unfinished; run the "
            "command that makes it again"
        )
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise cannot_read(path, error) from error
    except ValueError as error:
        raise InputError(f"{path} cannot be read: {error}; run the command that makes the folder again") from error
    if not isinstance(row, dict):
        raise InputError(f"{path} does not hold a JSON object")
    totals = {name: row.pop(name, None) for name in ("by_source", "by_task", "by_language")}
    manifest = parse_record(Manifest, row, str(path))
    add_languages(manifest.more_languages, str(path))
    present = {file.name for file in Path(folder).glob("*.parquet")}
    for name in sorted(present ^ manifest.shards.keys()):
        raise InputError(
            f"{path} lists other shards than the folder holds: {name} is only in one of them; "
            "restore or remove that file, or make the folder again"
        )
    _check(path, "rows in the shards", sum(count_rows(Path(folder) / name) for name in manifest.shards), manifest.rows)
    _check(path, "rows by source, task and language", sum(n for _, n in _flatten(manifest.counts)), manifest.rows)
    for name, total in totals.items():
        if total != getattr(manifest, name):
            raise InputError(f"{path}: {name!r} does not follow from 'counts'; write the manifest again")
    drops = sum(_lines(file) for file in _exclusion_files(folder))
    _check(path, "records in the exclusion files", drops, sum(manifest.drops.values()))
    return manifest


def check_shards(folder: str | Path) -> Manifest:
    """Read the manifest and compare every byte of the shards with it.

    Raises:
        InputError: As in :func:`read_manifest`, or a shard has changed; the message names it.
    """
    manifest = read_manifest(folder)
    for name, digest in manifest.shards.items():
        if sha256_file(Path(folder) / name) != digest:
            raise InputError(f"{Path(folder) / name} has changed since its manifest was written; write it again")
    return manifest


def read_drops(folder: str | Path) -> Iterator[Drop]:
    """The dropped records: every :class:`Drop` of ``exclusions.jsonl`` and ``exclusions-*.jsonl`` in a folder."""
    for path in _exclusion_files(folder):
        yield from read_records(path, Drop)


def _exclusion_files(folder: str | Path) -> list[Path]:
    return sorted(Path(folder).glob("exclusions*.jsonl"))


def _count(reader: ShardReader[Any]) -> dict[str, Any]:
    counter: Counter[tuple[str, str, str]] = Counter()
    if reader.kind is Instruction:
        for sources, tasks, answers, prompts in reader.columns("source", "task", "answer_language", "prompt_language"):
            languages = [language_of(pair) for pair in zip(answers, prompts, strict=True)]
            counter.update(zip(sources, tasks, languages, strict=True))
    else:
        for sources, tasks, roles in reader.columns("source", "task", "languages"):
            languages = [language_of(role.values()) for role in roles]
            counter.update(zip(sources, tasks, languages, strict=True))
    counts: dict[str, Any] = {}
    for (source, task, language), number in sorted(counter.items()):
        counts.setdefault(source, {}).setdefault(task, {})[language] = number
    return counts


def _flatten(counts: dict[str, Any]) -> Iterator[tuple[tuple[str, str, str], int]]:
    for source, tasks in counts.items():
        for task, languages in tasks.items():
            for language, number in languages.items():
                yield (source, task, language), number


def _versions() -> dict[str, str]:
    # From metadata, because importing the package's root would make storage depend on the models.
    return {name: metadata.version(name) for name in ("mblip", "numpy", "pyarrow")} | {
        "python": platform.python_version()
    }


def _lines(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return sum(1 for line in file if line.strip())
    except OSError as error:
        raise cannot_read(path, error) from error


def _check(path: Path, what: str, found: int, stated: int) -> None:
    if found != stated:
        raise InputError(f"{path} states {stated} {what}, but there are {found}; run the step that wrote it again")
