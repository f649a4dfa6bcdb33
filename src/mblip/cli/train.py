"""``mblip train``: run a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from typing import Any


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(train)


def train(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or a YAML file.", metavar="RECIPE")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes, such as optim.steps=100.", metavar="[FIELD=VALUE]...")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Run directory; runs/NAME by default.")] = None,
) -> None:
    """Train as a recipe says; the same command goes on after an interruption."""
    from rich.console import Console

    from mblip.config import load_train_recipe

    resolved = load_train_recipe(recipe, tuple(overrides or ()))
    from mblip.training.run import train as run  # takes seconds: after the recipe has proved valid

    console = Console(highlight=False)
    directory = to or Path("runs") / Path(recipe).stem

    def told(row: dict[str, Any]) -> None:
        console.print(f"step {row['step']}  loss {row['loss']:.4f}  {row['seconds']:.0f} s")

    run(resolved, directory, told)
    console.print(f"{directory}: done")
