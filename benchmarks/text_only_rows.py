"""What rows of text alone do to the languages of a model aligned on English alone: python benchmarks/text_only_rows.py.

Three settings at nano size, each with `--seeds`. With `--llm` they are aligned to a language model of your own, and only name
objects. Run it again to go on where it was stopped.

- `english_and_text`: English scenes, and three tenths of every batch rows of text, which ask for the name of an English word in
  one of the other languages.
- `english_only`: English scenes alone, as in `mblip quickstart --ablations`, whose runs may be copied to `--to`.
- `english_fewer`: as many English scenes a batch as stand beside the texts, without the texts.

Prints naming, pairs never shown, captions of two objects and language fidelity, with 95 % intervals over scenes and seeds, and
naming by language; at nano size also the processor time of a training step with and without texts, and the tokens that the
language model reads in it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mblip.config import DataRecipe, TrainRecipe, load_recipe
from mblip.languages import LANGUAGES
from mblip.mixture import build_mix
from mblip.models.prepare import prepare_model
from mblip.nano.experiment import Experiment, Setting, align, mini, score
from mblip.nano.words import load_lexicon
from mblip.training.loader import TrainLoader
from mblip.training.run import train

SHARE = 0.3
SPEED_STEPS, SPEED_ROUNDS = 20, 3
ENGLISH = Setting("english_only", "English scenes", "", mix="mix_en")


def beside_texts(what: Experiment) -> tuple[Setting, Setting]:
    """English scenes with texts in other languages, and as many English scenes without them."""
    usual = load_recipe(TrainRecipe, what.align, what.overrides)
    tasks = ",".join([*usual.data.tasks, "text"])
    texts = (f"data.text_share={SHARE}", f"data.tasks=[{tasks}]")
    batch = usual.optim.global_batch - round(SHARE * usual.optim.global_batch)
    fewer = (f"optim.global_batch={batch}", f"optim.micro_batch={min(batch, usual.optim.micro_batch)}")
    return (
        Setting("english_and_text", f"English scenes, {SHARE:.0%} of a batch texts", "", texts, "mix_text"),
        Setting("english_fewer", "as many English scenes as beside the texts", "", fewer, "mix_en"),
    )


def build_mixes(what: Experiment, folder: Path, prompt: str) -> None:
    """The English scenes, and the same with a row of text for each name in another language."""
    recipe = what.english_recipe()
    if not (folder / "mix_en" / "manifest.json").is_file():
        build_mix(recipe, folder / "mix_en")
    lexicon, table = load_lexicon(), folder / "names.jsonl"
    rows = [
        {"prompt": prompt.format(name=concept, language=LANGUAGES[code].name), "answer": name, "language": code}
        for code in what.asked
        if code != "en"
        for concept in lexicon.concepts
        if (name := lexicon.name(concept, code))
    ]
    table.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")
    options = {"path": str(table), "task": "text", "licence": "Unicode-3.0", "language_column": "language"}
    # An allocation of its own: the recipe's leaves out all languages but English.
    source = {"name": "names", "reader": "table", "translate": False, "options": options, "allocation": {}}
    data = recipe.model_dump(mode="json")
    manifest = build_mix(DataRecipe.model_validate(data | {"sources": [*data["sources"], source]}), folder / "mix_text")
    print(f"{manifest.by_task['text']:,} of {len(rows):,} rows of text, {manifest.rows:,} in all")


def speed(settings: Sequence[Setting], folder: Path) -> None:
    """Processor time of a step, in turns, and the tokens that it reads."""
    times: dict[str, list[float]] = {}
    for turn in range(SPEED_ROUNDS):
        for setting in settings:
            times.setdefault(setting.name, []).append(_step_seconds(setting, folder, 1 + turn))
    tokens = {setting.name: _tokens(setting, folder) for setting in settings}
    for name, taken in times.items():
        read = tokens[name]
        ms = statistics.median(taken) * 1e3
        print(f"{name}: {ms:.1f} ms of processor time a step ({min(taken) * 1e3:.1f} to {max(taken) * 1e3:.1f}), "
              f"{read:.0f} tokens, {ms / read * 1e3:.1f} microseconds a token")  # fmt: skip


def _recipe(setting: Setting, folder: Path, *more: str) -> TrainRecipe:
    return load_recipe(TrainRecipe, "nano/align", (*setting.overrides, f"data.mix={folder / setting.mix}", *more))


def _step_seconds(setting: Setting, folder: Path, seed: int) -> float:
    """Between the first and the last step's row of the log: reading, both passes and the optimiser."""
    more = (
        f"seed={seed}",
        f"optim.steps={SPEED_STEPS + 1}",
        "log_every=1",
        "checkpoint_every=1000",
        "model.fit_words=[]",
    )
    seen: list[float] = []
    with tempfile.TemporaryDirectory() as run:
        recipe = _recipe(setting, folder, *more)
        train(recipe, Path(run) / "run", lambda row: seen.append(time.process_time()))
    return (seen[SPEED_STEPS] - seen[0]) / SPEED_STEPS


def _tokens(setting: Setting, folder: Path) -> float:
    """Tokens of prompts, pictures and answers that the language model reads in a step, without padding."""
    recipe = _recipe(setting, folder)
    with tempfile.TemporaryDirectory() as run:
        feed = TrainLoader(recipe, folder / setting.mix, Path(run), prepare_model(recipe))
        batches = [batch for step in range(SPEED_STEPS) for batch in feed.micro_batches(step)]
    return sum(int(batch["attention_mask"].sum() + (batch["labels"] != -100).sum()) for batch in batches) / SPEED_STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=Path("runs/text_only"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--scenes", type=int, default=50, help="for each language and task")
    parser.add_argument("--prompt", default="{name}. Name the object in {language}:", help="of the rows of text")
    parser.add_argument("--llm", default="", help="a folder or a GGUF file in place of nano-mlm")
    parser.add_argument(
        "--languages", type=lambda codes: tuple(codes.split(",")), default=(), help="mC4 codes; default: all"
    )
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--only-speed", action="store_true")
    options = parser.parse_args()
    what = replace(
        mini(options.llm) if options.llm else Experiment(),
        languages=options.languages,
        overrides=(f"optim.steps={options.steps}",),
    )
    with_text, fewer = beside_texts(what)
    build_mixes(what, options.to, options.prompt)
    for setting in () if options.only_speed else (with_text, ENGLISH, fewer):
        runs = [align(what, setting, options.to, seed, print) for seed in options.seeds]
        found = score(what, setting, runs, options.scenes, what.english_recipe().translation.held_out)
        told = {name: f for name, f in found["headline"].items() if isinstance(f, dict)}
        low_high = {name: "{:.1%} ({:.1%} to {:.1%})".format(f["value"], *f["ci95"]) for name, f in told.items()}
        print(f"{setting.name}: " + ", ".join(f"{name} {text}" for name, text in low_high.items()))
        print(
            ", ".join(f"{code} {figures['naming_exact']['value']:.0%}" for code, figures in found["languages"].items()),
            flush=True,
        )
    if not options.llm:
        speed((ENGLISH, with_text), options.to)


if __name__ == "__main__":
    main()
