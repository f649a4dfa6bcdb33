"""``mblip plan``: estimate what a training recipe needs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from mblip.errors import InputError, counted

if TYPE_CHECKING:
    from mblip.models.planning import Plan
    from mblip.models.resources import Resources


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(plan)


def plan(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or a YAML file.", metavar="RECIPE")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Fields of the recipe to change, such as optim.micro_batch=4.", metavar="[FIELD=VALUE]..."),
    ] = None,
    texts: Annotated[
        int | None, typer.Option(min=0, help="Number of instructions in the mix, if the mix does not exist yet.")
    ] = None,
    calibrate: Annotated[
        bool | None,
        typer.Option(
            "--calibrate/--no-calibrate",
            help="Time a few micro-batches with random weights; by default on machines with a GPU.",
        ),
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option(min=1, help="Number of GPUs: also show hours, memory per card, downloads and disk space."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Estimate a recipe's memory, GPUs, steps and hours. No weights are loaded."""
    from mblip.config import TrainRecipe, load_train_recipe
    from mblip.models.auto_settings import resolve_auto
    from mblip.models.locate import find_language_model, find_local

    resolved = load_train_recipe(recipe, tuple(overrides or ()))
    if not isinstance(resolved, TrainRecipe):
        kind = getattr(resolved, "kind", type(resolved).__name__)
        raise InputError(f"{recipe} is of kind {kind}; mblip plan only takes recipes that train a vision-LLM")
    resolved = resolve_auto(resolved, on_gpu=True)
    for name in filter(None, (resolved.model.run, resolved.model.vision)):
        find_local(name)
    if resolved.model.llm:
        find_language_model(resolved.model.llm)
    import torch  # takes seconds, so missing files are reported first

    from mblip.models.calibration import calibrate as run
    from mblip.models.planning import plan_training
    from mblip.training.align import check_stage

    check_stage(resolved)
    found = plan_training(resolved, texts)
    if calibrate or (calibrate is None and torch.cuda.is_available()):
        run(found, resolved, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    resources = None
    if gpus:
        from mblip.models.resources import plan_resources

        resources = plan_resources(resolved, found, gpus)
    if as_json:
        more = {"resources": resources.as_json()} if resources else {}
        print(json.dumps({**found.as_json(), **more}, ensure_ascii=False, indent=2))
        return
    _show(found)
    if resources:
        _show_resources(resources)


def _show(found: Plan) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(found.title)
    table = Table("part", "parameters", "trainable", box=None, pad_edge=False)
    for part, count in found.parameters.items():
        table.add_row(part, f"{count:,}", f"{found.learning[part]:,}")
    table.add_row("all", f"{sum(found.parameters.values()):,}", f"{found.trainable:,}")
    console.print(table)
    if found.adapters:
        console.print(f"LoRA on {found.adapters} linear layers")
    shape = found.batch
    console.print(
        f"\nmicro-batch of {counted(shape['texts'], 'text')}, {counted(shape['images'], 'image')}, {shape['prompt_tokens']} + "
        f"{shape['answer_tokens']} tokens"
    )
    memory = Table("GiB", "", box=None, pad_edge=False)
    for name, size in found.as_json()["memory"].items():
        memory.add_row(f"{size / 2**30:.2f}", name)
    console.print(memory)
    fits = [f"{size} GB" for size, fits in found.cards().items() if fits]
    console.print(f"fits on cards with {', '.join(fits)}" if fits else "does not fit on a single card of up to 80 GB")
    console.print(
        f"{counted(found.steps, 'step')}"
        if found.steps is not None
        else "steps: unknown until the mix exists; give its size with --texts"
    )
    if found.calibration:
        speed = f"{found.calibration['texts_per_second']:.1f} texts a second on {found.calibration['device']}"
        console.print(f"{speed}: {found.hours:.1f} hours" if found.hours is not None else speed)


def _show_resources(found: Resources) -> None:
    from mblip.progress import size_text

    cards = "1 GPU" if found.gpus == 1 else f"{found.gpus} GPUs"
    hours = f"{found.hours:.1f}, as one GPU's divided by their number" if found.hours is not None else "unknown; "
    if found.hours is None:
        hours += "--calibrate on a machine with such a GPU, with the mix or --texts, tells them"
    print(f"\non {cards}, {counted(found.texts_per_gpu, 'text')} of a step on each")
    print(f"hours       {hours}")
    print(f"memory      {found.memory / 2**30:.1f} GiB on each card")
    more = " and what is unknown" if found.unknown else ""
    print(f"download    {size_text(found.download)}{more}")
    print(f"disk        {size_text(found.disk)}{more}, {size_text(found.run)} of it for the run and its checkpoints")
    for name in found.unknown:
        print(f"unknown     size of {name}")
