"""``mblip languages``: the language table."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from mblip.languages import LANGUAGES, Profile


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(languages)


def languages(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list with every column.")] = False,
    more: Annotated[
        Path | None, typer.Option(help="Check a CSV file of further languages, and list them after the 96.")
    ] = None,
    profile: Annotated[Profile, typer.Option(help="original: the names and codes of the original mBLIP.")] = "correct",
) -> None:
    """List the 96 languages, with their names and codes."""
    if more:
        from mblip.more_languages import add_languages, read_languages

        add_languages(read_languages(more), str(more))
    rows = [language.in_profile(profile) for language in LANGUAGES.values()]
    if as_json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], ensure_ascii=False, indent=2))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for header in ("code", "name", "own name", "script", "NLLB", "MADLAD", "mC4 %"):
        table.add_column(header, overflow="fold", justify="right" if header == "mC4 %" else "left")
    for row in rows:
        code = row.code if row.code == row.bcp47 else f"{row.code} ({row.bcp47})"
        own_name = f"\N{FIRST STRONG ISOLATE}{row.own_name}\N{POP DIRECTIONAL ISOLATE}"
        table.add_row(code, row.name, own_name, row.script, row.nllb, row.madlad, f"{row.mc4_share:.3g}")
    Console().print(table)
