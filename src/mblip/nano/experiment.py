"""The nano experiment from mix to report: what ``mblip quickstart`` runs, with or without every ablation.

The same settings with a language model of one's own in place of nano-mlm are the mini experiment (``--llm``).
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from mblip.config import DataRecipe, TrainRecipe, load_recipe
from mblip.errors import InputError, counted, nearest
from mblip.evaluation.answerers.mblip import MblipAnswerer
from mblip.evaluation.benchmark import Item
from mblip.evaluation.pictures import PictureSources
from mblip.evaluation.runner import answer_tasks
from mblip.evaluation.tasks import Task
from mblip.executors import Job, Place, run_job
from mblip.languages import name_code
from mblip.machine import free_memory, limit_threads
from mblip.mixture import build_mix
from mblip.models.prepare import prepare_model
from mblip.nano.alone import ask_words
from mblip.nano.benchmark import BENCHMARK, TASKS, SceneItem, as_item, is_right, load_items
from mblip.nano.page import write_report
from mblip.nano.quickstart import ANSWERS, read_predictions, samples
from mblip.nano.scores import score_scenes
from mblip.nano.words import load_lexicon
from mblip.storage import write_json
from mblip.training.logs import Note, StepLog, ValidationLog, read_steps
from mblip.training.run import check_recipe, train

Say = Callable[[str], None]
LEFT_OUT = "sw"
VALIDATION = "validation"  # folder of answers
VALIDATION_SCENES = 20  # per language
BATCH = 256
_PROCESS_BYTES = 2 << 30  # of memory, in which a process with the nano model fits
MANY_LANGUAGES = "mul"  # ISO 639-2


@dataclass(frozen=True)
class Setting:
    """One way to align: overrides of the training recipe and the mix it learns from.

    ``lora_rate`` is that of LoRA in multiples of the Q-Former's; None for the recipe's. ``claim`` is what the paper says of
    it, in the words of this project; the paper's figures are of another size. ``candidate`` settings learn from the whole
    mix: the best of those that ran, on validation scenes of pairs never shown, is the headline.
    """

    name: str
    says: str
    claim: str
    overrides: tuple[str, ...] = ()
    mix: str = "mix"
    lora_rate: float | None = None
    quick: bool = False
    candidate: bool = False


SETTINGS = (
    Setting("multilingual", "the paper's setting: Q-Former, and LoRA at 20 times its rate, aligned on the multilingual mix",
            "re-aligning on a translated mix makes a model that works in all its languages", quick=True, candidate=True),
    Setting("english_only", "the same steps on the English mix",
            "far better than vision-LLMs trained only on English", mix="mix_en", quick=True),
    Setting("no_realignment", "Q-Former of the English model, projection untrained",
            "the vision encoder of an English model has to be re-aligned",
            ("optim.steps=0", "model.fit_words=[]"), quick=True),
    Setting("fit_alone", "the projection fitted to words, no training step", "not in the paper", ("optim.steps=0",)),
    Setting("random_qformer", "Q-Former from random weights",
            "re-alignment is cheap because it starts from an aligned Q-Former", ("model.qformer=random",)),
    Setting("lora_off", "language model frozen", "LoRA on all linear layers throughout", ("parts.llm=frozen",),
            candidate=True),
    Setting("lora_small", "LoRA at the Q-Former's rate", "not in the paper", lora_rate=1, candidate=True),
    Setting("lora_large", "LoRA at 100 times the Q-Former's rate", "not in the paper", lora_rate=100, candidate=True),
    Setting("left_out", f"the mix without {LEFT_OUT}", "not in the paper", (f"data.exclude_languages=[{LEFT_OUT}]",)),
)  # fmt: skip


@dataclass(frozen=True)
class Experiment:
    """The models and data that all settings share, and the tasks they are evaluated on.

    Attributes:
        align: The training recipe.
        data: The data recipe.
        llm: The language model; empty for the recipe's.
        tasks: Tasks for the model of every setting.
        headline: Tasks for the best setting.
        dtype: Precision of the vision and language models at inference.
        overrides: Overrides of the training recipe in every setting.
        languages: mC4 codes of the languages of the mix and of the questions, English among them; empty for all that the
            lexicon names.
    """

    align: str = "nano/align"
    data: str = "data/nano_scenes"
    llm: str = ""
    tasks: tuple[str, ...] = ("naming", "naming_never_shown", "caption_2")
    headline: tuple[str, ...] = TASKS
    dtype: str = "fp32"
    overrides: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()

    @property
    def asked(self) -> tuple[str, ...]:
        """mC4 codes of the languages that the models are asked in."""
        return self.languages or load_lexicon().named_languages()

    def data_recipe(self) -> DataRecipe:
        """Return the recipe of the multilingual mix."""
        own = (f"allocation.languages=[{','.join(self.languages)}]",) if self.languages else ()
        return load_recipe(DataRecipe, self.data, own)

    def english_recipe(self) -> DataRecipe:
        """Return the recipe of the English mix."""
        return load_recipe(DataRecipe, self.data, ("allocation.languages=[en]", "allocation.task_languages={}"))

    def recipe(self, setting: Setting, directory: Path, seed: int) -> TrainRecipe:
        """Return the recipe that trains a setting."""
        own = (f"model.llm={self.llm}",) if self.llm else ()
        overrides = (*own, *self.overrides, *setting.overrides, f"seed={seed}", f"data.mix={directory / setting.mix}")
        recipe = load_recipe(TrainRecipe, self.align, overrides)
        if setting.lora_rate is None:
            return recipe
        rate = f"optim.lora_lr={setting.lora_rate * recipe.optim.lr:g}"
        return load_recipe(TrainRecipe, self.align, (*overrides, rate))


def mini(llm: str) -> Experiment:
    """The experiment with your own language model: single objects, because it must learn more from fewer texts."""
    tasks = ("naming", "naming_never_shown")
    return Experiment("mini/align", "data/mini_scenes", llm, tasks, tasks, "bf16")


def usual_workers(what: Experiment) -> int:
    """Number of models that answer at a time on this machine: one per core, but with a GPU or another ``llm`` one.

    It is also one if ``OMP_NUM_THREADS`` gives each model its threads. A second thread hardly speeds up the small products
    of nano models, and a larger model may fill the memory. Training runs one at a time, because the last digits of its
    sums depend on the number of threads.
    """
    if what.llm or torch.cuda.is_available() or not limit_threads():
        return 1
    free = free_memory()
    return max(1, min(torch.get_num_threads(), free // _PROCESS_BYTES if free is not None else 1))


def run_experiment(
    directory: Path,
    ablations: bool,
    seeds: int,
    say: Say,
    scenes: int = 50,
    what: Experiment = Experiment(),
    only: Sequence[str] = (),
    workers: int = 1,
) -> dict[str, Any]:
    """Build the mixes, align in every setting, evaluate, and write report.html, report.md and report.json.

    Finished steps are kept: a run that was interrupted, or is run again, continues with the missing steps.

    Args:
        directory: Folder for the mixes, runs and report.
        ablations: Every setting, not only the quick ones.
        seeds: Training seeds for each setting.
        say: Called with progress messages.
        scenes: Number of scenes per language and task.
        what: Which language model is aligned, and how.
        only: Names of settings, in place of ``ablations``.
        workers: Number of models that answer at a time, each in a process with its share of the cores.

    Returns:
        The content of report.json.

    Raises:
        InputError: A base model is damaged, the directory cannot be written or holds runs of other recipes, there is no
            setting of a name, an override is of a field that is set here, or the lexicon does not name the objects in a
            language.
    """
    started = time.perf_counter()
    _check_languages(what.languages)
    _check_overrides(what.overrides)
    settings = _settings(ablations, only, what.asked)
    first = what.recipe(settings[0], directory, 1)
    if what.llm and first.model.llm != what.llm:  # the page would show what another model knows alone
        raise InputError(f"--llm says {what.llm}, but model.llm says {first.model.llm}; leave model.llm out")
    for setting in settings:  # another recipe's runs and a damaged base are told before minutes are spent
        for seed in range(1, seeds + 1):
            check_recipe(what.recipe(setting, directory, seed), directory / f"{setting.name}-{seed}")
    prepare_model(first)
    recipe = what.data_recipe()
    manifest = build_mix(recipe, directory / "mix")
    say(f"mix: {counted(manifest.rows, 'instruction')} in {counted(len(manifest.by_language), 'language')}")
    build_mix(what.english_recipe(), directory / "mix_en")
    held_out = recipe.translation.held_out
    known = ask_words(what.llm, what.asked, directory / "words.json", scenes, held_out, say) if what.llm else None
    candidates = [setting for setting in settings if setting.candidate] or settings[:1]
    runs = {s: [align(what, s, directory, seed, say) for seed in range(1, seeds + 1)] for s in settings}
    if workers > 1:
        say(f"asking the models, {workers} at a time")
        asked = list(_questions(what, runs, candidates, scenes, held_out))
        run_job("local", Job("quickstart", _ask, asked, _Questions.is_done, directory), {"workers": workers})
    results: dict[str, Any] = {}
    for setting in settings:
        results[setting.name] = score(what, setting, runs[setting], scenes, held_out)
        _say_scores(setting, results[setting.name], say)
    chosen = _choose(what, {setting: runs[setting] for setting in candidates}, held_out)
    if what.headline != what.tasks:
        results[chosen.name] = score(replace(what, tasks=what.headline), chosen, runs[chosen], scenes, held_out)
        _say_scores(chosen, results[chosen.name], say)
    main = results[chosen.name]
    log = directory / f"{chosen.name}-1" / "metrics.jsonl"
    curve = read_steps(log) if log.is_file() else []  # without steps, as in no_realignment, there is none
    # The training may have run in another call.
    of_processes = [
        resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    peaks = [*of_processes, *(row.peak_memory_mib for row in curve)]
    report = {
        "setting": chosen.name,
        **({"llm": Path(what.llm).name, "llm_alone": known} if known else {}),
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


def _check_languages(languages: Sequence[str]) -> None:
    """Raise an InputError unless the lexicon names the objects in all of these languages, and English is among them."""
    named = load_lexicon().named_languages()
    if missing := [code for code in languages if code not in named]:
        raise InputError(
            f"the emoji lack names in {', '.join(f'{name_code(code)} ({code})' for code in missing)}; leave it out, or "
            f"choose from {', '.join(named)}"
        )
    if languages and "en" not in languages:
        raise InputError("the languages lack English, from which the mix is translated; add en")


def _check_overrides(overrides: Sequence[str]) -> None:
    """Raise an InputError for a field that the experiment sets itself, whatever the override says."""
    remedies = {"seed": "use --seeds", "data.mix": "it makes its own: leave data.mix out, or use mblip train"}
    for override in overrides:
        field = override.partition("=")[0].strip()
        if field in remedies:
            raise InputError(f"{field} is set by mblip quickstart in each of its runs; {remedies[field]}")


def _settings(ablations: bool, only: Sequence[str], languages: Sequence[str]) -> list[Setting]:
    """The settings that are asked for; ``left_out`` needs its language.

    Raises:
        InputError: There is none of a name, or ``left_out`` is asked for without its language.
    """
    names = [setting.name for setting in SETTINGS]
    for name in only:
        if name not in names:
            raise InputError(f"there is no setting {name!r}{nearest(name, names)}")
        if name == "left_out" and LEFT_OUT not in languages:
            raise InputError(f"the setting left_out leaves out {name_code(LEFT_OUT)}; add {LEFT_OUT} to the languages")
    chosen = [setting for setting in SETTINGS if (setting.name in only if only else ablations or setting.quick)]
    return [setting for setting in chosen if setting.name != "left_out" or LEFT_OUT in languages]


def align(what: Experiment, setting: Setting, directory: Path, seed: int, say: Say) -> Path:
    """Train one seed of a setting in ``directory/NAME-SEED``, which is returned; a finished run is left as it is."""
    run = directory / f"{setting.name}-{seed}"

    def show_row(row: StepLog | ValidationLog | Note) -> None:
        if isinstance(row, StepLog):
            say(f"{run.name}: step {row.step}, loss {row.loss:.3f}, {row.seconds:.0f} s")
        elif isinstance(row, Note):
            say(f"{run.name}: {row.text}")

    train(what.recipe(setting, directory, seed), run, show_row)
    return run


@dataclass(frozen=True)
class _Questions:
    """The questions for a trained run."""

    run: Path
    name: str
    items: Sequence[SceneItem]
    dtype: str

    def is_done(self) -> bool:
        """Whether every item is answered."""
        return len(self._found()) == len(self.items)

    def answer(self) -> dict[str, str]:
        """The answers by item, by the runner of ``mblip eval``; existing answers are reused."""
        answers = self._found()
        if len(answers) < len(self.items):
            answerer = MblipAnswerer(str(self.run), self.run, "none", self.dtype, BATCH)
            # A batch takes as many steps as its longest answer, so names (two tokens) must not share one with lists.
            for task in _tasks(self.items):
                answer_tasks([task], answerer, self.run / self.name, PartialState())
            answers = self._found()
        return {item.id: answers[item.id] for item in self.items}

    def _found(self) -> dict[str, str]:
        """The existing answers to the items, by item."""
        prompts = {item.id: item.prompt for item in self.items}
        rows = read_predictions(self.run / self.name)
        return {row.id: row.answer for row in rows if prompts.get(row.id) == row.prompt}


def _questions(
    what: Experiment,
    runs: Mapping[Setting, Sequence[Path]],
    candidates: Sequence[Setting],
    scenes: int,
    held_out: float,
) -> Iterator[_Questions]:
    """Yield the questions for every run, without the headline tasks if they have to wait for the choice of a setting."""
    usual = load_items(what.asked, scenes, what.tasks, held_out)
    for setting, trained in runs.items():
        is_chosen = [setting] == list(candidates)
        items = load_items(what.asked, scenes, what.headline, held_out) if is_chosen else usual
        for run in trained:
            yield _Questions(run, ANSWERS, items, what.dtype)
            if setting in candidates and not is_chosen:
                yield _Questions(run, VALIDATION, _validation_items(what, held_out), what.dtype)


def _ask(questions: _Questions, place: Place) -> None:
    limit_threads(place.beside)
    questions.answer()


def score(what: Experiment, setting: Setting, runs: Sequence[Path], scenes: int, held_out: float) -> dict[str, Any]:
    """Ask the setting's runs about scenes in each language, and score their answers; see :func:`score_scenes`."""
    items = load_items(what.asked, scenes, what.tasks, held_out)
    answers = [_Questions(run, ANSWERS, items, what.dtype).answer() for run in runs]
    return {"says": setting.says, "claim": setting.claim, **score_scenes(items, answers)}


def _choose(what: Experiment, runs: Mapping[Setting, Sequence[Path]], held_out: float) -> Setting:
    """The setting that names most held-out pairs, on scenes that are not used for results."""
    if len(runs) == 1:
        return next(iter(runs))
    items = _validation_items(what, held_out)

    def right(setting: Setting) -> int:
        answers = [_Questions(run, VALIDATION, items, what.dtype).answer() for run in runs[setting]]
        return sum(is_right(item, run[item.id]) for run in answers for item in items)

    return max(runs, key=right)


def _validation_items(what: Experiment, held_out: float) -> list[SceneItem]:
    return load_items(what.asked, VALIDATION_SCENES, ("naming_never_shown",), held_out, "validation")


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
