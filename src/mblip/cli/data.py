"""``mblip data``: from raw English corpora to an instruction mix."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mblip.cli._progress import ProgressBars
from mblip.errors import InputError, counted

if TYPE_CHECKING:
    from mblip.catalogue.entries import DataSet
    from mblip.config import DataRecipe

_FEW = 5  # absent files that are named in one sentence

data = typer.Typer(no_args_is_help=True, help="Make an instruction mix from raw English corpora.")

RecipeName = Annotated[str, typer.Argument(help="Name of a shipped data recipe, or a YAML file.", metavar="RECIPE")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Fields of the recipe to change, such as seed=2.", metavar="[FIELD=VALUE]...")
]
To = Annotated[Path, typer.Option(help="Folder of the mix.", file_okay=False)]
Work = Annotated[Path | None, typer.Option(help="Work folder of the earlier stages.", file_okay=False)]
Workers = Annotated[int, typer.Option(min=1, help="Number of processes; it does not change the result.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.add_typer(data, name="data")


@data.command()
def plan(recipe: RecipeName, overrides: Overrides = None, work: Work = None, as_json: Json = False) -> None:
    """Count what a recipe would make, by source, task and language.

    Sources that cannot be read yet are named, with the missing files; the others are counted, with the rows that are
    left out.
    """
    chosen = _load(recipe, overrides)
    from mblip.mixture import plan_what_is_there  # takes a second, so the recipe is checked first

    with ProgressBars("done") as progress:
        found = plan_what_is_there(chosen, work, progress)
    for name, why in found.missing.items():
        print(f"not counted: {name}: {why}", file=sys.stderr)
    if found.missing:
        print(f"mblip doctor {recipe} lists what is missing, mblip data download {recipe} fetches it", file=sys.stderr)
    for name, drops in found.drops.items():
        for reason, count in drops.items():
            print(f"left out of {name}: {count:,} {reason}", file=sys.stderr)
    if not found.counts:
        raise InputError(f"no source of {recipe} can be counted; the reasons are listed above")
    if as_json:
        print(json.dumps(found.counts, ensure_ascii=False, indent=2))
    else:
        _print_counts(found.counts)


@data.command()
def sample(
    recipe: RecipeName, work: Annotated[Path, typer.Option(help="Work folder.")], overrides: Overrides = None
) -> None:
    """Read the raw corpora and keep the English examples, balanced as the recipe says, in a work folder."""
    chosen = _load(recipe, overrides)
    from mblip.mixture import check_samples

    with ProgressBars("done") as progress:
        stages = check_samples(chosen, work, progress)
    for name, stage in stages.items():
        drops = sum(stage.manifest.drops.values())
        print(f"{stage.folder}: {counted(stage.manifest.rows, 'example')} of {name}, {counted(drops, 'row')} dropped")


@data.command()
def translate(
    recipe: RecipeName,
    work: Annotated[Path, typer.Option(help="Work folder of mblip data sample.", file_okay=False)],
    overrides: Overrides = None,
    workers: Workers = 1,
    executor: Annotated[
        Literal["local", "slurm", "ray"],
        typer.Option(help="What runs the parts: processes on this machine, or jobs of Slurm or Ray."),
    ] = "local",
    option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE for slurm or ray: partition, time, gpus_per_task, address ...")
    ] = None,
    extra_body: Annotated[
        str,
        typer.Option(help="Additional fields for each request of the openai engine, as a JSON object.", metavar="JSON"),
    ] = "",
) -> None:
    """Translate the sampled examples, part by part; an interrupted run continues and requests nothing twice."""
    from mblip.executors import parse_options
    from mblip.languages import LANGUAGES
    from mblip.mixture import check_samples
    from mblip.translation import translate_sources, untranslatable
    from mblip.translation.executors import launch

    if extra_body:
        overrides = [*(overrides or []), f"translation.options.extra_body={_json_object(extra_body)}"]
    chosen = _load(recipe, overrides)
    with ProgressBars("done") as progress:
        check_samples(chosen, work, progress)
    if missing := untranslatable(chosen, work):
        names = ", ".join(f"{LANGUAGES[code].name} ({count:,})" for code, count in missing.items())
        print(
            f"the engine {chosen.translation.engine!r} does not translate into {names}: these examples will be left "
            f"out; 'allocation.exclude_languages=[{', '.join(missing)}]' gives them to other languages",
            file=sys.stderr,
        )
    if executor != "local" and not launch(executor, chosen, work, parse_options(option or [])):
        print("submitted; run the same command again, which waits for the jobs and continues")
        return
    with ProgressBars("done") as progress:
        manifests = translate_sources(chosen, work, workers=workers, progress=progress)
    if not manifests:
        print(f"nothing to translate: every source of {recipe} sets translate to false")
    for name, manifest in manifests.items():
        print(f"{name}: {counted(manifest.rows, 'example')} in {counted(len(manifest.by_language), 'language')}")
        for reason, count in manifest.drops.items():
            print(f"  {counted(count, 'example')} left out: {reason}")


@data.command()
def match(
    captions: Annotated[Path, typer.Argument(help="Folder of caption examples, such as WORK/english/NAME.")],
    to: Annotated[Path, typer.Option(help="File for the neighbours, .npy.", dir_okay=False)],
    model: Annotated[str, typer.Option(help="A CLIP or SigLIP checkpoint, which computes the embeddings.")] = "",
    store: Annotated[str, typer.Option("--images", help="Folder, tars or Parquet with the images.")] = "",
    image_vectors: Annotated[Path | None, typer.Option(help="Your own image embeddings, .npy, one per row.")] = None,
    text_vectors: Annotated[Path | None, typer.Option(help="Your own text embeddings, .npy, one per row.")] = None,
    start: Annotated[int, typer.Option(min=0, help="Index of the first caption to use.")] = 0,
    count: Annotated[int, typer.Option(min=0, help="Number of captions to use; 0 for all that follow.")] = 0,
    ranks: Annotated[
        str, typer.Option(help="Ranks of the wrong captions to take, by nearness to the image; 1 is the nearest.")
    ] = "3,10,30,100,300",
    index: Annotated[str, typer.Option(help="faiss index; use IVF4096,Flat for millions of captions.")] = "Flat",
    original: Annotated[
        bool,
        typer.Option(
            "--original", help="Do as the original code does: rank by distance, and keep an image's own caption."
        ),
    ] = False,
) -> None:
    """Find wrong captions that nearly fit each image."""
    from mblip.corpora.neighbours import match_captions

    with ProgressBars("done") as progress:
        found = match_captions(
            captions, to, ranks=ranks, model=model, store=store, vectors=(image_vectors, text_vectors), start=start,
            count=count, index=index, original=original, progress=progress,
        )  # fmt: skip
    without = int((found < 0).all(axis=1).sum())
    print(
        f"{to}: neighbours of {counted(len(found) - without, 'caption')}"
        + (f"; {without:,} have none" if without else "")
    )


@data.command()
def images(
    recipe: RecipeName,
    to: Annotated[Path, typer.Option(help="Folder of the images.", file_okay=False)],
    work: Annotated[Path, typer.Option(help="Work folder of mblip data sample.", file_okay=False)],
    overrides: Overrides = None,
    threads: Annotated[int, typer.Option(min=1, help="Number of parallel downloads.")] = 16,
    folder: Annotated[bool, typer.Option("--folder", help="Write files instead of WebDataset tars.")] = False,
) -> None:
    """Download the web images of the sampled examples; an interrupted run continues."""
    from mblip.corpora.downloading import DownloadLimits, download_images
    from mblip.corpora.sampling import sampled_urls

    wanted = sampled_urls(_load(recipe, overrides), work)
    with ProgressBars("done") as progress:
        counts = download_images(wanted, to, tar=not folder, limits=DownloadLimits(threads=threads), progress=progress)
    for reason, count in sorted(counts.items()):
        print(f"{count:,} {reason}")


@data.command()
def mix(
    recipe: RecipeName,
    to: To,
    overrides: Overrides = None,
    work: Work = None,
    workers: Workers = 1,
    export: Annotated[
        Literal["llava", "chat", "trl"] | None,
        typer.Option(help="Also write export/LAYOUT.json(l) for other trainers."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Build a mix: allocate languages, translate, write instructions, shuffle, remove duplicates."""
    from mblip.mixture import build_mix, export_mix

    with ProgressBars("done") as progress:
        manifest = build_mix(_load(recipe, overrides), to, work=work, workers=workers, progress=progress)
    if export:
        export_mix(to, export, to / "export" / ("llava.json" if export == "llava" else f"{export}.jsonl"))
    if as_json:
        print(json.dumps(dataclasses.asdict(manifest), ensure_ascii=False, indent=2))
        return
    languages = len(manifest.by_language)
    print(f"{to}: {counted(manifest.rows, 'instruction')} in {counted(languages, 'language')}")
    for reason, count in manifest.drops.items():
        print(f"  {counted(count, 'example')} left out: {reason}")


