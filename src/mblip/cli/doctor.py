"""``mblip doctor``: whether a data root is fit for use, and what would mend it."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mblip.evaluation.doctor import Finding


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(doctor)


def doctor(
    what: Annotated[str, typer.Argument(help="A folder of benchmarks.", metavar="DATA_ROOT")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list.")] = False,
) -> None:
    """Say which benchmarks below a folder are complete, what the others lack and where to get it."""
    from mblip.evaluation.doctor import check_data

    _show_data(list(check_data(Path(what))), as_json)


def _show_data(findings: list[Finding], as_json: bool) -> None:
    if as_json:
        from dataclasses import asdict

        rows = [{**asdict(finding), "is_complete": finding.is_complete} for finding in findings]
        print(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    for name, group in groupby(findings, key=lambda finding: finding.benchmark):
        rows = list(group)
        complete = [row.language for row in rows if row.is_complete]
        print(f"{name}: {len(complete)} of {len(rows)} languages complete{_names(complete)}")
        absent = [row for row in rows if not row.annotations]
        if absent:
            print(f"  no annotations{_names([row.language for row in absent])}; {_looked_for(absent[0])}")
        for row in rows:
            if row.annotations and row.problem:
                print(f"  {row.language}: {row.problem}")
        lacking = [row for row in rows if row.missing]
        if lacking:
            most = max(lacking, key=lambda row: row.missing)
            print(
                f"  images missing{_names([row.language for row in lacking])}: up to {most.missing:,} of {most.images:,}, "
                f"such as {most.example}; looked in {', '.join(most.places)}"
            )
        if len(complete) < len(rows):
            print(f"  get: {rows[0].source}")


def _names(codes: list[str]) -> str:
    return f" ({' '.join(codes)})" if codes else ""


def _looked_for(row: Finding) -> str:
    return "looked for " + row.problem.rpartition("looked for ")[2]
