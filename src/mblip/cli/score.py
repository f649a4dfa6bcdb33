"""``mblip score``: compute metrics of existing predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mblip.errors import InputError, counted, leads_nowhere


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(score)


def score(
    benchmark: Annotated[str, typer.Argument(help="xgqa, xvnli, marvl, maxm, vqa, pope, chair, captions; or table.")],
    data: Annotated[
        Path, typer.Option(help="Annotation file of the benchmark, or a folder that contains it; or your own table.")
    ],
    predictions: Annotated[
        Path,
        typer.Option(
            help="File of predictions: JSON, JSON lines, CSV, TSV or Parquet, from any harness or from mblip."
        ),
    ],
    language: Annotated[
        str,
        typer.Option(help="Language of the data; by default the language that its path or rows name, otherwise en."),
    ] = "",
    variant: Annotated[str, typer.Option(help="Variant of the metric; by default the benchmark's first one.")] = "",
    segmenter: Annotated[str, typer.Option(help="Word segmenter for captions: none, characters or spacy.")] = "",
    allow_missing: Annotated[
        bool,
        typer.Option(
            "--allow-missing", help="Score only the items that have a usable prediction, and count the others."
        ),
    ] = False,
    task: Annotated[str, typer.Option(help="Task of a table: caption, vqa or choice.")] = "",
    columns: Annotated[
        list[str] | None,
        typer.Option(
            help="Columns of a table by role, such as image=file,caption=text; common names are found without it."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score predictions as the official scorer does. A fingerprint says what the numbers depend on."""
    for option, path in (("--data", data), ("--predictions", predictions)):
        if not path.exists() and not (benchmark == "table" and "*" in path.name):
            raise InputError(f"{option}: there is no {path}{leads_nowhere(path)}")
    from mblip.evaluation.benchmarks import find_benchmark
    from mblip.evaluation.metric import find_metric
    from mblip.evaluation.scoring import score_predictions
    from mblip.evaluation.tables import TABLE, own_table

    if benchmark == TABLE:
        asked = own_table(data, task, language, columns or (), allow_missing)
    elif task or columns:
        raise InputError(f"--task and --columns are for a table of your own: mblip score {TABLE}, not {benchmark}")
    else:
        asked = find_benchmark(benchmark)
    result, _ = score_predictions(asked, data, predictions, language, variant, segmenter, allow_missing)
    if as_json:
        fields = {"metrics": result.metrics, "n": result.n, "fingerprint": result.fingerprint}
        print(json.dumps(fields, ensure_ascii=False, indent=2))
        return
    print(f"{result.benchmark} ({result.language}, {result.fingerprint['variant']}), {counted(result.n, 'item')}")
    for name, value in result.metrics.items():
        low, high = result.ci95.get(name, (value, value))
        interval = f"  [{low:.2f}, {high:.2f}]" if name in result.ci95 else ""
        unit = find_metric(asked.metrics, name).unit
        print(f"  {name:<10} {value:.2f} {unit}{interval}" if unit else f"  {name:<10} {value:.4f}{interval}")
    print("fingerprint")
    for name, value in result.fingerprint.items():
        print(f"  {name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
