"""The nano experiment from mix to report: what ``mblip quickstart`` runs, with or without every ablation."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mblip.config import DataRecipe, TrainRecipe, load_recipe
from mblip.evaluation.benchmarks.scenes import TASKS, load_items
from mblip.evaluation.runner import run_scenes
from mblip.evaluation.scene_scores import score_scenes
from mblip.mixture import build_mix
from mblip.models.load import load_model
from mblip.nano.words import load_lexicon
from mblip.report.page import write_report
from mblip.storage import open_images, write_json
from mblip.training.align import prepare_model
from mblip.training.loop import read_log
from mblip.training.run import train

Say = Callable[[str], None]
LEFT_OUT = "sw"
_LORA = ("parts.llm=lora", "lora.dropout=0.0")


@dataclass(frozen=True)
class Setting:
    """One way to align: overrides of ``nano/align`` and the mix it learns from.

    ``claim`` is what the paper says of it, in the words of this project; the paper's figures are of another size.
    """

    name: str
    says: str
    claim: str
    overrides: tuple[str, ...] = ()
    mix: str = "mix"
    tasks: tuple[str, ...] = ("naming", "naming_never_shown", "caption_2")
    quick: bool = False


SETTINGS = (
    Setting("multilingual", "Q-Former aligned on the multilingual mix, language model frozen",
            "re-aligning on a translated mix makes a model that works in all its languages", tasks=TASKS, quick=True),
    Setting("english_only", "the same steps on the English mix",
            "far ahead of vision-LLMs trained in English alone", mix="mix_en", quick=True),
    Setting("no_realignment", "Q-Former of the English model, projection untrained",
            "the eyes of an English model have to be re-aligned", ("optim.steps=0",), quick=True),
    Setting("random_qformer", "Q-Former from random weights",
            "starting from an aligned Q-Former is what makes it cheap", ("model.qformer=random",)),
    Setting("lora_paper", "the paper's LoRA: rank 8 on all linear layers, 20 times the Q-Former's rate",
            "trained like this: 2e-4 for LoRA, 1e-5 for the rest", (*_LORA, "optim.lora_lr=4e-2")),
    Setting("lora_large", "LoRA at the Q-Former's rate", "not tried there", (*_LORA, "optim.lora_lr=2e-3")),
    Setting("lora_small", "LoRA at a tenth of the Q-Former's rate", "not tried there", (*_LORA, "optim.lora_lr=2e-4")),
    Setting("english_only_lora", "English mix, LoRA at the Q-Former's rate",
            "far ahead of vision-LLMs trained in English alone", (*_LORA, "optim.lora_lr=2e-3"), mix="mix_en"),
    Setting("left_out", f"the mix without {LEFT_OUT}", "not tried there", (f"data.exclude_languages=[{LEFT_OUT}]",)),
)  # fmt: skip


def run_experiment(directory: Path, ablations: bool, seeds: int, say: Say, scenes: int = 50) -> dict[str, Any]:
    """Build the mixes, align in every setting, evaluate, and write report.html, report.md and report.json.

    What is done is kept: a run that was interrupted, or is run again, goes on with what is missing.

    Returns:
        The content of report.json.

    Raises:
        InputError: A base model is damaged, or the directory cannot be written.
    """
    started = time.perf_counter()
    prepare_model(load_recipe(TrainRecipe, "nano/align"))  # a damaged base is told before minutes are spent
    recipe = load_recipe(DataRecipe, "data/nano_scenes")
    manifest = build_mix(recipe, directory / "mix")
    say(f"mix: {manifest.rows:,} instructions in {len(manifest.by_language)} languages")
    settings = [setting for setting in SETTINGS if ablations or setting.quick]
    english = load_recipe(DataRecipe, "data/nano_scenes", ("allocation.languages=[en]", "allocation.task_languages={}"))
    build_mix(english, directory / "mix_en")
    results: dict[str, Any] = {}
    for setting in settings:
        results[setting.name] = _align_and_score(setting, directory, seeds, say, scenes, recipe.translation.never_shown)
        _say_scores(setting, results[setting.name], say)
    main = results["multilingual"]
    curve = read_log(directory / "multilingual-1" / "metrics.jsonl")
    # Training may have been another call's.
    peaks = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, *(row["peak_memory_mib"] for row in curve)]
    report = {
        "headline": main["headline"],
        "tasks": main["tasks"],
        "languages": main["languages"],
        "ablations": {
            name: {key: result[key] for key in ("says", "claim", "headline", "tasks", "languages", "seeds")}
            for name, result in results.items()
        },
        "curve": curve,
        "mix": {"rows": manifest.rows, "tasks": manifest.by_task, "languages": manifest.by_language, "drops": manifest.drops},
        "seconds": _total_seconds(directory, time.perf_counter() - started),
        "peak_memory_mib": max(peaks),
    }  # fmt: skip
    write_json(directory / "report.json", report)
    write_report(report, directory, _samples(directory, scenes, recipe.translation.never_shown))
    return report


def _align_and_score(
    setting: Setting, directory: Path, seeds: int, say: Say, scenes: int, held_out: float
) -> dict[str, Any]:
    languages = load_lexicon().named_languages()
    items = load_items(languages, scenes, setting.tasks, held_out)
    answers = []
    for seed in range(1, seeds + 1):
        run = directory / f"{setting.name}-{seed}"
        overrides = (*setting.overrides, f"seed={seed}", f"data.mix={directory / setting.mix}")
        align = load_recipe(TrainRecipe, "nano/align", overrides)

        def told(row: dict[str, Any], name: str = run.name) -> None:
            say(f"{name}: step {row['step']}, loss {row['loss']:.3f}, {row['seconds']:.0f} s")

        train(align, run, told)
        vlm = load_model(run, dtype="fp32")
        store = open_images("nano:scenes")
        answers.append(run_scenes(vlm, items, store, run / "predictions.jsonl"))
    return {"says": setting.says, "claim": setting.claim, **score_scenes(items, answers)}


def _say_scores(setting: Setting, result: dict[str, Any], say: Say) -> None:
    figures = {name: figure["value"] for name, figure in result["headline"].items() if isinstance(figure, dict)}
    say(f"{setting.name}: " + ", ".join(f"{name} {value:.1%}" for name, value in figures.items()))


def _samples(directory: Path, scenes: int, held_out: float) -> list[dict[str, Any]]:
    """A few scenes of each task in many scripts, with the answers of the first run."""
    languages = [code for code in ("sw", "ar", "ja", "hi", "ru", "th", "yo", "iw") if code in load_lexicon().languages]
    items = load_items(languages, scenes, TASKS, held_out)
    path = directory / "multilingual-1" / "predictions.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    answers = {row["id"]: row["answer"] for row in rows}
    chosen = [item for item in items if item.id.endswith("-0")]
    return [
        {"image": item.image, "task": item.task, "language": item.language, "prompt": item.prompt,
         "answer": answers[item.id], "reference": item.reference}
        for item in chosen
    ]  # fmt: skip


def _total_seconds(directory: Path, now: float) -> float:
    """Seconds of all calls that led to this report."""
    path = directory / "seconds.json"
    before = float(json.loads(path.read_text())) if path.exists() else 0.0
    write_json(path, before + now)
    return before + now
