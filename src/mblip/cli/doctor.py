"""``mblip doctor``: check a folder of benchmarks, a recipe or a model, and suggest remedies."""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mblip.errors import InputError, counted

if TYPE_CHECKING:
    from mblip.eval_recipe import EvalRecipe
    from mblip.evaluation.data_check import Finding
    from mblip.models.model_check import ModelReport


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(doctor)


def doctor(
    what: Annotated[
        str,
        typer.Argument(
            help="A folder of benchmarks, a mix, a recipe, a suite, or a model: run, checkpoint, Hub id or nano:NAME.",
            metavar="DATA_ROOT|MIX|RECIPE|SUITE|MODEL",
        ),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Fields of a recipe to change.", metavar="[FIELD=VALUE]...")
    ] = None,
    data: Annotated[Path, typer.Option(help="For a suite, the folder of its benchmarks.", file_okay=False)] = Path(
        "data"
    ),
    languages: Annotated[
        str, typer.Option(help="For a suite, only these languages, as names or codes separated by commas.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list (data) or object (model).")] = False,
) -> None:
    """List what data or a model lacks, and how to get it.

    The exit code is 1 if a recipe, suite or model lacks anything. For a folder, benchmarks that it does not have are only
    listed; the exit code is 1 if one that it has cannot be used.
    """
    if not what.strip():
        raise InputError("the name is empty; name a folder, a model, a recipe or a suite")
    from mblip.languages import find_languages

    codes = tuple(language.code for language in find_languages(languages))
    folder = Path(what)
    is_model = any((folder / name).is_file() for name in ("config.json", "mblip.json", "adapter_config.json"))
    from mblip.models.gguf_files import find_gguf

    if folder.is_dir():
        if not is_model and _doctor_of_folder(folder, codes, as_json):
            return
    elif not find_gguf(folder) and _doctor_of_recipe(what, tuple(overrides or ()), data, codes, as_json):
        return
    from mblip.models.locate import collection_of, find_language_model

    _check_no_languages(what, codes)
    if not folder.exists() and "/" not in what and not collection_of(what):  # else it is searched on the Hub
        raise InputError(
            f"there is no folder, recipe or benchmark called {what!r}; create the folder and run this again to "
            "see which files it needs, or name a model of the Hub as ORG/NAME"
        )
    find_language_model(what)
    from mblip.models.model_check import check_model  # takes seconds

    report = check_model(what)
    _show_model(report, as_json)
    if not report.is_usable:
        raise typer.Exit(1)


def _doctor_of_folder(folder: Path, codes: tuple[str, ...], as_json: bool) -> bool:
    """Check a folder of benchmarks or a mix; False if it is the folder of a GGUF file, and so a model."""
    from mblip.catalogue.checking import holds_data
    from mblip.catalogue.entries import load_catalogue
    from mblip.evaluation.data_check import check_data
    from mblip.models.gguf_files import find_gguf
    from mblip.storage.manifest import MANIFEST

    found = list(check_data(folder))
    is_data = any(finding.annotations for finding in found) or holds_data(folder, load_catalogue())
    if not is_data and find_gguf(folder):  # a data folder may hold models too
        return False
    _check_no_languages(str(folder), codes)
    if not is_data and (folder / MANIFEST).is_file():
        _doctor_of_mix(folder, as_json)
        return True
    _show_data(found, folder, as_json)
    if any(finding.is_broken for finding in found):
        raise typer.Exit(1)
    return True


def _doctor_of_mix(folder: Path, as_json: bool) -> None:
    """Compare a folder of examples or instructions with its manifest."""
    from dataclasses import asdict

    from mblip.storage import check_shards

    manifest = check_shards(folder)
    if as_json:
        print(json.dumps({**asdict(manifest), "is_complete": True}, ensure_ascii=False, indent=2))
        return
    rows, languages = counted(manifest.rows, manifest.kind.lower()), counted(len(manifest.by_language), "language")
    sources = counted(len(manifest.by_source), "source")
    print(f"{folder}: {rows} in {languages} from {sources}; no file has changed since it was made")


def _doctor_of_recipe(what: str, overrides: tuple[str, ...], data: Path, codes: tuple[str, ...], as_json: bool) -> bool:
    """Check the needs of a recipe or suite; False if there is none of this name."""
    from mblip.catalogue.entries import load_catalogue
    from mblip.catalogue.wanted import Wanted, find_wanted, open_recipe
    from mblip.config import DataRecipe, EvalRecipe, TrainRecipe
    from mblip.evaluation.benchmarks import can_be_asked

    recipe = open_recipe(what, overrides)
    known = load_catalogue()
    if recipe is None and can_be_asked(what):
        if overrides:
            raise InputError(
                f"{what} is a benchmark, which has no field that {overrides[0]!r} could change; leave it out"
            )
        recipe = EvalRecipe(title=what, benchmarks=(what,))
    if isinstance(recipe, EvalRecipe):
        if codes:
            recipe = recipe.model_copy(update={"languages": codes})
        found = _look_at_suite(recipe, what, data)
        _show_data(found, data, as_json)
        if not all(finding.is_complete for finding in found):
            wanted = Wanted()
            with suppress(InputError):  # the catalogue lacks the data of a benchmark
                wanted = find_wanted([recipe], known)
            if wanted.sets and not as_json:
                share = "what anybody may have" if wanted.by_hand else "all of it"
                print(f"get {share}: mblip data download {what} --to {data}")
            raise typer.Exit(1)
        return True
    if recipe is not None:
        _check_no_languages(what, codes)
    if isinstance(recipe, DataRecipe | TrainRecipe):
        from mblip.catalogue.checking import check_needs

        needs = list(check_needs(recipe, find_wanted([recipe], known), known))
        if as_json:
            from dataclasses import asdict

            print(json.dumps([asdict(need) for need in needs], ensure_ascii=False, indent=2))
        else:
            for need in needs:
                print(f"{need.state:8} {need.what} ({need.role}){f': {need.problem}' if need.problem else ''}")
                if need.remedy:
                    print(f"         do: {need.remedy}")
            lacking = sum(need.state != "there" for need in needs)
            print(
                f"{len(needs) - lacking} of {len(needs)} there"
                + (f"; all at once: mblip data download {what}" if lacking else "")
            )
        if any(need.state != "there" for need in needs):
            raise typer.Exit(1)
        return True
    if recipe is not None:  # recipes of nano's bases need only seeds
        print(json.dumps([]) if as_json else f"{what} needs no data")
    return recipe is not None