@data.command()
def card(folder: Annotated[Path, typer.Argument(help="Folder of a mix.", exists=True, file_okay=False)]) -> None:
    """Rewrite the card of a mix (README.md) and print it: contents, licences, drops."""
    from mblip.mixture import write_card

    print(write_card(folder))


@data.command()
def inspect(
    folder: Annotated[Path, typer.Argument(help="Folder of examples or of a mix.", exists=True, file_okay=False)],
    rows: Annotated[int, typer.Option(min=0, help="Number of records to show.")] = 5,
    language: Annotated[
        str, typer.Option(help="Show only these languages, by any name or code, separated by commas.")
    ] = "",
    task: Annotated[str, typer.Option(help="Show only records of this task.")] = "",
    as_json: Json = False,
) -> None:
    """Show the counts, the drops and some records of a folder."""
    from mblip.languages import UNDETERMINED, find_languages
    from mblip.mixture.inspecting import count_only, pick_records
    from mblip.storage import read_manifest

    manifest = read_manifest(folder)
    codes = [UNDETERMINED] if language == UNDETERMINED else [found.code for found in find_languages(language)]
    records = pick_records(folder, manifest, rows, codes, task)
    if as_json:
        content = {"manifest": dataclasses.asdict(manifest), "records": [dataclasses.asdict(row) for row in records]}
        print(json.dumps(content, ensure_ascii=False, indent=2))
        return
    _print_counts(count_only(manifest.counts, codes, task))
    for reason, count in manifest.drops.items():
        print(f"{count:,} left out: {reason}")
    for record in records:
        print(json.dumps(dataclasses.asdict(record), ensure_ascii=False))


