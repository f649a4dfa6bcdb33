"""Find the data sets and raw files that a recipe, a suite or a name needs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from mblip import plugins
from mblip.catalogue.entries import DataSet, SetFile
from mblip.config import (
    DataRecipe,
    EvalRecipe,
    TrainRecipe,
    find_recipe,
    load_recipe,
    load_train_recipe,
    shipped_recipes,
)
from mblip.errors import InputError, nearest
from mblip.eval_recipe import matching_files
from mblip.settings import Recipe, parse_yaml
from mblip.storage import has_content, image_scheme

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w.-]+)?")
# Options of text that may have a slash or a dot and yet are no path.
_NO_PATHS = ("image_key", "coco_key", "licence", "language", "language_column", "source_language")
# Options for files that a recipe makes itself.
_MADE = {"matching": ("captions", "neighbours")}


@dataclass(frozen=True)
class ByHand:
    """A file of a recipe or suite that no catalogue has.

    Attributes:
        paths: The places where it may lie, or patterns of its parts.
        what: Its use.
        source: Instructions for getting it; empty if there are none.
        below: Whether the paths are below the data folder, as a suite's are, and not a recipe's own.
    """

    paths: tuple[str, ...]
    what: str
    source: str = ""
    below: bool = True

    def places(self, folder: Path) -> list[Path]:
        """The places where it may lie, for a data folder."""
        return [folder / path if self.below else Path(path) for path in self.paths]

    def is_there(self, folder: Path) -> bool:
        """Whether it is at one of its places: a file, a folder that holds something, or a tar of the folder's name."""
        return any(
            matching_files(place) or has_content(place) or place.with_name(f"{place.name}.tar").is_file()
            for place in self.places(folder)
        )


@dataclass
class Wanted:
    """The data sets and files behind some names.

    Attributes:
        sets: Data sets, each once, followed by those that they need.
        paths: Raw files and folders that recipes read, by source.
        by_hand: Files that are in no catalogue, so that the user must get them.
        engines: Folders of converted translation models, with the name of the data set that each is made from, or
            empty.
        next: Commands to run after the download.
    """

    sets: list[DataSet] = field(default_factory=list)
    paths: dict[str, str] = field(default_factory=dict)
    by_hand: list[ByHand] = field(default_factory=list)
    engines: dict[str, str] = field(default_factory=dict)
    next: list[str] = field(default_factory=list)


def find_wanted(names: Sequence[str | Recipe], catalogue: Mapping[str, DataSet]) -> Wanted:
    """Find the data sets of names: of the catalogue, recipes, suites, benchmarks, or checkpoints of the Hub as ORG/NAME.

    A recipe may be given instead of its name.

    Raises:
        InputError: A name is unknown; the message gives the nearest.
    """
    wanted = Wanted()
    for name in names:
        if isinstance(name, str) and name in catalogue:
            _add(wanted, catalogue, [name])
            continue
        recipe = open_recipe(name) if isinstance(name, str) else name
        if isinstance(recipe, EvalRecipe):
            for benchmark in recipe.benchmarks:
                _add(wanted, catalogue, sets_of_benchmark(benchmark, catalogue, recipe.title))
            _add_tables(wanted, catalogue, recipe)
        elif isinstance(recipe, DataRecipe):
            _add_sources(wanted, catalogue, recipe)
        elif isinstance(recipe, TrainRecipe):
            _add_training(wanted, catalogue, recipe)
        elif isinstance(name, str) and recipe is None and (found := sets_of_benchmark(name, catalogue)):
            _add(wanted, catalogue, found)
        elif isinstance(name, str) and recipe is None and _HUB_ID.fullmatch(name) and not Path(name).exists():
            _add_checkpoint(wanted, catalogue, name)
        elif isinstance(name, str) and recipe is None and not _is_made(name):
            known = [*catalogue, *(short for short in shipped_recipes() if "/" not in short)]
            raise InputError(f"nothing in the catalogue is called {name!r}{nearest(name, known)}")
    return wanted