def _check_no_languages(what: str, codes: tuple[str, ...]) -> None:
    if codes:
        raise InputError(f"--languages is only for a suite, and {what} is not a suite; leave --languages out")


def _look_at_suite(recipe: EvalRecipe, name: str, data: Path) -> list[Finding]:
    """Check every benchmark and table of a suite in the languages that it asks for.

    Raises:
        InputError: There is no folder of benchmarks, or no benchmark of the suite has the languages.
    """
    from mblip.evaluation.benchmarks import evaluated
    from mblip.evaluation.data_check import check_data, check_made, check_tables
    from mblip.evaluation.suites import needs_data

    if not data.is_dir() and needs_data(recipe):
        raise InputError(
            f"there is no folder {data}; download the benchmarks with: mblip data download {name} --to "
            f"{data}, or name their folder with --data"
        )
    chosen = [benchmark for one in recipe.benchmarks for benchmark in evaluated(one)]
    read = [benchmark.name for benchmark in chosen if not benchmark.is_made]
    found = [
        *(check_data(data, read) if read else ()),
        *check_tables(recipe, data),
        *check_made([benchmark for benchmark in chosen if benchmark.is_made], recipe.languages),
    ]
    if recipe.languages:
        found = [finding for finding in found if finding.language in recipe.languages]
        if not found:
            raise InputError(f"{name} has no data in {', '.join(recipe.languages)}; choose from its languages")
    return found


def _show_model(report: ModelReport, as_json: bool) -> None:
    if as_json:
        from dataclasses import asdict

        print(json.dumps({**asdict(report), "is_usable": report.is_usable}, ensure_ascii=False, indent=2, default=str))
        return
    print(f"{report.path}: {report.kind or 'not usable'}")
    for name, value in report.facts.items():
        if isinstance(value, dict):  # by part of the model
            value = ", ".join(
                f"{part} {one:,}" if isinstance(one, int) else f"{part} {one}" for part, one in value.items()
            )
        print(f"  {name}: {value}")
    for problem in report.problems:
        print(f"  problem: {problem}")


def _show_data(findings: list[Finding], root: Path, as_json: bool) -> None:
    if as_json:
        from dataclasses import asdict

        found = [{**asdict(finding), "is_complete": finding.is_complete} for finding in findings]
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    for name, group in groupby(findings, key=lambda finding: finding.benchmark):
        rows = list(group)
        complete = [row.language for row in rows if row.is_complete]
        print(f"{name}: {len(complete)} of {len(rows)} languages complete{_names(complete)}")
        if all(row.is_complete and not row.annotations for row in rows):
            print("  it makes its own items and pictures, and needs no data")
        absent = [row for row in rows if not row.annotations and row.problem]
        if absent:
            print(f"  no annotations{_names([row.language for row in absent])}; {_looked_for(absent[0])}")
        problems: dict[str, list[str]] = {}
        for row in rows:
            if row.annotations and row.problem:
                problems.setdefault(row.problem.replace(repr(row.language), "these languages"), []).append(row.language)
        for problem, codes in problems.items():
            print(f"  {' '.join(codes)}: {problem}")
        lacking = [row for row in rows if row.missing]
        if lacking:
            most = max(lacking, key=lambda row: row.missing)
            places = ", ".join(_below(Path(place), root) for place in most.places)
            print(
                f"  images missing{_names([row.language for row in lacking])}: up to {most.missing:,} of "
                f"{most.images:,}, such as {most.example} (named by {most.named_by}); looked in {places} below {root}"
            )
        if len(complete) < len(rows):
            print(f"  get: {rows[0].source}")
            if sets := _sets(name):
                print(f"  or: mblip data download {' '.join(sets)} --to {root}")


def _sets(benchmark: str) -> list[str]:
    from mblip.catalogue.entries import load_catalogue
    from mblip.catalogue.wanted import sets_of_benchmark

    return sets_of_benchmark(benchmark, load_catalogue())


def _names(codes: list[str]) -> str:
    return f" ({' '.join(codes)})" if codes else ""


def _looked_for(row: Finding) -> str:
    _, looked, names = row.problem.rpartition("looked for ")
    return f"{looked}{names}"


def _below(place: Path, root: Path) -> str:
    return str(place.relative_to(root) if place.is_relative_to(root) else place)
