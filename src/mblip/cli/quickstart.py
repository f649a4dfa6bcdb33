"""``mblip quickstart``: a nano mBLIP bootstrapped end to end, offline, in minutes."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mblip.cli.train import TERMINATED


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(quickstart)


def quickstart(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Fields of the training recipe to change in every setting.", metavar="[FIELD=VALUE]..."),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the mixes, runs and report; by default runs/quickstart, or runs/mini with --llm.",
            show_default=False,
        ),
    ] = None,
    ablations: Annotated[
        bool, typer.Option("--ablations", help="Run all ablations, not only the two main ones.")
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Number of training seeds for each setting.")] = 1,
    llm: Annotated[
        str,
        typer.Option(
            help="Language model to align instead of the nano one: a folder, a GGUF file or a Hub id. Takes hours on a CPU.",
            show_default=False,
        ),
    ] = "",
    setting: Annotated[
        list[str] | None,
        typer.Option(help="Run only these settings, by their names in the report.", show_default=False),
    ] = None,
    languages: Annotated[
        str,
        typer.Option(
            help="Use only these languages, by any name or code, separated by commas; by default all 85.",
            show_default=False,
        ),
    ] = "",
    scenes: Annotated[
        int, typer.Option(min=1, help="Number of new scenes to ask about in each language and task.")
    ] = 50,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of models that answer at the same time; by default one per core, or one in all with a GPU or --llm.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Train and evaluate a nano mBLIP, offline, in minutes. It makes a mix, aligns, evaluates and writes a report."""
    from rich.console import Console

    from mblip.languages import find_languages
    from mblip.nano.experiment import Experiment, mini, run_experiment, usual_workers
    from mblip.training.loop import Stopped

    console = Console(highlight=False)
    codes = tuple(language.code for language in find_languages(languages))
    what = replace(mini(llm) if llm else Experiment(), overrides=tuple(overrides or ()), languages=codes)
    to = to or Path("runs/mini" if llm else "runs/quickstart")
    # As an exception it also ends the processes that ask the models.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        report = run_experiment(
            to,
            ablations,
            seeds,
            partial(console.print, soft_wrap=True),
            scenes,
            what,
            setting or (),
            workers or usual_workers(what),
        )
    except Stopped as stopped:
        print(f"mblip: {stopped}", file=sys.stderr)
        raise typer.Exit(TERMINATED) from stopped
    finally:
        signal.signal(signal.SIGTERM, before)
    minutes = report["seconds"] / 60
    console.print(f"done after {minutes:.1f} minutes in all: open [bold]{to / 'report.html'}[/bold]", soft_wrap=True)