def open_recipe(name: str, overrides: tuple[str, ...] = ()) -> Recipe | None:
    """A recipe of any kind, by path or by the name of a shipped one; None if there is none.

    Raises:
        InputError: The recipe is invalid.
    """
    if not Path(name).is_file() and name.removesuffix(".yaml") not in shipped_recipes():
        if name.endswith((".yaml", ".yml")):
            find_recipe(name)  # its error names the nearest
        return None
    path = find_recipe(name)
    try:
        fields = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        fields = None
    fields = fields if isinstance(fields, dict) else {}
    if fields.get("kind") == "eval" or "benchmarks" in fields:
        return load_recipe(EvalRecipe, path, overrides)
    if fields.get("kind") == "data" or "sources" in fields:
        return load_recipe(DataRecipe, path, overrides)
    return load_train_recipe(path, overrides)


def sets_of_benchmark(name: str, catalogue: Mapping[str, DataSet], suite: str = "") -> list[str]:
    """The data sets that a benchmark, or a family such as ``pope``, is evaluated on.

    Raises:
        InputError: The benchmark is of a suite, and the catalogue has no data for it.
    """
    found = [
        entry.name
        for entry in catalogue.values()
        if any(b == name or b.startswith(f"{name}_") for b in entry.benchmarks)
    ]
    if not found:  # a split of a family, found by the longest name that it begins with
        families = {b: entry.name for entry in catalogue.values() for b in entry.benchmarks if name.startswith(f"{b}_")}
        found = [families[max(families, key=len)]] if families else []
    if not found and suite and not _is_made(name):
        raise InputError(
            f"the catalogue has no data for the benchmark {name!r} of {suite}; name the data sets one by one"
        )
    return found


def finds(path: str, catalogue: Mapping[str, DataSet]) -> tuple[DataSet, SetFile] | None:
    """The data set and file behind a path, found by the end of the path."""
    parts = Path(path).parts
    best: tuple[int, DataSet, SetFile] | None = None
    for entry in catalogue.values():
        for file in entry.files:
            for given in [] if file.is_checkpoint else file.gives:
                ends = Path(given).parts
                if parts[-len(ends) :] == ends and (best is None or len(ends) > best[0]):
                    best = (len(ends), entry, file)
    return best and best[1:]


def read_elsewhere(wanted: Wanted, catalogue: Mapping[str, DataSet], folder: Path) -> dict[str, Path]:
    """The raw files that recipes read at a place where they are not, with their place below the data folder."""
    found: dict[str, Path] = {}
    for path in wanted.paths:
        hit = None if Path(path).exists() else finds(path, catalogue)
        for given in hit[1].gives if hit else ():
            ends = Path(given).parts
            if Path(path).parts[-len(ends) :] == ends and (folder / given).exists():
                found[path] = folder / given
    return found


def raw_paths(recipe: DataRecipe | TrainRecipe) -> dict[str, str]:
    """The raw files and folders that a recipe's sources read, with the name of the first source that reads each."""
    own = () if isinstance(recipe, DataRecipe) else (recipe.data.source,)
    sources = [source for source in (recipe.sources if isinstance(recipe, DataRecipe) else own) if source]
    found: dict[str, str] = {}
    for source in sources:
        for name, value in source.options.items():
            made = name in _MADE.get(source.reader, ())
            if isinstance(value, str) and not made and ("/" in value or "." in value) and name not in _NO_PATHS:
                found.setdefault(value, source.name)
    return found


def check_raw_files(paths: Iterable[str | Path], recipe: str) -> None:
    """Check that raw files exist, before the first of them is read.

    Args:
        paths: Files of the unread sources.
        recipe: Their use, for the message.

    Raises:
        InputError: Some are missing; the message names all of them, and the command that downloads them.
    """
    missing = [str(path) for path in dict.fromkeys(map(str, paths)) if not Path(path).exists()]
    if not missing:
        return
    from mblip.catalogue.entries import load_catalogue

    catalogue = load_catalogue()
    found = {path: hit for path in missing if (hit := finds(path, catalogue))}
    known = list(dict.fromkeys(entry.name for entry, _ in found.values()))
    begin = f"{len(missing):,} raw files are missing: " if len(missing) > 1 else "a raw file is missing: "
    folders = {str(Path(path).parents[len(Path(give).parts) - 1])
               for path, (_, file) in found.items() for give in file.gives
               if Path(path).parts[-len(Path(give).parts):] == Path(give).parts}  # fmt: skip
    to = shlex.quote(folders.pop()) if len(folders) == 1 else "data"
    fetch = f"download them with: mblip data download {' '.join(known)} --to {to}" if known else ""
    own = [path for path in missing if path not in found]
    others = f"download or name {', '.join(own)} in the options of its source" if own else ""
    raise InputError(f"{begin}{', '.join(missing)} (of {recipe}); {'; '.join(filter(None, (fetch, others)))}")


