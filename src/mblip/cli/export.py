"""``mblip export``: a run in the stock format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(export)


def export(
    model: Annotated[str, typer.Argument(help="Run directory, checkpoint directory or Hub id.", metavar="RUN")],
    to: Annotated[Path, typer.Option(help="Folder of the stock checkpoint; must not exist.")],
) -> None:
    """Merge LoRA and write a stock Blip2ForConditionalGeneration that loads without mblip."""
    from mblip.models.export import export as write
    from mblip.models.load import load_model

    write(load_model(model), to)
    print(f"{to}: loads with AutoModelForImageTextToText and AutoProcessor")
