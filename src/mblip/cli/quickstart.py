"""``mblip quickstart``: a nano mBLIP bootstrapped end to end, offline, in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(quickstart)


def quickstart(
    to: Annotated[Path, typer.Option(help="Folder for the mixes, runs and report.")] = Path("runs/quickstart"),
    ablations: Annotated[
        bool, typer.Option("--ablations", help="Run every ablation, not only the two main ones.")
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Number of training seeds for each setting.")] = 1,
) -> None:
    """Translate a mix, align an English vision model to a multilingual language model, evaluate, report."""
    from rich.console import Console

    from mblip.nano.experiment import run_experiment

    console = Console(highlight=False)
    report = run_experiment(to, ablations, seeds, console.print)
    minutes = report["seconds"] / 60
    console.print(f"done after {minutes:.1f} minutes in all: open [bold]{to / 'report.html'}[/bold]", soft_wrap=True)