def _add(wanted: Wanted, catalogue: Mapping[str, DataSet], names: Iterable[str]) -> None:
    """Add data sets, followed by those that they need."""
    for name in names:
        entry = catalogue[name]
        if entry not in wanted.sets:
            wanted.sets.append(entry)
            _add(wanted, catalogue, entry.needs)


def _add_sources(wanted: Wanted, catalogue: Mapping[str, DataSet], recipe: DataRecipe | TrainRecipe) -> None:
    for path, source in raw_paths(recipe).items():
        wanted.paths[path] = source
        if hit := finds(path, catalogue):
            _add(wanted, catalogue, [hit[0].name])
        else:
            wanted.by_hand.append(ByHand((path,), f"raw data of {source}", below=False))
    if isinstance(recipe, DataRecipe) and recipe.translation.engine in ("ctranslate2", "transformers"):
        model = str(recipe.translation.options.get("model", ""))
        engine = _engine_set(model, catalogue)
        if engine:
            _add(wanted, catalogue, [engine])
        if model and recipe.translation.engine == "ctranslate2":
            wanted.engines[model] = engine
            if engine and not (Path(model) / "model.bin").is_file():
                wanted.next.append(f"mblip data engine {engine} --to {shlex.quote(model)}")


def _add_tables(wanted: Wanted, catalogue: Mapping[str, DataSet], recipe: EvalRecipe) -> None:
    """Add the tables of a suite, which their publishers give, and the pictures that the catalogue has for them."""
    for table in recipe.tables:
        codes = [code for code in table.languages if not recipe.languages or code in recipe.languages]
        what = f"table of {table.name or Path(table.path).stem}"
        for place in dict.fromkeys(str(table.place(Path(), code)) for code in codes):
            wanted.by_hand.append(ByHand((place,), what, table.source))
        stores = [store for store in table.images if not image_scheme(store)]
        if hit := next(filter(None, (finds(store, catalogue) for store in stores)), None):
            _add(wanted, catalogue, [hit[0].name])
        elif stores and codes:
            wanted.by_hand.append(ByHand(tuple(stores), f"pictures of {table.name or table.path}", table.source))


def _is_made(name: str) -> bool:
    """Whether a benchmark makes its own items, so that it needs no data."""
    return name in plugins.benchmarks and bool(plugins.benchmarks[name].is_made)


def _add_training(wanted: Wanted, catalogue: Mapping[str, DataSet], recipe: TrainRecipe) -> None:
    _add_sources(wanted, catalogue, recipe)
    images = recipe.data.images
    if recipe.data.source and images and (hit := finds(images, catalogue)):
        _add(wanted, catalogue, [hit[0].name])
    for name in (recipe.model.vision, recipe.model.llm):
        if _HUB_ID.fullmatch(name) and not Path(name).exists():
            _add_checkpoint(wanted, catalogue, name)
    if recipe.data.mix and not Path(recipe.data.mix).exists():
        wanted.next.append(f"mblip data mix RECIPE --to {shlex.quote(recipe.data.mix)}")


def _add_checkpoint(wanted: Wanted, catalogue: Mapping[str, DataSet], name: str) -> None:
    for entry in catalogue.values():
        if [file.url for file in entry.files] == [f"hf://{name}"]:
            _add(wanted, catalogue, [entry.name])
            return
    entry = DataSet(
        name=name, page=f"https://huggingface.co/{name.partition('@')[0]}", files=(SetFile(url=f"hf://{name}"),)
    )
    if entry not in wanted.sets:
        wanted.sets.append(entry)


def _engine_set(model: str, catalogue: Mapping[str, DataSet]) -> str:
    """The data set of the checkpoint in a folder's name, such as ``data/nllb-200-distilled-1.3B-int8``."""
    folder = Path(model).name.lower()
    for entry in catalogue.values():
        for file in entry.files:
            if file.is_checkpoint and file.hub and file.hub.repository.rpartition("/")[2].lower() in folder:
                return entry.name
    return ""
