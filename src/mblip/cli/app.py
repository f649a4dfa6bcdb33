"""The ``mblip`` command: collects the verbs and turns an InputError into one sentence and exit code 2."""

from __future__ import annotations

import importlib
import logging
import os
import pkgutil
import sys
from typing import Annotated

import typer

import mblip
import mblip.cli
from mblip.errors import InputError

INTERRUPTED = 130  # what typer makes of Ctrl-C

# Plain help: typer's coloured one spends a third of the time of `mblip --help` on importing what draws it.
app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    context_settings={"max_content_width": 100},
)  # fmt: skip


def _show_version(wanted: bool) -> None:
    if wanted:
        print(mblip.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """One vision-language model, 96 languages, one consumer GPU."""


for _module in pkgutil.iter_modules(mblip.cli.__path__):
    if _module.name != "app":
        importlib.import_module(f"mblip.cli.{_module.name}").register(app)


def main() -> None:
    """Run the command line."""
    # transformers reads these when it is imported; its loading bars and hints are not what a person asked for.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # warns of optional kernels at import
    try:
        app()
    except InputError as error:
        print(f"mblip: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            print("mblip: interrupted; the same command continues where it stopped", file=sys.stderr)
        raise
