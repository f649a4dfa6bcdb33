"""``mblip eval``: from the name of a model to scores, through predictions that are kept."""

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
from mblip.evaluation.keeping import begun, held, keep_run, keep_scores
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
from mblip.storage import UnreadableImage, sha256_file

if TYPE_CHECKING:
    from mblip.evaluation.runner import Processes

_log = logging.getLogger(__name__)
_PLACEHOLDER = "⟨text⟩"
_NAMED = 5  # items without an answer that an error names


@dataclass(frozen=True, slots=True)
class Machine:
    """How an evaluation is run; none of it is part of the benchmark.

    Attributes:
        endpoint: See :func:`~mblip.evaluation.answerers.load_answerer`, as the next three.
        quantization: ``none``, ``int8`` or ``nf4``.
        dtype: ``fp32``, ``bf16`` or empty.
        batch_size: Texts that run together, or requests under way at an endpoint.
        extra_body: Fields that every request to an endpoint has besides; one that is None is left out.
        images: Image stores to look in before the benchmarks' own folders.
        allow_missing: Leave out items without a picture, answer or prediction, counted, instead of refusing.
    """

    endpoint: str = ""
    quantization: str = "none"
    dtype: str = ""
    batch_size: int = 64
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    images: Sequence[str] = ()
    allow_missing: bool = False

    def load(self, model: str, device: Any = None, chat: bool | None = None) -> Answerer:
        """The model that these options are for; ``chat`` as :func:`~mblip.evaluation.answerers.load_answerer` takes it."""
        return load_answerer(
            model, endpoint=self.endpoint, quantization=self.quantization, dtype=self.dtype, batch_size=self.batch_size,
            extra_body=self.extra_body, device=device, chat=chat,
        )  # fmt: skip


def evaluate(
    model: str,
    recipe: EvalRecipe,
    root: Path,
    directory: Path,
    machine: Machine = Machine(),
    processes: Processes | None = None,
    progress: Progress = silent,
) -> list[Score]:
    """Evaluate a model, or a file of predictions, and write the run directory (:mod:`mblip.evaluation.results`).

    A directory that holds a part of it goes on; scores of other benchmarks in it stay. A benchmark that the model cannot take
    is left out, and a warning in the log says why.

    Args:
        model: See :func:`~mblip.evaluation.answerers.load_answerer`; or a file of predictions of one benchmark in one
            language, or a folder of ``<benchmark>-<language>.jsonl`` (or ``.json``) files.
        recipe: What is evaluated, and how.
        root: Annotations and images are below it.
        directory: Where to.
        machine: How it is run.
        processes: Who shares the work; by default the ones Accelerate knows.
        progress: See :func:`~mblip.evaluation.runner.answer_tasks`.

    Returns:
        The scores, in the order of the recipe; empty in all processes but the first.

    Raises:
        InputError: Something is missing, or the directory holds another model's answers.
    """
    benchmarks = list(dict.fromkeys(found.name for name in recipe.benchmarks for found in evaluated(name)))
    chosen = [evaluated(name)[0] for name in benchmarks]
    existing = not machine.endpoint and is_predictions(model)
    chosen += read_tables(recipe, root, machine.images, machine.allow_missing, pictures=not existing)
    _check_protocol(chosen, recipe.protocol)
    _check_variant(chosen, recipe.variant)
    tasks = load_tasks(
        chosen, root, recipe.languages, recipe.prompts, machine.images, recipe.limit, machine.allow_missing,
        pictures=not existing, sets=recipe.sets, as_stored=recipe.pictures == "original",
    )  # fmt: skip
    detector = _detector(chosen)
    if processes is None:  # after what is missing has been named: torch takes seconds
        from accelerate import PartialState

        processes = PartialState()
    if existing:
        return (
            _score_existing(tasks, Path(model), recipe, directory, machine.allow_missing, detector)
            if processes.is_main_process
            else []
        )
    from mblip.evaluation.runner import answer_tasks

    answerer = machine.load(model, getattr(processes, "device", None), recipe.chat)
    tasks = _possible(tasks, answerer, says_why=processes.is_main_process)
    how = {task.benchmark.name: _how(task.benchmark, recipe.protocol, answerer) for task in tasks}
    run = Run(
        answerer.model, answerer.kind, answerer.identity, recipe.protocol, recipe.prompts, recipe.limit, decoding=how,
        sets=recipe.sets, pictures=recipe.pictures,
    )  # fmt: skip
    with (
        held(directory) if processes.is_main_process else nullcontext(),
        (
            begun(directory) if processes.num_processes == 1 else nullcontext()  # others may have answered
        ),
    ):
        if processes.is_main_process:
            keep_run(directory, run)
        answer_tasks(tasks, answerer, directory, processes, recipe.protocol, progress)
        if not processes.is_main_process:
            return []
        trained = getattr(answerer, "trained_prompts", None)
        seen = {task.name: was_seen(task.prompt, trained, (item.text for item in task.items)) for task in tasks}
        return _score_run(tasks, run, recipe.variant, directory, machine.allow_missing, detector, seen)


