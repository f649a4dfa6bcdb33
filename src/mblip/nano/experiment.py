"""The nano experiment of ``mblip quickstart``, from mix to report, with or without all ablations."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState

from mblip.config import DataRecipe, TrainRecipe, load_recipe
from mblip.evaluation.answerers.mblip import MblipAnswerer
from mblip.evaluation.benchmark import Item
from mblip.evaluation.pictures import PictureSources
from mblip.evaluation.runner import answer_tasks
from mblip.evaluation.tasks import Task
from mblip.mixture import build_mix
from mblip.models.prepare import prepare_model
from mblip.nano.benchmark import BENCHMARK, TASKS, SceneItem, as_item, is_right, load_items
from mblip.nano.page import write_report
from mblip.nano.quickstart import ANSWERS, read_answers, samples
from mblip.nano.scores import score_scenes
from mblip.nano.words import load_lexicon
from mblip.storage import write_json
from mblip.training.logs import Note, StepLog, ValidationLog, read_steps
from mblip.training.run import train

Say = Callable[[str], None]
LEFT_OUT = "sw"
VALIDATION_SCENES = 20  # per language
BATCH = 256
MANY_LANGUAGES = "mul"  # ISO 639-2


@dataclass(frozen=True)
class Setting:
    """One setting of alignment: overrides of ``nano/align``, and its mix.

    ``claim`` is the paper's statement about it, in this project's words; the paper's figures are at full size.
    ``candidate`` settings learn from the complete mix: the best of those that ran, on validation scenes of held-out
    pairs, is the headline.
    """

    name: str
    says: str
    claim: str
    overrides: tuple[str, ...] = ()
    mix: str = "mix"
    tasks: tuple[str, ...] = ("naming", "naming_never_shown", "caption_2")
    quick: bool = False
    candidate: bool = False


SETTINGS = (
    Setting("multilingual", "the paper's setting: Q-Former, and LoRA at 20 times its rate, aligned on the multilingual mix",
            "re-aligning on a translated mix makes a model that works in all its languages", quick=True, candidate=True),
    Setting("english_only", "the same steps on the English mix",
            "far ahead of vision-LLMs trained in English alone", mix="mix_en", quick=True),
    Setting("no_realignment", "Q-Former of the English model, projection untrained",
            "the eyes of an English model have to be re-aligned",
            ("optim.steps=0", "model.fit_words=[]"), quick=True),
    Setting("fit_alone", "the projection solved for words, no step of training", "not tried there", ("optim.steps=0",)),
    Setting("random_qformer", "Q-Former from random weights",
            "starting from an aligned Q-Former is what makes it cheap", ("model.qformer=random",)),
    Setting("lora_off", "language model frozen", "LoRA on all linear layers throughout", ("parts.llm=frozen",),
            candidate=True),
    Setting("lora_small", "LoRA at the Q-Former's rate", "not tried there", ("optim.lora_lr=1e-4",), candidate=True),
    Setting("lora_large", "LoRA at 100 times the Q-Former's rate", "not tried there", ("optim.lora_lr=1e-2",), candidate=True),
    Setting("left_out", f"the mix without {LEFT_OUT}", "not tried there", (f"data.exclude_languages=[{LEFT_OUT}]",)),
)  # fmt: skip


def run_experiment(directory: Path, ablations: bool, seeds: int, say: Say, scenes: int = 50) -> dict[str, Any]:
    """Build the mixes, align in every setting, evaluate, and write report.html, report.md and report.json.

    Finished steps are kept: a run that was interrupted, or is run again, continues with the missing steps.

    Returns:
        The content of report.json.

    Raises:
        InputError: A base model is damaged, or the directory cannot be written.
    """
    started = time.perf_counter()
    prepare_model(load_recipe(TrainRecipe, "nano/align"))  # reports a damaged base before minutes are spent
    recipe = load_recipe(DataRecipe, "data/nano_scenes")
    manifest = build_mix(recipe, directory / "mix")
    say(f"mix: {manifest.rows:,} instructions in {len(manifest.by_language)} languages")
    settings = [setting for setting in SETTINGS if ablations or setting.quick]
    english = load_recipe(DataRecipe, "data/nano_scenes", ("allocation.languages=[en]", "allocation.task_languages={}"))
    build_mix(english, directory / "mix_en")
    held_out = recipe.translation.never_shown
    results: dict[str, Any] = {}
    for setting in settings:
        for seed in range(1, seeds + 1):
            _align(setting, directory, seed, say)
        results[setting.name] = _score(setting, directory, seeds, scenes, held_out)
        _say_scores(setting, results[setting.name], say)
    chosen = _choose([setting for setting in settings if setting.candidate], directory, seeds, held_out)
    main = results[chosen.name] = _score(replace(chosen, tasks=TASKS), directory, seeds, scenes, held_out)
    _say_scores(chosen, main, say)
    curve = read_steps(directory / f"{chosen.name}-1" / "metrics.jsonl")
    # The training may have run in another call.
    peaks = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, *(row.peak_memory_mib for row in curve)]
    report = {
        "setting": chosen.name,
        "headline": main["headline"],
        "tasks": main["tasks"],
        "languages": main["languages"],
        "ablations": {
            name: {key: result[key] for key in ("says", "claim", "headline", "tasks", "languages", "seeds")}
            for name, result in results.items()
        },
        "curve": [row.to_row() for row in curve],
        "mix": {"rows": manifest.rows, "tasks": manifest.by_task, "languages": manifest.by_language, "drops": manifest.drops},
        "seconds": _total_seconds(directory, time.perf_counter() - started),
        "peak_memory_mib": max(peaks),
    }  # fmt: skip
    write_json(directory / "report.json", report)
    write_report(report, directory, samples(directory / f"{chosen.name}-1"))
    return report


def _align(setting: Setting, directory: Path, seed: int, say: Say) -> None:
    run = directory / f"{setting.name}-{seed}"
    overrides = (*setting.overrides, f"seed={seed}", f"data.mix={directory / setting.mix}")

    def told(row: StepLog | ValidationLog | Note) -> None:
        if isinstance(row, StepLog):
            say(f"{run.name}: step {row.step}, loss {row.loss:.3f}, {row.seconds:.0f} s")
        elif isinstance(row, Note):
            say(f"{run.name}: {row.text}")

    train(load_recipe(TrainRecipe, "nano/align", overrides), run, told)


def _score(setting: Setting, directory: Path, seeds: int, scenes: int, held_out: float) -> dict[str, Any]:
    items = load_items(load_lexicon().named_languages(), scenes, setting.tasks, held_out)
    answers = [_answers(directory / f"{setting.name}-{seed}", ANSWERS, items) for seed in range(1, seeds + 1)]
    return {"says": setting.says, "claim": setting.claim, **score_scenes(items, answers)}


def _choose(settings: Sequence[Setting], directory: Path, seeds: int, held_out: float) -> Setting:
    """The setting that names most held-out pairs, on scenes that are not used for results."""
    if len(settings) == 1:
        return settings[0]
    items = load_items(
        load_lexicon().named_languages(), VALIDATION_SCENES, ("naming_never_shown",), held_out, "validation"
    )

    def right(setting: Setting) -> int:
        runs = [_answers(directory / f"{setting.name}-{seed}", "validation", items) for seed in range(1, seeds + 1)]
        return sum(is_right(item, run[item.id]) for run in runs for item in items)

    return max(settings, key=right)


def _answers(run: Path, name: str, items: Sequence[SceneItem]) -> dict[str, str]:
    """The answers of a run to items about scenes, by the runner of ``mblip eval``; existing answers are reused."""
    answerer = MblipAnswerer(str(run), run, "none", "fp32", BATCH)
    # A batch takes as many steps as its longest answer, so names (two tokens) must not share batches with lists.
    for task in _tasks(items):
        answer_tasks([task], answerer, run / name, PartialState())
    answers = read_answers(run / name)
    return {item.id: answers[item.id] for item in items}


def _tasks(items: Sequence[SceneItem]) -> Iterator[Task]:
    """The runner's tasks for some items: one per task of the items, in all languages, each with one file of answers."""
    pictures = PictureSources(BENCHMARK.images)
    grouped: dict[str, list[Item]] = {}
    for item in items:
        grouped.setdefault(item.task, []).append(as_item(item))
    for task, asked in grouped.items():
        benchmark = replace(BENCHMARK, name=f"{BENCHMARK.name}_{task}")
        yield Task(benchmark, MANY_LANGUAGES, Path(), asked, len(asked), 0, BENCHMARK.prompt, pictures)


def _say_scores(setting: Setting, result: dict[str, Any], say: Say) -> None:
    figures = {name: figure["value"] for name, figure in result["headline"].items() if isinstance(figure, dict)}
    say(f"{setting.name}: " + ", ".join(f"{name} {value:.1%}" for name, value in figures.items()))


def _total_seconds(directory: Path, now: float) -> float:
    """Total seconds of all calls behind this report."""
    path = directory / "seconds.json"
    before = float(json.loads(path.read_text())) if path.exists() else 0.0
    write_json(path, before + now)
    return before + now
