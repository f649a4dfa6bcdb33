"""``mblip report``: runs of ``mblip eval`` side by side on one page; ``mblip tasks``: the benchmarks for lmms-eval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mblip.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(report)
    app.command()(tasks)


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Run directories of mblip eval; the others are tested against the first. Or the folder of one quickstart.",
            metavar="RUN",
        ),
    ],
    to: Annotated[
        Path | None,
        typer.Option(help="Folder for the report; by default the run's folder, or runs/report for several runs."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Data folder with the benchmarks' pictures, for the samples.")
    ] = None,
    images: Annotated[
        list[str] | None, typer.Option(help="Folder or tar of images to look in first; may be repeated.")
    ] = None,
    samples: Annotated[int, typer.Option(min=0, help="Number of sample pictures for each benchmark.")] = 4,
    lmms_eval: Annotated[
        bool, typer.Option("--lmms-eval", help="Also write the runs in lmms-eval's result format, into lmms_eval/.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the content of report.json.")] = False,
) -> None:
    """Write a report on evaluations. It is one offline page, report.html, with .md, .csv, .tex and .json beside it."""
    if data is not None and not data.is_dir():
        raise InputError(f"--data {data} is not a folder; name the folder that mblip eval used, or leave it out")
    for run in runs:
        if not run.is_dir():
            raise InputError(f"there is no directory {run}; name one that mblip eval or mblip quickstart has written")
    from mblip import plugins
    from mblip.report.tables import to_json
    from mblip.report.write import NAME, report_runs

    other = next(((name, kind) for name, kind in plugins.reports.usable() if kind.wrote(runs[0])), None)
    if other:
        name, kind = other
        if len(runs) > 1 or to:
            raise InputError(
                f"{runs[0]} is a {name}; its report is separate and stays in its folder: leave out other runs and --to"
            )
        found = kind.rewrite(runs[0])
        directory = runs[0]
    else:
        directory = to or (runs[0] if len(runs) == 1 else Path("runs") / NAME)
        found = to_json(report_runs(runs, directory, samples, data, images or ()))
        if lmms_eval:
            from mblip.report.lmms_eval import export_run

            for run in runs:
                export_run(run, directory / "lmms_eval" / run.resolve().name)
    if as_json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        print(f"{directory / NAME}.html")


def tasks(
    benchmarks: Annotated[
        list[str], typer.Argument(help="Names of suites or benchmarks, as for mblip eval --suite.", metavar="NAME")
    ],
    to: Annotated[Path, typer.Option(help="Folder for the tasks; pass it to lmms_eval as --include_path.")],
    data: Annotated[Path, typer.Option(help="Folder below which annotations and images are.")] = Path("data"),
    languages: Annotated[
        str, typer.Option(help="Write only these languages, by any name or code, separated by commas.")
    ] = "",
    images: Annotated[
        list[str] | None, typer.Option(help="Folder or tar of images to look in first; may be repeated.")
    ] = None,
) -> None:
    """Write benchmarks as lmms-eval tasks. They use mblip's data, prompts and scores."""
    from mblip.evaluation.benchmarks import evaluated

    chosen = [found for name in benchmarks for found in evaluated(name)]
    made = [benchmark.name for benchmark in chosen if benchmark.is_made]
    if made:
        raise InputError(f"{made[0]} reads no files that a task could name; use mblip eval --suite {made[0]}")
    if not data.is_dir():
        raise InputError(f"--data {data} is not a folder; mblip doctor DATA_ROOT says what belongs in it")
    from mblip.evaluation.tasks import load_tasks
    from mblip.languages import find_languages
    from mblip.report.lmms_eval import write_tasks

    codes = [found.code for found in find_languages(languages)]
    for path in write_tasks(load_tasks(chosen, data, codes, images=images or ()), to):
        print(path)
