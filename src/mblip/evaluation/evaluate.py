"""``mblip eval``: from the name of a model to scores, with saved predictions in between."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mblip.config import EvalRecipe
from mblip.errors import InputError, nearest
from mblip.evaluation.answerers import Answerer, load_answerer
from mblip.evaluation.benchmark import Benchmark, Item, Options, Scored, gold_texts
from mblip.evaluation.benchmarks import evaluated
from mblip.evaluation.existing import find_answers, is_predictions, keep_answers
from mblip.evaluation.keeping import begun, keep_run, keep_scores
from mblip.evaluation.metrics.fidelity import Detector, LinguaDetector
from mblip.evaluation.predictions import Matched
from mblip.evaluation.results import MISSING, ItemScore, Run, read_missing, read_predictions, write_items
from mblip.evaluation.scoring import describe_data, score_items
from mblip.evaluation.tables import read_tables
from mblip.evaluation.tasks import Task, load_tasks
from mblip.mixture.templates import was_seen
from mblip.progress import Progress, silent
from mblip.replies import RULES
from mblip.schema import Score
from mblip.storage import UnreadableImage, own_folder, sha256_file

if TYPE_CHECKING:
    from mblip.evaluation.runner import Processes

_log = logging.getLogger(__name__)
_PLACEHOLDER = "⟨text⟩"
_NAMED = 5  # number of unanswered items that an error lists


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """Options of how an evaluation runs, independent of the benchmark.

    Attributes:
        endpoint: See :func:`~mblip.evaluation.answerers.load_answerer`.
        quantization: ``none``, ``int8`` or ``nf4``.
        dtype: ``fp32``, ``bf16`` or empty.
        batch_size: Number of texts that run together, or of parallel requests to an endpoint.
        extra_body: Additional fields of every request to an endpoint; a field that is None is removed.
        images: Image stores to search before the benchmarks' own folders.
        allow_missing: Leave out and count items without a picture, answer or prediction, instead of refusing.
    """

    endpoint: str = ""
    quantization: str = "none"
    dtype: str = ""
    batch_size: int = 64
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    images: Sequence[str] = ()
    allow_missing: bool = False

    def load(self, model: str, device: Any = None, chat: bool | None = None) -> Answerer:
        """Load the model with these options; ``chat`` as in :func:`~mblip.evaluation.answerers.load_answerer`."""
        return load_answerer(
            model, endpoint=self.endpoint, quantization=self.quantization, dtype=self.dtype, batch_size=self.batch_size,
            extra_body=self.extra_body, device=device, chat=chat,
        )  # fmt: skip


def evaluate(
    model: str,
    recipe: EvalRecipe,
    root: Path,
    directory: Path,
    runtime: RuntimeOptions = RuntimeOptions(),
    processes: Processes | None = None,
    progress: Progress = silent,
) -> list[Score]:
    """Evaluate a model, or a file of predictions, and write the run directory (:mod:`mblip.evaluation.results`).

    A partial evaluation in the directory is continued, and scores of other benchmarks in it are kept. A benchmark that
    the model cannot take is skipped with a warning in the log.

    Args:
        model: See :func:`~mblip.evaluation.answerers.load_answerer`; or a file of predictions of one benchmark in one
            language, or a folder of ``<benchmark>-<language>.jsonl`` (or ``.json``) files.
        recipe: Benchmarks and settings.
        root: Folder of annotations and images.
        directory: The run directory.
        runtime: Options of how it runs.
        processes: The processes that share the work; by default those that Accelerate knows.
        progress: See :func:`~mblip.evaluation.runner.answer_tasks`.

    Returns:
        The scores, in the order of the recipe; empty in all processes except the first.

    Raises:
        InputError: Something is missing, or the directory holds another model's answers.
    """
    benchmarks = list(dict.fromkeys(found.name for name in recipe.benchmarks for found in evaluated(name)))
    chosen = [evaluated(name)[0] for name in benchmarks]
    existing = not runtime.endpoint and is_predictions(model)
    chosen += read_tables(recipe, root, runtime.images, runtime.allow_missing, pictures=not existing)
    _check_protocol(chosen, recipe.protocol)
    _check_variant(chosen, recipe.variant)
    tasks = load_tasks(
        chosen, root, recipe.languages, recipe.prompts, runtime.images, recipe.limit, runtime.allow_missing,
        pictures=not existing, sets=recipe.sets, as_stored=recipe.pictures == "original",
    )  # fmt: skip
    detector = _detector(chosen)
    if processes is None:  # after the checks for missing files, because importing torch takes seconds
        from accelerate import PartialState

        processes = PartialState()
    if existing:
        return (
            _score_existing(tasks, Path(model), recipe, directory, runtime.allow_missing, detector)
            if processes.is_main_process
            else []
        )
    from mblip.evaluation.runner import answer_tasks

    answerer = runtime.load(model, getattr(processes, "device", None), recipe.chat)
    tasks = _possible(tasks, answerer, says_why=processes.is_main_process)
    how = {task.benchmark.name: _how(task.benchmark, recipe.protocol, answerer) for task in tasks}
    run = Run(
        answerer.model, answerer.kind, answerer.identity, recipe.protocol, recipe.prompts, recipe.limit, decoding=how,
        sets=recipe.sets, pictures=recipe.pictures,
    )  # fmt: skip
    with (
        own_folder(directory, "evaluating") if processes.is_main_process else nullcontext(),
        (
            begun(directory) if processes.num_processes == 1 else nullcontext()  # other processes may have answered
        ),
    ):
        if processes.is_main_process:
            keep_run(directory, run)
        answer_tasks(tasks, answerer, directory, processes, recipe.protocol, progress)
        if not processes.is_main_process:
            return []
        trained = getattr(answerer, "trained_prompts", None)
        seen = {task.name: was_seen(task.prompt, trained, (item.text for item in task.items)) for task in tasks}
        return _score_run(tasks, run, recipe.variant, directory, runtime.allow_missing, detector, seen)


def _possible(tasks: Sequence[Task], answerer: Answerer, *, says_why: bool) -> list[Task]:
    """The tasks that a model can take; others are left out, with a warning if ``says_why``.

    Raises:
        InputError: The model can take none.
    """
    reasons = {}
    for task in tasks:
        if task.benchmark.name not in reasons:
            try:
                reasons[task.benchmark.name] = answerer.refusal(task.ask(task.items[0]), task.pictures.get)
            except UnreadableImage:  # reported when its turn comes
                reasons[task.benchmark.name] = ""
    possible = [task for task in tasks if not reasons[task.benchmark.name]]
    if not possible:
        raise InputError("; ".join(f"{name}: {why}" for name, why in reasons.items()))
    for name, why in reasons.items():
        if why and says_why:
            _log.warning("%s is skipped: %s", name, why)
    return possible


def _how(benchmark: Benchmark, protocol: str, answerer: Answerer) -> dict[str, Any]:
    """The settings of decoding or candidates, for the fingerprint."""
    if protocol == "candidates":
        return {"candidates": list(benchmark.candidates) or "the options of each item"}
    return {"decoding": answerer.decoding(benchmark.decoding)}


def _check_protocol(benchmarks: Sequence[Benchmark], protocol: str) -> None:
    open_ended = [benchmark.name for benchmark in benchmarks if not (benchmark.candidates or benchmark.chooses)]
    if protocol == "candidates" and open_ended:
        raise InputError(
            f"candidate scoring needs a list of possible answers, which {', '.join(open_ended)} does not have: leave out "
            "either the benchmark or --candidates"
        )


def _check_variant(benchmarks: Sequence[Benchmark], variant: str) -> None:
    known = sorted({name for benchmark in benchmarks for name in benchmark.variants})
    if variant and variant not in known:
        names = ", ".join(benchmark.name for benchmark in benchmarks)
        raise InputError(f"none of {names} has a variant {variant!r}{nearest(variant, known)}")


def _score_existing(
    tasks: Sequence[Task],
    source: Path,
    recipe: EvalRecipe,
    directory: Path,
    allow_missing: bool,
    detector: Detector | None,
) -> list[Score]:
    found = find_answers(tasks, source, allow_missing)
    with own_folder(directory, "evaluating"):
        return _keep_existing(tasks, found, source, recipe, directory, detector)


def _keep_existing(
    tasks: Sequence[Task],
    found: Sequence[tuple[Path, Matched]],
    source: Path,
    recipe: EvalRecipe,
    directory: Path,
    detector: Detector | None,
) -> list[Score]:
    run = Run(str(source), "predictions", {}, "predictions", recipe.prompts, recipe.limit, sets=recipe.sets)
    keep_run(directory, run)
    scores = []
    for task, (path, matched) in zip(tasks, found, strict=True):
        keep_answers(directory, task, matched.answers)
        known = {"model": {"name": path.name}, "predictions_sha256": sha256_file(path), "replies": RULES}
        fingerprint = {**_data(task), **matched.counts, **_chosen(run), **known}
        scores.append(_finish(task, recipe.variant, directory, matched.answers, fingerprint, "predictions", detector))
    return keep_scores(directory, scores, [task.benchmark for task in tasks])


def _score_run(
    tasks: Sequence[Task],
    run: Run,
    variant: str,
    directory: Path,
    allow_missing: bool,
    detector: Detector | None,
    seen: Mapping[str, bool | None],
) -> list[Score]:
    """Score every task whose answers are complete, then report the others.

    Args:
        tasks: The tasks.
        run: The description of the run.
        variant: Variant of the metrics, for benchmarks that have it.
        directory: The run directory.
        allow_missing: Leave out and count items without an answer.
        detector: Identifies the language of answers.
        seen: By name of the task, whether its prompt was in training; None if unknown.

    Raises:
        InputError: Items have no answer and must not be left out; the message names them with the reasons.
    """
    scores, lacking = [], {}
    for task in tasks:
        rows = read_predictions(directory, task.benchmark.name, task.language)
        answers = {name: row.answer for name, row in rows.items()}
        without = [item for item in task.items if item.id not in answers]
        if without and not (allow_missing and answers):
            lacking[task.name] = (task, without)
            continue
        counts = {"without_image": task.without_image, "without_answer": len(without)}
        fingerprint = {
            **_data(task),
            **{name: count for name, count in counts.items() if count},
            **_chosen(run),
            "model": {"name": run.model, "kind": run.kind, **run.identity},
            "prompts": run.prompts,
            "prompt": task.prompt.format(text=_PLACEHOLDER),
            "prompt_seen_in_training": seen[task.name],
            **run.decoding[task.benchmark.name],
        }
        scores.append(_finish(task, variant, directory, answers, fingerprint, run.protocol, detector))
    if scores:
        keep_scores(directory, scores, [task.benchmark for task in tasks])
    for name, (task, without) in list(lacking.items()):
        if scores and len(without) == len(task.items) and len(task.items[0].images) > 1:
            # A model that takes one picture but not two fails on every item.
            why = read_missing(directory, task.benchmark.name, task.language).get(without[0].id, "it gave no answer")
            _log.warning(
                "%s is skipped, because the model cannot answer its items with several pictures: %s", name, why
            )
            del lacking[name]
    if lacking:
        raise InputError(_complaint(list(lacking.values()), directory))
    return scores


def _complaint(lacking: Sequence[tuple[Task, Sequence[Item]]], directory: Path) -> str:
    """A message about all items without an answer."""
    named = []
    for task, items in lacking:
        reasons = read_missing(directory, task.benchmark.name, task.language)
        named += [f"{task.name} {item.id!r}: {reasons.get(item.id, 'no answer')}" for item in items]
    more = f"; and {len(named) - _NAMED} more, listed in {directory / MISSING}" if len(named) > _NAMED else ""
    have = "items have" if len(named) > 1 else "item has"
    return (
        f"{len(named)} {have} no answer: {'; '.join(named[:_NAMED])}{more}; all others are kept in {directory}: the "
        "same command asks for these again, and --allow-missing leaves them out and counts them"
    )


def _data(task: Task) -> dict[str, Any]:
    data = describe_data(task.benchmark, task.path, task.language, task.chosen_by)
    return {**data, "items_in_data": task.items_in_data}


def _chosen(run: Run) -> dict[str, Any]:
    """The settings that differ from the defaults."""
    settings = {"limit": (run.limit, None), "sets": (run.sets, "official"), "pictures": (run.pictures, "correct")}
    return {name: value for name, (value, default) in settings.items() if value != default}


def _finish(
    task: Task,
    variant: str,
    directory: Path,
    answers: dict[str, str],
    fingerprint: dict[str, Any],
    protocol: str,
    detector: Detector | None,
) -> Score:
    items = [item for item in task.items if item.id in answers]
    own = variant if variant in task.benchmark.variants else ""
    options = Options(task.benchmark.choose_variant(own), task.language, "")
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


def _detector(benchmarks: Sequence[Benchmark]) -> Detector | None:
    """The language detector, if a benchmark needs one and lingua is installed."""
    if any(benchmark.tells_language for benchmark in benchmarks) and find_spec("lingua"):
        return LinguaDetector()
    return None
