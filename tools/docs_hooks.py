"""Hooks of the documentation build: the order of the pages, and the two pages that are made from the package itself."""

from __future__ import annotations

import html
from typing import Any

import click
import typer.main
import yaml
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation

from mblip.cli.app import app
from mblip.config import shipped_recipes

# By file name or folder; what is not listed comes after, by name.
ORDER = (
    "index.md", "tutorial.md", "howto", "reference", "architecture.md", "glossary.md", "claims.md", "differences.md",
    "decisions", "log.md",
)  # fmt: skip
TITLES = {"Howto": "How-to guides"}


def on_files(files: Files, config: Any) -> Files:
    files.append(File.generated(config, "reference/cli.md", content=cli_page()))
    files.append(File.generated(config, "reference/recipes.md", content=recipes_page()))
    return files


def on_nav(nav: Navigation, config: Any, files: Files) -> Navigation:
    def place(item: Any) -> tuple[int, str]:
        name = item.file.src_uri if item.is_page else item.children[0].file.src_uri.split("/")[0]
        return (ORDER.index(name) if name in ORDER else len(ORDER), name)

    nav.items.sort(key=place)
    for item in nav.items:
        if item.is_section:
            item.title = TITLES.get(item.title, item.title)
    return nav


def cli_page() -> str:
    """Every verb with its help text, as the installed command prints it."""
    root = typer.main.get_command(app)
    lines = ["# Command line", "", "Made from the program itself: `mblip VERB --help` prints the same.", ""]
    _describe(root, "mblip", lines)
    return "\n".join(lines)


def _describe(command: Any, name: str, lines: list[str]) -> None:
    context = click.Context(command, info_name=name)
    if hasattr(command, "commands"):
        for child in sorted(command.commands):
            _describe(command.commands[child], f"{name} {child}", lines)
        return
    lines += [
        f"## {name}",
        "",
        command.help or "",
        "",
        "```text",
        " ".join([name, *command.collect_usage_pieces(context)]),
    ]
    lines += ["```", ""]
    records = [parameter.get_help_record(context) for parameter in command.params]
    if any(records):
        lines += ["| option | meaning |", "|---|---|"]
        lines += [f"| <code>{_cell(option)}</code> | {_cell(meaning)} |" for option, meaning in filter(None, records)]
        lines.append("")


def _cell(text: str) -> str:
    return html.escape(text).replace("|", "&#124;")


def recipes_page() -> str:
    """Every shipped recipe with its title and the section of the paper it follows."""
    lines = [
        "# Recipes",
        "",
        "`mblip train NAME` (or `mblip data mix NAME`, by the recipe's kind) runs one; ",
    ]
    lines[-1] += "`field=value` after the name changes a field of it."
    lines += ["", "| name | what | paper |", "|---|---|---|"]
    for name, path in shipped_recipes().items():
        if "/" in name:
            recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
            lines.append(f"| `{name}` | {recipe['title']} | {recipe.get('paper', '')} |")
    return "\n".join([*lines, ""])