@data.command()
def download(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Data sets of the catalogue, recipes, suites, benchmarks, or checkpoints of the Hub.",
            metavar="NAME...",
        ),
    ] = None,
    to: Annotated[Path, typer.Option(help="Data folder.", file_okay=False)] = Path("data"),
    catalogue: Annotated[Path | None, typer.Option(help="Your own catalogue, in addition to the shipped one.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Download without asking.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Number of parallel downloads.")] = 4,
    remove_archives: Annotated[
        bool, typer.Option("--remove-archives", help="Delete archives after unpacking.")
    ] = False,
    listing: Annotated[bool, typer.Option("--list", help="List the catalogue, with sizes and licences.")] = False,
) -> None:
    """Download data sets, benchmarks and checkpoints. Shows sizes and licences first; resumes, verifies, unpacks."""
    from mblip.catalogue.describing import describe_by_hand, describe_plan
    from mblip.catalogue.download import ask_sizes, make_plan, run_plan
    from mblip.catalogue.entries import load_catalogue
    from mblip.catalogue.wanted import find_wanted, read_elsewhere

    known = load_catalogue(catalogue)
    if listing:
        _print_catalogue(known)
        return
    if not names:
        raise InputError("name what to download: data sets, recipes or suites; mblip data download --list shows them")
    wanted = find_wanted(names, known)
    found = make_plan(wanted.sets, to, keep=True, say=lambda text: print(text, file=sys.stderr))
    ask_sizes(found)
    for line in describe_plan(found, wanted.sets) if wanted.sets else ():
        print(line)
    lacking = [one for one in wanted.by_hand if not one.is_there(to)]
    for line in describe_by_hand(lacking, to):
        print(line)
    if not (wanted.sets or lacking):
        print(f"nothing to download for {', '.join(names)}")
    if found.open:
        found.check_space()
        if not yes:
            if not (sys.stdin.isatty() and sys.stdout.isatty()):
                raise InputError(
                    "nothing was downloaded, because there is no terminal to confirm it; add --yes to fetch it"
                )
            if not typer.confirm("Fetch it?"):
                raise typer.Exit(1)
        with ProgressBars("bytes", in_bytes=True) as shown:
            run_plan(found, jobs=jobs, remove_archives=remove_archives, say=shown.say, progress=shown)
    for path, place in read_elsewhere(wanted, known, to).items():
        print(f"note: {wanted.paths[path]} reads {path}, but the file is at {place}: change the path, or --to")
    for command in wanted.next:
        print(f"then: {command}")
    absent = [*(item.target for item in found.to_ask_for), *(one.places(to)[0] for one in lacking)]
    if absent:
        more = f" and {len(absent) - _FEW} more" if len(absent) > _FEW else ""
        raise InputError(
            f"{', '.join(map(str, absent[:_FEW]))}{more} must be obtained by hand, as described above; then run the same "
            "command again"
        )


