"""Find which benchmarks are complete below a data root, what the others lack, and where to get it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mblip.config import EvalRecipe
from mblip.errors import InputError, MblipError
from mblip.evaluation.benchmark import Benchmark, list_annotations
from mblip.evaluation.benchmarks import EVALUATED
from mblip.evaluation.json_files import files_kept
from mblip.evaluation.pictures import PictureSources, find_pictures
from mblip.evaluation.scoring import read_items
from mblip.evaluation.table import table_name
from mblip.evaluation.tables import read_tables


@dataclass(frozen=True, slots=True)
class Finding:
    """The state of one benchmark in one language.

    Attributes:
        benchmark: Name of the benchmark.
        language: mC4 code.
        annotations: The annotation file; empty if there is none.
        problem: Why the annotations cannot be used; empty if they can.
        items: Number of items in the annotations.
        images: Number of images that they need.
        missing: Number of these images that were not found.
        example: One missing image.
        named_by: The file and the row or item that names it.
        places: Folders (or tars of these names) that are searched for images; they need not exist.
        source: Address of annotations and images.
    """

    benchmark: str
    language: str
    annotations: str
    problem: str
    items: int
    images: int
    missing: int
    example: str
    named_by: str
    places: tuple[str, ...]
    source: str

    @property
    def is_complete(self) -> bool:
        """Whether it can be evaluated."""
        return not self.problem and not self.missing

    @property
    def is_broken(self) -> bool:
        """Whether its annotations are there and it cannot be evaluated all the same."""
        return bool(self.annotations) and not self.is_complete


def check_data(root: Path, names: Collection[str] = ()) -> Iterator[Finding]:
    """Check every benchmark in each of its languages.

    Args:
        root: The folder that holds the benchmarks.
        names: Only these benchmarks; none for all.

    Raises:
        InputError: There is no such folder.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; name the one that holds the benchmarks")
    listing = list_annotations(root)
    for benchmark in EVALUATED.values():
        if names and benchmark.name not in names:
            continue
        pictures = find_pictures(benchmark.images, root)
        known: dict[str, bool] = {}
        with files_kept():
            findings = [_check(benchmark, code, root, listing, pictures, known) for code in benchmark.languages]
        yield from findings


def check_made(benchmarks: Collection[Benchmark], languages: Collection[str] = ()) -> Iterator[Finding]:
    """Make the items of benchmarks that read no files, in their languages or some of these."""
    for benchmark in benchmarks:
        for code in benchmark.languages:
            if not languages or code in languages:
                found = _check(benchmark, code, Path(), [], find_pictures(benchmark.images, None), {})
                yield replace(found, annotations="")


def check_tables(recipe: EvalRecipe, root: Path) -> Iterator[Finding]:
    """Look at every table of a recipe in each of its languages, the pictures that it names too."""
    for section in recipe.tables:
        name = section.name or table_name(Path(section.path))
        for code in section.languages:
            if recipe.languages and code not in recipe.languages:
                continue
            alone = recipe.model_copy(update={"tables": (section,), "benchmarks": (), "languages": (code,)})
            try:
                (table,) = read_tables(alone, root)
            except MblipError as error:
                yield Finding(name, code, "", str(error), 0, 0, 0, "", "", (), section.source)
                continue
            yield _check(table, code, root, [], find_pictures(table.images, root, own=table.own_pictures), {})


def _check(
    benchmark: Benchmark,
    language: str,
    root: Path,
    listing: list[Path],
    pictures: PictureSources,
    known: dict[str, bool],
) -> Finding:
    path, places = "", tuple(str(root / name) for name in benchmark.images)
    try:
        found = benchmark.find(root, language, listing)
        path = str(found)
        items = read_items(benchmark, found, language)
    except MblipError as error:
        return Finding(benchmark.name, language, path, str(error), 0, 0, 0, "", "", places, benchmark.source)
    keys = list(dict.fromkeys(key for item in items for key in item.images))
    for key in keys:
        if key not in known:
            known[key] = key in pictures
    missing = [key for key in keys if not known[key]]
    named = next((item.place_in(path) for item in items if missing and missing[0] in item.images), "")
    silent = "{text}" in benchmark.prompt and any(not item.text for item in items)
    problem = f"{path} has answers without questions; put the file of questions beside it" if silent else ""
    return Finding(
        benchmark.name, language, path, problem, len(items), len(keys), len(missing), missing[0] if missing else "",
        named, places, benchmark.source,
    )  # fmt: skip
