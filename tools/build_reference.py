"""Write the two reference pages that the package itself makes: every verb with its options, and every recipe.

python tools/build_reference.py
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import click
import typer.main
import yaml

from mblip.cli.app import app
from mblip.config import shipped_recipes

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
NOTE = "<!-- Written by tools/build_reference.py: change the program, then run it again. -->"


def pages() -> dict[str, str]:
    """The text of each page, by its name."""
    return {"cli.md": cli_page(), "recipes.md": recipes_page()}


def cli_page() -> str:
    """Every verb with its help text, as the installed command prints it."""
    root = typer.main.get_command(app)
    lines = ["# Command line", "", NOTE, "", "`mblip VERB --help` prints the same.", ""]
    _describe(root, "mblip", lines)
    return "\n".join(lines).rstrip() + "\n"


def _describe(command: Any, name: str, lines: list[str]) -> None:
    context = click.Context(command, info_name=name)
    if hasattr(command, "commands"):
        for child in sorted(command.commands):
            _describe(command.commands[child], f"{name} {child}", lines)
        return
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    lines += [f"## {name}", "", command.help or "", "", "```text", usage, "```", ""]
    records = [parameter.get_help_record(context) for parameter in command.params]
    if any(records):
        lines += ["| Option | Meaning |", "|---|---|"]
        lines += [f"| <code>{_cell(option)}</code> | {_cell(meaning)} |" for option, meaning in filter(None, records)]
        lines.append("")


def _cell(text: str) -> str:
    return html.escape(text, quote=False).replace("|", "&#124;").replace("*", "&#42;").replace("\n", " ")


def recipes_page() -> str:
    """Every shipped recipe with its title and the section of the paper it follows."""
    lines = [
        "# Recipes", "", NOTE, "",
        "Use a name in `mblip train NAME`, `mblip data mix NAME` or `mblip eval MODEL --suite NAME`, depending on the kind of "
        "recipe. `FIELD=VALUE` after the name changes a field; [Data](data.md#recipe) and [Training](training.md#recipe) list "
        "the fields.",
        "", "| Name | Description | Paper |", "|---|---|---|",
    ]  # fmt: skip
    for name, path in sorted(shipped_recipes().items()):
        if "/" in name:
            recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
            lines.append(f"| `{name}` | {_cell(recipe['title'])} | {_cell(recipe.get('paper', ''))} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(FOLDER / name)