def _possible(tasks: Sequence[Task], answerer: Answerer, *, says_why: bool) -> list[Task]:
    """The tasks that a model can take; what it cannot is left out, with a warning where that is wanted.

    Raises:
        InputError: It can take none.
    """
    reasons = {}
    for task in tasks:
        if task.benchmark.name not in reasons:
            try:
                reasons[task.benchmark.name] = answerer.refusal(task.ask(task.items[0]), task.pictures.get)
            except UnreadableImage:  # told when its turn comes
                reasons[task.benchmark.name] = ""
    possible = [task for task in tasks if not reasons[task.benchmark.name]]
    if not possible:
        raise InputError("; ".join(f"{name}: {why}" for name, why in reasons.items()))
    for name, why in reasons.items():
        if why and says_why:
            _log.warning("%s is skipped: %s", name, why)
    return possible


def _how(benchmark: Benchmark, protocol: str, answerer: Answerer) -> dict[str, Any]:
    """How answers come about, for the fingerprint."""
    if protocol == "candidates":
        return {"candidates": list(benchmark.candidates) or "the options of each item"}
    return {"decoding": answerer.decoding(benchmark.decoding)}


def _check_protocol(benchmarks: Sequence[Benchmark], protocol: str) -> None:
    open_ended = [benchmark.name for benchmark in benchmarks if not (benchmark.candidates or benchmark.chooses)]
    if protocol == "candidates" and open_ended:
        raise InputError(
            f"candidates can be scored only where the answers are given, which those of {', '.join(open_ended)} are not; "
            "leave them out, or generate"
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
    with held(directory):
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
    """Score every task whose answers are complete, and then say which are not.

    Args:
        tasks: What was asked.
        run: How.
        variant: Of the metrics, where a benchmark has it.
        directory: The evaluation.
        allow_missing: Leave items without an answer out, counted.
        detector: Tells the language of answers.
        seen: By name of the task, whether its prompt was seen in training; None where nobody knows.

    Raises:
        InputError: Items have no answer, and may not be left out; names them with the reasons.
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
            # What takes one picture and not two says so to each item.
            why = read_missing(directory, task.benchmark.name, task.language).get(without[0].id, "it gave no answer")
            _log.warning(
                "%s is skipped, as the model answers none of its items, which show several pictures: %s", name, why
            )
            del lacking[name]
    if lacking:
        raise InputError(_complaint(list(lacking.values()), directory))
    return scores


def _complaint(lacking: Sequence[tuple[Task, Sequence[Item]]], directory: Path) -> str:
    """One sentence about all items without an answer."""
    named = []
    for task, items in lacking:
        reasons = read_missing(directory, task.benchmark.name, task.language)
        named += [f"{task.name} {item.id!r}: {reasons.get(item.id, 'no answer')}" for item in items]
    more = f"; and {len(named) - _NAMED} more, listed in {directory / MISSING}" if len(named) > _NAMED else ""
    have = "items have" if len(named) > 1 else "item has"
    return (
        f"{len(named)} {have} no answer: {'; '.join(named[:_NAMED])}{more}; all others are kept in {directory}: the same "
        "command asks for these again, and --allow-missing leaves them out, counted"
    )


def _data(task: Task) -> dict[str, Any]:
    data = describe_data(task.benchmark, task.path, task.language, task.chosen_by)
    return {**data, "items_in_data": task.items_in_data}


def _chosen(run: Run) -> dict[str, Any]:
    """What was asked otherwise than by default."""
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
    """Tells languages, where a benchmark wants to know and lingua is installed."""
    if any(benchmark.tells_language for benchmark in benchmarks) and find_spec("lingua"):
        return LinguaDetector()
    return None