@data.command()
def engine(
    source: Annotated[str, typer.Argument(help="nllb-600m, nllb-1.3b, nllb-3.3b, madlad-3b, a Hub id or a folder.")],
    to: Annotated[Path, typer.Option(help="Folder to write the converted model to.", file_okay=False)],
    quantization: Annotated[
        str, typer.Option(help="CTranslate2's type for the weights: int8, int8_float32, bfloat16, float32, ...")
    ] = "int8",
) -> None:
    """Convert NLLB-200 or MADLAD-400 for the engine ctranslate2 of a data recipe."""
    from mblip.translation.engines.converting import convert_engine

    made = convert_engine(source, to, quantization)
    print(f"{to}: {made.kind} ({made.licence}), {made.bytes:,} bytes")
    print(f"use it with: translation.engine=ctranslate2 'translation.options={{model: {to}}}'")


def _print_catalogue(known: dict[str, DataSet]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from mblip.catalogue.describing import describe_catalogue

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in ("name", "size", "licence", "what"):
        table.add_column(header, overflow="fold")
    for row in describe_catalogue(known):
        table.add_row(*row)
    console = Console(highlight=False)
    if not console.is_terminal:  # a file or a pipe has no width to keep to
        console.width = 240
    console.print(table, markup=False)


def _json_object(text: str) -> str:
    try:
        if isinstance(json.loads(text), dict):
            return text
    except (ValueError, RecursionError):
        pass
    raise InputError(f"--extra-body must be a JSON object such as '{{\"max_tokens\": 512}}', not {text[:200]!r}")


def _load(recipe: str, overrides: list[str] | None) -> DataRecipe:
    from mblip.config import DataRecipe, load_recipe

    return load_recipe(DataRecipe, recipe, tuple(overrides or ()))


def _print_counts(counts: dict[str, dict[str, dict[str, int]]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("source")
    table.add_column("task")
    for header in ("examples", "languages", "English", "fewest"):
        table.add_column(header, justify="right")
    for source, tasks in counts.items():
        for task, languages in tasks.items():
            least = min(languages, key=lambda code: languages[code])
            table.add_row(
                source,
                task,
                f"{sum(languages.values()):,}",
                str(len(languages)),
                f"{languages.get('en', 0):,}",
                f"{languages[least]:,} ({least})",
            )
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width to keep to
        console.width = 200
    console.print(table)
    totals: dict[str, int] = {}
    for tasks in counts.values():
        for languages in tasks.values():
            for code, count in languages.items():
                totals[code] = totals.get(code, 0) + count
    console.print("  ".join(f"{code} {count:,}" for code, count in sorted(totals.items())), highlight=False)
    console.print(f"{counted(sum(totals.values()), 'example')} in {counted(len(totals), 'language')}")
