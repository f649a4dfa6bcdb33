"""The ``mblip`` command: collects the verbs, and turns errors of the package into one sentence and exit code 2."""

from __future__ import annotations

import importlib
import logging
import os
import pkgutil
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

import mblip
import mblip.cli
from mblip.errors import InputError, MblipError, nearest, shorten, unforeseen

INTERRUPTED = 130  # typer's exit code for Ctrl-C
# Verbs that keep what they have done, and take it up when the same command runs again.
_CONTINUE = {
    *(("train",), ("eval",), ("quickstart",)),
    *(("data", verb) for verb in ("sample", "translate", "match", "images", "mix", "download")),
}
_NO_MEMORY = "can't allocate memory"  # torch's message for the machine's memory

# Plain help: typer's coloured one takes a third of the time of `mblip --help` for imports.
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
    """Align, evaluate and serve vision-language models in 96 languages. Start with mblip quickstart: no GPU, no network."""


class _Verbs(TyperGroup):
    """Lists the verbs, the nearest first, for an unknown one."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """See click."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            command = ctx.command_path.removesuffix(" -m").rpartition("/")[2]
            raise InputError(f"{command} has no verb {shorten(args[0])!r}{nearest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


class _Verb(TyperCommand):
    """Lists the options of a verb, the nearest first, for an unknown one."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """See click."""
        options = {name: parameter for parameter in self.get_params(ctx) for name in _spellings(parameter)}
        rest = iter(args)
        for argument in rest:
            if argument == "--":
                break
            name, equals, _ = argument.partition("=")
            if argument.startswith("--") and name not in options:
                shown = nearest(name, (known for known in options if known.startswith("--")))
                raise InputError(f"{ctx.command_path} has no option {shorten(name)!r}{shown}")
            if name in options and not equals and not getattr(options[name], "is_flag", False):
                next(rest, None)  # skip its value, in any form
        return super().parse_args(ctx, args)


def _spellings(parameter: Any) -> list[str]:
    return [*parameter.opts, *parameter.secondary_opts] if hasattr(parameter, "is_flag") else []


def _tell_what_there_is(verbs: typer.Typer) -> None:
    verbs.info.cls = _Verbs
    for command in verbs.registered_commands:
        command.cls = _Verb
    for group in verbs.registered_groups:
        if group.typer_instance:
            _tell_what_there_is(group.typer_instance)


for _module in pkgutil.iter_modules(mblip.cli.__path__):
    if _module.name != "app" and not _module.name.startswith("_"):
        importlib.import_module(f"mblip.cli.{_module.name}").register(app)


_tell_what_there_is(app)


def _stop(sentence: str) -> NoReturn:
    print(f"mblip: {sentence}", file=sys.stderr)
    sys.exit(2)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether the machine's or an accelerator's memory ran out, without importing torch, which takes seconds."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or _NO_MEMORY in str(error)


def _how_to_continue(words: list[str]) -> str:
    """The end of the message after Ctrl-C; empty for verbs that keep nothing, such as ``mblip serve``."""
    if tuple(words[:1]) in _CONTINUE or tuple(words[:2]) in _CONTINUE or "--resume" in words:
        return "; the same command continues where it stopped"
    if words[:1] == ["caption"] and any(word == "--to" or word.startswith("--to=") for word in words):
        return "; the same command with --resume continues where it stopped"
    return ""


def main() -> None:
    """Run the command line."""
    # transformers reads this when it is imported; its hints would only distract.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # Its loading bars and those of the Hub's client share a switch. A download shows its own bar on a terminal
    # (mblip.models.locate), unless the user turns bars off.
    if "HF_HUB_DISABLE_PROGRESS_BARS" in os.environ:
        os.environ.setdefault("TQDM_DISABLE", "1")
    else:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # warns about optional kernels at import
    try:
        if os.environ.get("MBLIP_LANGUAGES"):
            # Slow to import, but `mblip --help` should answer at once.
            from mblip.more_languages import add_from_environment

            add_from_environment()
        app(prog_name="mblip")
    except MblipError as error:
        _stop(str(error))
    except OSError as error:  # any path of any verb may be refused
        if told := unforeseen(error):
            _stop(str(told))
        raise
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        _stop("out of memory: lower the batch size, choose a smaller or a quantised model, or free memory")
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            print(f"mblip: interrupted{_how_to_continue(sys.argv[1:])}", file=sys.stderr)
        raise
