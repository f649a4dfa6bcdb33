"""``mblip train``: run a recipe."""

from __future__ import annotations

import os
import shlex
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer

from mblip.errors import counted

if TYPE_CHECKING:
    from rich.console import Console

    from mblip.training.logs import Note, StepLog, ValidationLog

TERMINATED = 143  # a shell's exit code for a process ended by SIGTERM
SHOWN = 5  # samples of a validation


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(train)


def train(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or a YAML file.", metavar="RECIPE")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Fields of the recipe to change, such as optim.steps=100.", metavar="[FIELD=VALUE]..."),
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Run directory; runs/NAME by default.")] = None,
) -> None:
    """Train a model by a recipe. Run the same command again to continue an interrupted run.

    Started by torchrun or accelerate launch, the command uses all their processes.
    """
    from rich.console import Console

    from mblip.cli._progress import log_shown
    from mblip.config import TrainRecipe, load_train_recipe
    from mblip.training.inputs import check_paths

    resolved = load_train_recipe(recipe, tuple(overrides or ()))
    if isinstance(resolved, TrainRecipe):
        check_paths(resolved)
    from mblip.training.loop import Stopped  # takes seconds, so the recipe is checked first
    from mblip.training.run import train as run

    console = Console(highlight=False)
    directory = to or Path("runs") / Path(recipe).stem
    try:
        with _TrainingScreen(console) as screen, log_shown(screen.say):
            run(resolved, directory, screen.tell)
    except Stopped as stopped:
        print(f"mblip: {stopped}", file=sys.stderr)
        raise typer.Exit(TERMINATED) from stopped
    if os.environ.get("RANK", "0") == "0":
        console.print(f"{directory}: done", soft_wrap=True)
        if isinstance(resolved, TrainRecipe):
            source = resolved.data.source  # whose language the model has just learned
            language = shlex.quote(str(source.options.get("language") or "en") if source else "en")
            text = f"try it: mblip caption PICTURES --language {language} --model {directory}"
            console.print(text, markup=False, soft_wrap=True)


class _TrainingScreen:
    """Shows a bar with rates and time left on a terminal, and a line per row of the log elsewhere."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._console = console
        columns = (BarColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("loading")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Show a line of the package's log."""
        self._console.print(text, markup=False, soft_wrap=True)

    def tell(self, row: StepLog | ValidationLog | Note) -> None:
        """Show a row of the log, of the validation with some of its answers, or a note."""
        from mblip.training.logs import StepLog, ValidationLog

        if isinstance(row, StepLog):
            self._tell_step(row)
        elif isinstance(row, ValidationLog):
            self._tell_validation(row)
        else:
            self._console.print(row.text, markup=False, soft_wrap=True)

    def _tell_validation(self, row: ValidationLog) -> None:
        right = "" if row.exact is None else f", {row.exact:.0%} of {counted(len(row.samples), 'sample')} word for word"
        lost = f", {counted(row.left_out, 'text')} left out (unreadable pictures)" if row.left_out else ""
        self._console.print(f"validation at step {row.step}: loss {row.loss:.4f}{right}{lost}", soft_wrap=True)
        for name, losses in (("task", row.by_task), ("language", row.by_language)):
            if len(losses) > 1:
                highest = sorted(losses.items(), key=lambda item: -item[1])
                shown = ", ".join(f"{key} {loss:.2f}" for key, loss in highest[:SHOWN])
                more = f", {len(highest) - SHOWN} more" if len(highest) > SHOWN else ""
                self._console.print(f"  highest by {name}: {shown}{more}", markup=False, soft_wrap=True)
        for sample in row.samples[:SHOWN]:
            line = f"  {sample.prompt} → {sample.answer}  (wanted: {sample.reference})"
            self._console.print(line, markup=False, soft_wrap=True)

    def _tell_step(self, row: StepLog) -> None:
        rates = row.per_second
        texts = f"{rates['examples']:.1f} texts/s, " if "examples" in rates else ""
        text = (
            f"step {row.step}  loss {row.loss:.4f}  {texts}{rates['tokens']:.0f} tokens/s, "
            f"{row.peak_memory_mib / 1024:.1f} GiB, {_duration(row.seconds_left)} left"
        )
        if row.processes > 1:
            text += f", {row.processes} processes"
        if self._console.is_terminal:
            self._bar.update(self._task, total=row.seconds + row.seconds_left, completed=row.seconds, description=text)
        else:
            self._console.print(text, soft_wrap=True)


def _duration(seconds: float) -> timedelta:
    return timedelta(seconds=round(min(seconds, timedelta.max.total_seconds() - 1)))
