"""Load tasks: the items of each benchmark in each language, after a check that their pictures exist."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from mblip.errors import InputError, quoted
from mblip.evaluation.benchmark import Benchmark, Item, list_annotations
from mblip.evaluation.json_files import files_kept
from mblip.evaluation.pictures import PictureSources, find_pictures
from mblip.evaluation.prompts import load_prompts
from mblip.evaluation.scoring import read_items
from mblip.evaluation.sets import choose_sets
from mblip.languages import find_language
from mblip.storage import fault_of_key

if TYPE_CHECKING:
    from mblip.models.generation import Request


@dataclass(frozen=True, slots=True)
class Task:
    """One benchmark in one language.

    Attributes:
        benchmark: The benchmark.
        language: mC4 code.
        path: The annotation file.
        chosen_by: The file that chooses the items; None if all are asked.
        items: The items to ask.
        items_in_data: Number of items in the annotations.
        without_image: Number of items that are not asked because a picture is missing.
        prompt: The prompt, complete except for ``{text}``.
        pictures: The store of its pictures.
    """

    benchmark: Benchmark
    language: str
    path: Path
    items: list[Item]
    items_in_data: int
    without_image: int
    prompt: str
    pictures: PictureSources
    chosen_by: Path | None = None

    @property
    def name(self) -> str:
        """A readable name."""
        return f"{self.benchmark.name} ({self.language})"

    def ask(self, item: Item) -> Request:
        """The request for an item, with the benchmark's own names of item and images."""
        from mblip.models.generation import Request  # takes seconds, so missing files are reported first

        return Request(item.id, item.images, self.prompt.format(text=item.asked or item.text))


def load_tasks(
    benchmarks: Sequence[Benchmark],
    root: Path,
    languages: Sequence[str] = (),
    prompts: str = "paper",
    images: Sequence[str] = (),
    limit: int | None = None,
    allow_missing: bool = False,
    pictures: bool = True,
    sets: str = "official",
    as_stored: bool = False,
) -> list[Task]:
    """Read the benchmarks and check that nothing is missing, before a model is asked.

    Args:
        benchmarks: The benchmarks.
        root: Folder of annotations and images.
        languages: Only these, by any code or name; empty for all of each benchmark.
        prompts: See :func:`~mblip.evaluation.prompts.load_prompts`.
        images: Image stores to search before the benchmarks' own folders.
        limit: Number of images to use of each benchmark and language: the first ones, of each of its tasks in turn.
        allow_missing: Leave out and count items without a picture, instead of refusing.
        pictures: Whether pictures and the texts of questions are needed; existing answers do not need them.
        sets: See :func:`~mblip.evaluation.sets.choose_sets`.
        as_stored: Read pictures as the original does (:func:`~mblip.storage.decode_image`).

    Raises:
        InputError: Annotations or pictures are missing, or no benchmark is in the languages.
    """
    benchmarks = choose_sets(benchmarks, sets)
    wanted = [find_language(language).code for language in languages]
    chosen = [(b, code) for b in benchmarks for code in b.languages if not wanted or code in wanted]
    if not chosen:
        raise InputError(f"{', '.join(b.name for b in benchmarks)}: no benchmark is in {', '.join(languages)}")
    templates = load_prompts(prompts, list(benchmarks))
    opened: dict[tuple[str, ...], PictureSources] = {}
    listing = list_annotations(root)
    tasks = []
    paths = _find(chosen, root, listing)
    with files_kept():
        read = [
            read_items(benchmark, path, code, other)
            for (benchmark, code), (path, other) in zip(chosen, paths, strict=True)
        ]
    for (benchmark, code), (path, other), every in zip(chosen, paths, read, strict=True):
        prompt, items = templates[benchmark.name, code], _limited(every, limit, benchmark.kind)
        if not pictures:
            tasks.append(Task(benchmark, code, path, items, len(every), 0, prompt, PictureSources(()), other))
            continue
        if any(not item.text for item in every) and "{text}" in benchmark.prompt:
            raise InputError(f"{path} has answers without questions; put the file of questions beside it")
        store = find_pictures(benchmark.images, root, images, as_stored, benchmark.own_pictures)
        store = opened.setdefault(store.places, store)
        missing = set(store.missing(key for item in items for key in item.images))
        asked = [item for item in items if missing.isdisjoint(item.images)]
        if missing and not (allow_missing and asked):
            raise InputError(_complaint(benchmark, code, path, items, missing, store, root))
        tasks.append(Task(benchmark, code, path, asked, len(every), len(items) - len(asked), prompt, store, other))
    return tasks


def _find(
    chosen: Sequence[tuple[Benchmark, str]], root: Path, listing: Sequence[Path]
) -> list[tuple[Path, Path | None]]:
    """The annotations of each benchmark and language, and files that choose items; reports all missing ones at once."""
    paths: list[tuple[Path, Path | None]] = []
    first = ""
    lacking: dict[str, list[str]] = {}
    for benchmark, code in chosen:
        try:
            paths.append((benchmark.find(root, code, listing), benchmark.find_choice(root, listing)))
        except InputError as error:
            if first:
                lacking.setdefault(benchmark.name, []).append(code)
            first = first or f"{error} ({benchmark.source})"
    if lacking:
        more = ", ".join(f"{name} ({' '.join(codes)})" for name, codes in lacking.items())
        first += f"; also missing: {more}; choose others with --suite and --languages, or see mblip doctor {root}"
    if first:
        raise InputError(first)
    return paths


def _limited(items: list[Item], limit: int | None, kind: Callable[[Item], str]) -> list[Item]:
    """The items of the first ``limit`` images, of each kind of item in turn."""
    if limit is None:
        return items
    by_kind: dict[str, dict[tuple[str, ...], None]] = {}
    for item in items:
        by_kind.setdefault(kind(item), {})[item.images] = None
    turns = (images for turn in zip_longest(*by_kind.values()) for images in turn if images is not None)
    chosen = set(islice(dict.fromkeys(turns), limit))
    return [item for item in items if item.images in chosen]


def _complaint(
    benchmark: Benchmark,
    code: str,
    path: Path,
    items: Sequence[Item],
    missing: Iterable[str],
    pictures: PictureSources,
    root: Path,
) -> str:
    lost = sorted(missing)
    keys = {key for item in items for key in item.images}
    named = next(item.place_in(path) for item in items if lost[0] in item.images)
    looked = ", ".join(pictures.places) or f"none of {', '.join(benchmark.images)} below {root}"
    fault = fault_of_key(lost[0])
    return (
        f"{benchmark.name} ({code}) lacks {len(lost)} of its {len(keys)} images, such as {quoted(lost[0])} (named by {named}; "
        f"looked in {looked}{fault and '; '}{fault}); "
        f"name their folder with --images, or leave their items out with --allow-missing ({benchmark.source})"
    )
