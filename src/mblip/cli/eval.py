"""``mblip eval``: evaluate a model on benchmarks."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mblip.errors import InputError

if TYPE_CHECKING:
    from mblip.evaluation.about import About
    from mblip.schema import Score

_CHOICES = {
    "quantization": ("none", "int8", "nf4"),
    "sets": ("official", "paper"),
    "pictures": ("correct", "original"),
}


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="eval")(evaluate)


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="Run directory, checkpoint or Hub id (of mblip, or any image-text-to-text model), a file or folder of "
            "predictions, dummy, or with --endpoint a model's name there.",
            metavar="MODEL",
        ),
    ],
    more: Annotated[
        list[str] | None, typer.Argument(help="More benchmarks, after --suite NAME.", metavar="[NAME]...")
    ] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(
            help="A recipe (paper, quick, hallucination, candidates, a YAML file) or benchmarks by name; quick by default."
        ),
    ] = None,
    data: Annotated[Path, typer.Option(help="Folder below which annotations and images are.")] = Path("data"),
    table: Annotated[
        Path | None,
        typer.Option(help="Your own test set: CSV, TSV, JSON lines, JSON or Parquet; with --task and --language."),
    ] = None,
    task: Annotated[str, typer.Option(help="Task of the table: caption, vqa or choice.")] = "",
    language: Annotated[str, typer.Option(help="Language of the table, by any name or code.")] = "",
    columns: Annotated[
        list[str] | None,
        typer.Option(
            help="Columns of the table by role, such as image=file,caption=text; common names are found without it."
        ),
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Run directory; runs/eval-MODEL by default.")] = None,
    languages: Annotated[
        str, typer.Option(help="Evaluate only these languages, by any name or code, separated by commas.")
    ] = "",
    images: Annotated[
        list[str] | None, typer.Option(help="Folder or tar of images to search first; may be repeated.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, help="Maximum number of images per benchmark and language: the first ones of each task, in turn."
        ),
    ] = None,
    prompts: Annotated[
        str,
        typer.Option(
            help="paper, original (the original's language names), finetuned, or a YAML file of your own prompts."
        ),
    ] = "",
    sets: Annotated[
        str, typer.Option(help="official, or paper: the items that the original mBLIP scored, where they differ.")
    ] = "",
    variant: Annotated[
        str, typer.Option(help="Variant of the metrics, for benchmarks that have it; mblip is the original's.")
    ] = "",
    pictures: Annotated[
        str, typer.Option(help="correct, or original: as stored, neither rotated nor put on white.")
    ] = "",
    candidates: Annotated[
        bool,
        typer.Option(
            "--candidates", help="Choose the most likely of the possible answers instead of generating an answer."
        ),
    ] = False,
    allow_missing: Annotated[
        bool,
        typer.Option(
            "--allow-missing", help="Leave out and count items without an image, answer or usable prediction."
        ),
    ] = False,
    endpoint: Annotated[
        str, typer.Option(help="Base address of an OpenAI-compatible API; the key is read from OPENAI_API_KEY.")
    ] = "",
    extra_body: Annotated[
        str, typer.Option(help='Fields of every request to the endpoint, as JSON: {"top_k": 1}; null removes one.')
    ] = "",
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--no-chat",
            help="For a LLaVA: use its chat template or plain prompts; by default, as in its training.",
        ),
    ] = None,
    quantization: Annotated[
        str, typer.Option(help="Quantization of the language model, for mblip models: none, int8 or nf4.")
    ] = "none",
    dtype: Annotated[
        str, typer.Option(help="Data type of the weights: fp32 or bf16; by default the type in which they were saved.")
    ] = "",
    batch_size: Annotated[
        int,
        typer.Option(min=1, help="Number of texts in a batch, or of parallel requests to an endpoint (at most 32)."),
    ] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as one JSON list.")] = False,
) -> None:
    """Evaluate a model zero-shot, as in the paper. Run the same command again to continue an interrupted run."""
    from mblip.languages import find_languages
    from mblip.models.locate import exists, find_model, know_languages, locate

    for option, value in (("quantization", quantization), ("sets", sets), ("pictures", pictures)):
        if value and value not in _CHOICES[option]:
            raise InputError(f"--{option} is one of {', '.join(_CHOICES[option])}, not {value!r}")
    if not endpoint:
        know_languages(model)
    codes = tuple(language.code for language in find_languages(languages))
    names = [
        part for value in [*(suite or ([] if table else ["quick"])), *(more or [])] for part in value.split(",") if part
    ]
    fetched = not endpoint and model != "dummy" and not exists(Path(model)) and find_model(model) is None
    from mblip.config import EvalRecipe
    from mblip.evaluation.suites import load_suite, needs_data
    from mblip.evaluation.tables import table_section

    recipe = load_suite(names) if names else EvalRecipe(title=f"{table}")
    if table or task or language or columns:
        recipe = recipe.model_copy(
            update={"tables": (*recipe.tables, table_section(table, task, language, columns or ()))}
        )
    if not data.is_dir() and needs_data(recipe):
        raise InputError(f"--data {data} is not a folder; mblip doctor DATA_ROOT says what belongs in it")
    if fetched:
        locate(model)  # a download shows its own bar
    protocol = "candidates" if candidates else ""
    changes = {"languages": codes, "limit": limit, "prompts": prompts, "protocol": protocol}
    changes |= {"sets": sets, "variant": variant, "pictures": pictures}
    recipe = recipe.model_copy(update={name: value for name, value in changes.items() if value})
    recipe = recipe if chat is None else recipe.model_copy(update={"chat": chat})
    stem = re.sub(r"[^\w.-]+", "-", model).strip("-.")
    directory = to or Path("runs") / f"eval-{stem}"
    from mblip.cli._progress import ProgressBars, log_shown
    from mblip.evaluation.evaluate import RuntimeOptions, evaluate  # takes seconds, so the options are checked first

    runtime = RuntimeOptions(
        endpoint, quantization, dtype, batch_size, _fields(extra_body), tuple(images or ()), allow_missing
    )
    bars = ProgressBars("answers", quiet=os.environ.get("RANK", "0") != "0")
    with bars as progress, log_shown(progress.say), _stopped(directory):
        scores = evaluate(model, recipe, data, directory, runtime, progress=progress)
    if as_json and scores:
        from dataclasses import asdict

        print(json.dumps([asdict(score) for score in scores], ensure_ascii=False, indent=2))
    elif scores:
        from mblip.evaluation.about import read_about
        from mblip.evaluation.results import read_scores
        from mblip.evaluation.transfer import transfer_gaps

        kept = read_scores(directory)
        about = read_about(directory, {score.benchmark: None for score in kept})
        _print(scores, about)
        for gap in transfer_gaps(kept, about):
            each = "  ".join(f"{code} {value:+.3f}" for code, value in gap.languages.items())
            print(f"{gap.benchmark:<20} English minus others, {gap.metric}: mean {gap.mean:+.3f}  {each}")
        print(f"written to {directory / 'scores.json'}")


@contextmanager
def _stopped(directory: Path) -> Iterator[None]:
    """Let SIGTERM, which schedulers send, stop like Ctrl-C: answers are kept, and a line says so."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop) if threading.current_thread() is threading.main_thread() else None
    try:
        yield
    except KeyboardInterrupt:
        print(f"mblip: the answers so far are kept in {directory}", file=sys.stderr)
        raise
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _fields(text: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f'--extra-body is not valid JSON ({error}); write it as {{"top_k": 1}}, in single quotes'
        ) from error
    if not isinstance(fields, dict):
        raise InputError(f'--extra-body must be a JSON object such as {{"top_k": 1}}, not {text!r:.100}')
    return fields


def _print(scores: list[Score], about: dict[str, About]) -> None:
    for score in scores:
        name = next((m.name for m in about[score.benchmark].metrics if m.name in score.metrics), min(score.metrics))
        value = score.metrics[name]
        unit = " %" if about[score.benchmark].metric(name).unit == "%" else ""
        low, high = score.ci95.get(name, (None, None))
        interval = "" if low is None else f"  [{low:.3f}, {high:.3f}]"
        fidelity = "" if score.language_fidelity is None else f"  in language {100 * score.language_fidelity:.1f} %"
        asked = f"{score.n:,} of {score.fingerprint['items_in_data']:,}"
        print(f"{score.benchmark:<20} {score.language:<4} {name} {value:.3f}{unit}{interval}  n {asked}{fidelity}")
        if "remark" in score.fingerprint:
            print(f"{'':<20} {score.fingerprint['remark']}")
