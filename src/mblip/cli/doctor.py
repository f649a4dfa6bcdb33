"""``mblip doctor``: whether a folder of benchmarks or a model is fit for use, and what would mend it."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mblip.errors import InputError

if TYPE_CHECKING:
    from mblip.evaluation.doctor import Finding
    from mblip.models.doctor import ModelReport


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(doctor)


def doctor(
    what: Annotated[
        str,
        typer.Argument(
            help="A folder of benchmarks, or a model: run, checkpoint, Hub id or nano:NAME.", metavar="DATA_ROOT|MODEL"
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list (data) or object (model).")] = False,
) -> None:
    """Say what a folder of benchmarks lacks and where to get it, or what keeps a model from being used (exit code 1)."""
    folder = Path(what)
    is_model = any((folder / name).is_file() for name in ("config.json", "mblip.json"))
    if folder.is_dir() and not is_model:
        from mblip.evaluation.doctor import check_data

        _show_data(list(check_data(folder)), folder, as_json)
        return
    from mblip.models.locate import collection_of, find_local

    if not folder.exists() and "/" not in what and not collection_of(what):  # it would be looked for on the Hub
        raise InputError(
            f"there is no folder {what!r}; make it and ask again to see what belongs into it, or name a model of the Hub "
            "as ORG/NAME"
        )
    find_local(what)
    from mblip.models.doctor import check_model  # takes seconds

    report = check_model(what)
    _show_model(report, as_json)
    if not report.is_usable:
        raise typer.Exit(1)


def _show_model(report: ModelReport, as_json: bool) -> None:
    if as_json:
        from dataclasses import asdict

        print(json.dumps({**asdict(report), "is_usable": report.is_usable}, ensure_ascii=False, indent=2, default=str))
        return
    print(f"{report.path}: {report.kind or 'nothing that can be used'}")
    for name, value in report.facts.items():
        print(f"  {name}: {value}")
    for problem in report.problems:
        print(f"  problem: {problem}")


def _show_data(findings: list[Finding], root: Path, as_json: bool) -> None:
    if as_json:
        from dataclasses import asdict

        found = [{**asdict(finding), "is_complete": finding.is_complete} for finding in findings]
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    for name, group in groupby(findings, key=lambda finding: finding.benchmark):
        rows = list(group)
        complete = [row.language for row in rows if row.is_complete]
        print(f"{name}: {len(complete)} of {len(rows)} languages complete{_names(complete)}")
        absent = [row for row in rows if not row.annotations]
        if absent:
            print(f"  no annotations{_names([row.language for row in absent])}; {_looked_for(absent[0])}")
        problems: dict[str, list[str]] = {}
        for row in rows:
            if row.annotations and row.problem:
                problems.setdefault(row.problem.replace(repr(row.language), "these languages"), []).append(row.language)
        for problem, codes in problems.items():
            print(f"  {' '.join(codes)}: {problem}")
        lacking = [row for row in rows if row.missing]
        if lacking:
            most = max(lacking, key=lambda row: row.missing)
            places = ", ".join(str(Path(place).relative_to(root)) for place in most.places)
            print(
                f"  images missing{_names([row.language for row in lacking])}: up to {most.missing:,} of {most.images:,}, "
                f"such as {most.example}; looked in {places} below {root}"
            )
        if len(complete) < len(rows):
            print(f"  get: {rows[0].source}")


def _names(codes: list[str]) -> str:
    return f" ({' '.join(codes)})" if codes else ""


def _looked_for(row: Finding) -> str:
    return "looked for " + row.problem.rpartition("looked for ")[2]
