"""``mblip eval``: from the name of a model to scores, through predictions that are kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mblip.config import EvalRecipe
from mblip.errors import InputError
from mblip.evaluation.answerers import Answerer, load_answerer
from mblip.evaluation.benchmark import Benchmark, Options, Scored, gold_texts
from mblip.evaluation.benchmarks import evaluated
from mblip.evaluation.metrics.fidelity import Detector, LinguaDetector
from mblip.evaluation.predictions import match_answers, read_answers
from mblip.evaluation.results import (
    PREDICTIONS,
    RUN,
    SCORES,
    ItemScore,
    Run,
    predictions_path,
    read_predictions,
    read_run,
    read_scores,
    write_items,
    write_run,
    write_scores,
)
from mblip.evaluation.scoring import describe_data, score_items
from mblip.evaluation.tasks import Task, load_tasks
from mblip.mixture.templates import was_seen
from mblip.schema import Prediction, Score
from mblip.storage import JsonlWriter, no_empty_folders, sha256_file

if TYPE_CHECKING:
    from mblip.evaluation.runner import Processes, Progress

_PLACEHOLDER = "⟨text⟩"


@dataclass(frozen=True, slots=True)
class Machine:
    """What a model is run with; none of it is part of the benchmark.

    Attributes:
        endpoint: See :func:`~mblip.evaluation.answerers.load_answerer`, as the next three.
        quantization: ``none``, ``int8`` or ``nf4``.
        dtype: ``fp32``, ``bf16`` or empty.
        batch_size: Texts that run together.
    """

    endpoint: str = ""
    quantization: str = "none"
    dtype: str = ""
    batch_size: int = 64


def evaluate(
    model: str,
    recipe: EvalRecipe,
    root: Path,
    directory: Path,
    images: Sequence[str] = (),
    allow_missing: bool = False,
    machine: Machine = Machine(),
    processes: Processes | None = None,
    progress: Progress = lambda done, total: None,
) -> list[Score]:
    """Evaluate a model, or a file of predictions, and write the run directory (:mod:`mblip.evaluation.results`).

    A directory that holds a part of it goes on; scores of other benchmarks in it stay.

    Args:
        model: See :func:`~mblip.evaluation.answerers.load_answerer`; or a file of predictions of one benchmark in one
            language, or a folder of ``<benchmark>-<language>.jsonl`` (or ``.json``) files.
        recipe: What is evaluated, and how.
        root: Annotations and images are below it.
        directory: Where to.
        images: Image stores to look in before the benchmarks' own folders.
        allow_missing: Leave out items without a picture (or prediction), counted, instead of refusing.
        machine: How the model is run.
        processes: Who shares the work; by default the ones Accelerate knows.
        progress: See :func:`~mblip.evaluation.runner.answer_tasks`.

    Returns:
        The scores, in the order of the recipe; empty in all processes but the first.

    Raises:
        InputError: Something is missing, or the directory holds another model's answers.
    """
    benchmarks = list(dict.fromkeys(found.name for name in recipe.benchmarks for found in evaluated(name)))
    chosen = [evaluated(name)[0] for name in benchmarks]
    _check_protocol(chosen, recipe.protocol)
    tasks = load_tasks(chosen, root, recipe.languages, recipe.prompts, images, recipe.limit, allow_missing)
    detector = _detector(chosen)
    if processes is None:  # after what is missing has been named: torch takes seconds
        from accelerate import PartialState

        processes = PartialState()
    if _is_predictions(model, machine):
        if not processes.is_main_process:
            return []
        files = [_predictions_of(task, Path(model), len(tasks) == 1) for task in tasks]
        pairs = list(zip(tasks, files, strict=True))
        matched = [_match(task, file, allow_missing) for task, file in pairs]
        _keep_run(directory, Run(model, "predictions", {}, "predictions", recipe.prompts, recipe.limit))
        scores = [
            _take_predictions(task, file, directory, answers, counts, detector)
            for (task, file), (answers, counts) in zip(pairs, matched, strict=True)
        ]
        return _keep_scores(directory, scores)
    from mblip.evaluation.runner import answer_tasks

    device = getattr(processes, "device", None)
    answerer = load_answerer(model, **dataclasses.asdict(machine), device=device)
    run = Run(answerer.model, answerer.kind, answerer.identity, recipe.protocol, recipe.prompts, recipe.limit)
    with _begun(directory) if processes.num_processes == 1 else nullcontext():  # others may have answered
        if processes.is_main_process:
            _keep_run(directory, run)
        answer_tasks(tasks, answerer, directory, processes, recipe.protocol, allow_missing, progress)
        if not processes.is_main_process:
            return []
        scores = [_score(task, run, directory, _how(task, run, answerer), allow_missing, detector) for task in tasks]
    return _keep_scores(directory, scores)


def _how(task: Task, run: Run, answerer: Answerer) -> dict[str, Any]:
    """How answers came about, for the fingerprint."""
    trained = getattr(answerer, "trained_prompts", None)
    seen = {"prompt_seen_in_training": was_seen(task.prompt, trained, (item.text for item in task.items))}
    if run.protocol == "candidates":
        return {**seen, "candidates": list(task.benchmark.candidates)}
    return {**seen, "decoding": answerer.decoding(task.benchmark.decoding)}


def _check_protocol(benchmarks: Sequence[Benchmark], protocol: str) -> None:
    open_ended = [benchmark.name for benchmark in benchmarks if not benchmark.candidates]
    if protocol == "candidates" and open_ended:
        raise InputError(
            f"candidates can be scored only where the answers are given, which those of {', '.join(open_ended)} are not; "
            "leave them out, or generate"
        )


def _is_predictions(model: str, machine: Machine) -> bool:
    path = Path(model)
    if machine.endpoint or (path / "config.json").exists() or (path / "mblip.json").exists():
        return False
    files = [*path.glob("*.json"), *path.glob("*.jsonl"), *path.glob("predictions/*.jsonl")] if path.is_dir() else []
    return bool(files) or (path.suffix in (".json", ".jsonl") and path.is_file())


def _match(task: Task, path: Path, allow_missing: bool) -> tuple[dict[str, str], dict[str, int]]:
    answers = read_answers(path, task.benchmark, task.language)
    return match_answers(task.items, answers, task.benchmark, task.path, path, allow_missing)


def _take_predictions(
    task: Task,
    path: Path,
    directory: Path,
    matched: dict[str, str],
    counts: dict[str, int],
    detector: Detector | None,
) -> Score:
    """Score a task from a file, and keep the answers as a run does."""
    rows = [
        Prediction(item.id, task.benchmark.name, task.language, item.images, "", matched[item.id])
        for item in task.items
        if item.id in matched
    ]
    with JsonlWriter(predictions_path(directory, task.benchmark.name, task.language)) as writer:
        for row in rows:
            writer.write(row)
    fingerprint = {**_data(task), **counts, "model": {"name": path.name}, "predictions_sha256": sha256_file(path)}
    return _finish(task, directory, matched, fingerprint, "predictions", detector)


def _predictions_of(task: Task, source: Path, alone: bool) -> Path:
    if source.is_file():
        if not alone:
            raise InputError(
                f"{source} is one file; give a folder of BENCHMARK-LANGUAGE.jsonl files, or one benchmark in one language"
            )
        return source
    name = f"{task.benchmark.name}-{task.language}"
    for path in (source / f"predictions/{name}.jsonl", source / f"{name}.jsonl", source / f"{name}.json"):
        if path.is_file():
            return path
    raise InputError(f"{source} has no predictions for {task.name}; it needs a file {name}.jsonl")


def _score(
    task: Task, run: Run, directory: Path, how: dict[str, Any], allow_missing: bool, detector: Detector | None
) -> Score:
    rows = read_predictions(directory, task.benchmark.name, task.language)
    answers = {name: row.answer for name, row in rows.items()}
    lacking = [item.id for item in task.items if item.id not in answers]
    if lacking and not (allow_missing and answers):
        raise InputError(
            f"{task.name} has no answer for {len(lacking)} of its {len(task.items)} items, such as {lacking[0]!r}, in "
            f"{directory}; run the same command again"
        )
    counts = {"without_image": task.without_image, "without_answer": len(lacking)}
    fingerprint = {
        **_data(task),
        **{name: count for name, count in counts.items() if count},
        **({"limit": run.limit} if run.limit is not None else {}),
        "model": {"name": run.model, "kind": run.kind, **run.identity},
        "prompts": run.prompts,
        "prompt": task.prompt.format(text=_PLACEHOLDER),
        **how,
    }
    return _finish(task, directory, answers, fingerprint, run.protocol, detector)


def _data(task: Task) -> dict[str, Any]:
    return {**describe_data(task.benchmark, task.path, task.language), "items_in_data": task.items_in_data}


def _finish(
    task: Task,
    directory: Path,
    answers: dict[str, str],
    fingerprint: dict[str, Any],
    protocol: str,
    detector: Detector | None,
) -> Score:
    items = [item for item in task.items if item.id in answers]
    options = Options(task.benchmark.choose_variant(""), task.language, "")
    score, scored = score_items(task.benchmark, items, answers, options, fingerprint, protocol, detector)
    write_items(directory, task.benchmark.name, task.language, _values(scored))
    return score


def _values(scored: Scored) -> list[ItemScore]:
    return [
        ItemScore(
            item.id, item.images, item.text, gold_texts(item.gold),
            {name: float(values[number]) for name, values in scored.per_item.items()},
        )
        for number, item in enumerate(scored.items)
    ]  # fmt: skip


@contextmanager
def _begun(directory: Path) -> Iterator[None]:
    """Nothing stays of an evaluation that stops before its first answer: there is nothing to go on from."""
    begun = (directory / RUN).exists()
    with no_empty_folders(directory / PREDICTIONS):
        try:
            yield
        except BaseException:
            files = [*(directory / PREDICTIONS).glob("*.jsonl")]
            if not begun and not any(path.stat().st_size for path in files):
                for path in (*files, directory / RUN):
                    path.unlink(missing_ok=True)
            raise


def _keep_run(directory: Path, run: Run) -> None:
    if (directory / RUN).exists():
        held = read_run(directory)
        differing = [
            field.name for field in dataclasses.fields(Run) if getattr(held, field.name) != getattr(run, field.name)
        ]
        if differing:
            what, before, now = differing[0], getattr(held, differing[0]), getattr(run, differing[0])
            raise InputError(
                f"{directory} holds an evaluation with {what} {before!r}, not {now!r}; name another folder with --to"
            )
    write_run(directory, run)


def _keep_scores(directory: Path, scores: list[Score]) -> list[Score]:
    """Write the scores into the directory, beside those of other benchmarks and languages in it."""
    held = read_scores(directory) if (directory / SCORES).exists() else []
    by_task = {(score.benchmark, score.language): score for score in [*held, *scores]}
    write_scores(directory, list(by_task.values()))
    return scores


def _detector(benchmarks: Sequence[Benchmark]) -> Detector | None:
    """Tells languages, where a benchmark wants to know and lingua is installed."""
    if any(benchmark.tells_language for benchmark in benchmarks) and find_spec("lingua"):
        return LinguaDetector()
    return None
