"""``mblip export``: write a run in the stock format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(export)


def export(
    model: Annotated[str, typer.Argument(help="Run, checkpoint folder or Hub id.", metavar="RUN")],
    to: Annotated[Path, typer.Option(help="New folder for the stock checkpoint.")],
    quantization: Annotated[
        str,
        typer.Option(
            help="int8 or nf4: use the dequantized weights that the run was trained on, not those of its base checkpoint."
        ),
    ] = "none",
) -> None:
    """Merge LoRA and write a stock checkpoint. It loads in transformers without mblip."""
    from mblip.errors import InputError
    from mblip.models.locate import find_model

    find_model(model)
    if to.exists():
        raise InputError(f"{to} already exists: name a new folder")
    from mblip.models.export import export_model  # takes seconds, so the names are checked first
    from mblip.models.quantize import check_kind

    error = export_model(model, to, check_kind(quantization))
    print(f"{to}: loads with AutoModelForImageTextToText and AutoProcessor; {to / 'README.md'} shows how")
    if error is not None:
        print(f"relative error of the logits against the quantised model that was trained: {error:.2e}")
