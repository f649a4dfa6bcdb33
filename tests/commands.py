"""What a page names: whether a command line would be understood, without running it, and the headings to link to."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import typer
import typer.main
from markdown.extensions.toc import slugify

from mblip.cli.app import app

# click's UsageError: typer carries a click of its own, so that it has to be had from there.
USAGE_ERROR = typer.BadParameter.__base__


@lru_cache
def _command() -> Any:
    """The command line as a tree, which takes a while to build."""
    return typer.main.get_command(app)


def complaint(words: Sequence[str]) -> str:
    """What is wrong with a command, or nothing."""
    command = _command()
    rest = list(words)
    while hasattr(command, "commands"):
        name = rest.pop(0) if rest else ""
        if name in ("", "...") or name.isupper() or name.startswith("--") or "|" in name:
            return ""
        if name not in command.commands:
            return f"no verb {name!r}"
        command = command.commands[name]
    if "--help" in rest:
        return ""
    context = command.context_class(command, info_name=words[0])
    try:
        _, extra, _ = command.make_parser(context).parse_args(args=rest)
    except USAGE_ERROR as error:
        return error.format_message()
    return f"no place for {' '.join(extra)!r}" if extra else ""


@lru_cache
def page_headings(page: Path) -> frozenset[str]:
    """The anchors of a page: its headings', as the documentation's build makes them, and those that it sets itself."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    own = re.findall(r'\bid="([^"]+)"', text)
    return frozenset([*own, *(slugify(title, "-") for title in re.findall(r"(?m)^#+ (.*)$", text))])


def is_there(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one or of its class."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            if importlib.util.find_spec(".".join(parts[:cut])) is None:
                continue
        except ModuleNotFoundError:  # a class is no package
            continue
        value: Any = importlib.import_module(".".join(parts[:cut]))
        for part in parts[cut:]:
            if not hasattr(value, part):
                return part in getattr(value, "__annotations__", ()) or part in getattr(value, "model_fields", ())
            value = getattr(value, part)
        return True
    return False
