"""The nano experiment from mix to report, with two steps a setting; how well it learns is for ``make quickstart``."""

import dataclasses
import json
import pickle
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import checkpoints
from typer.testing import CliRunner

from mblip.cli.app import app
from mblip.config import DataRecipe, Recipe, load_recipe
from mblip.errors import InputError
from mblip.executors import Job, Place
from mblip.models import locate
from mblip.nano import experiment
from mblip.nano.alone import ask_words, write_prompt
from mblip.nano.benchmark import load_items
from mblip.nano.experiment import SETTINGS, run_experiment
from mblip.nano.words import load_lexicon

FIGURES = {
    "naming_exact",
    "naming_exact_never_shown",
    "two_object_caption",
    "presence",
    "counting",
    "language_fidelity",
}


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small mix, and every setting's training cut to two steps of eight texts, checkpointed at each."""
    cut = ("model.fit_words=[]", "optim.steps=2", "optim.global_batch=8", "optim.micro_batch=8", "checkpoint_every=1")
    settings = [
        s if "optim.steps=0" in s.overrides else dataclasses.replace(s, overrides=(*s.overrides, *cut))
        for s in SETTINGS
    ]
    monkeypatch.setattr(experiment, "SETTINGS", tuple(settings))
    load = load_recipe

    def small(kind: type[Recipe], name: str, overrides: tuple[str, ...] = ()) -> Recipe:
        fewer = ("sources.scenes.options.scenes=2000",) if kind is DataRecipe else ()
        return load(kind, name, (*overrides, *fewer))

    monkeypatch.setattr(experiment, "load_recipe", small)


class Stop(Exception):
    """Stands for Ctrl-C."""


@pytest.mark.usefixtures("brief")
def test_an_interrupted_quickstart_goes_on_and_a_finished_one_redoes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def stop(line: str) -> None:
        told.append(line)
        if line.startswith("english_only-1: step 2"):
            raise Stop

    with pytest.raises(Stop):
        run_experiment(tmp_path / "run", False, 1, stop, scenes=1)
    assert not (tmp_path / "run" / "report.json").exists()
    report = run_experiment(tmp_path / "run", False, 1, told.append, scenes=1)
    assert sum(line.startswith("multilingual-1: step 1") for line in told) <= 1  # trained once
    assert set(report["headline"]) == {"languages", *FIGURES} and report["headline"]["languages"] == 85
    for name in FIGURES:
        low, high = report["headline"][name]["ci95"]
        assert 0 <= low <= report["headline"][name]["value"] <= high <= 1
    for part in (report, report["ablations"]["english_only"]):
        figure = part["languages"]["sw"]["naming_exact"]
        assert len(part["languages"]) == 85 and 0 <= figure["ci95"][0] <= figure["value"] <= figure["ci95"][1] <= 1
    assert report["setting"] == "multilingual"
    assert set(report["ablations"]) == {"multilingual", "english_only", "no_realignment"}
    assert json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8")) == report
    stamps = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "run").rglob("*")
        if path.suffix in (".safetensors", ".parquet")
    }
    again = run_experiment(tmp_path / "run", False, 1, told.append, scenes=1)
    assert stamps and all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert again["headline"] == report["headline"]

    answered: list[str] = []

    def in_processes(executor: str, job: Job[Any], settings: dict[str, int]) -> None:
        for task in job.missing():
            pickle.loads(pickle.dumps(job.step))(pickle.loads(pickle.dumps(task)), Place(beside=settings["workers"]))
            answered.append(task.run.name)
        assert not job.missing()
        monkeypatch.setattr(experiment, "MblipAnswerer", None)  # nothing is left to be asked afterwards

    monkeypatch.setattr(experiment, "run_job", in_processes)
    fresh = run_experiment(tmp_path / "fresh", False, 1, told.append, scenes=1, workers=2)
    assert answered == ["multilingual-1", "english_only-1", "no_realignment-1"]
    assert fresh["headline"] == report["headline"]  # neither an interrupt nor processes change a figure
    for name in ("multilingual-1", "english_only-1"):
        losses = [
            [json.loads(line)["loss"] for line in (tmp_path / run / name / "metrics.jsonl").read_text().splitlines()]
            for run in ("run", "fresh")
        ]
        assert losses[0] == losses[1]
    mixes = [sorted((tmp_path / run / "mix").glob("*.parquet")) for run in ("run", "fresh")]
    assert mixes[0] and [p.read_bytes() for p in mixes[0]] == [p.read_bytes() for p in mixes[1]]


def test_a_language_model_of_ones_own_takes_nano_s_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A random one, in three languages: its words alone, three settings, the fit to words of several tokens, the page."""
    llm = checkpoints.llm(tmp_path / "tiny", "llama")
    load = load_recipe
    cut = ("optim.steps=2", "optim.global_batch=8", "optim.micro_batch=8", "precision=fp32")

    def small(kind: type[Recipe], name: str, overrides: tuple[str, ...] = ()) -> Recipe:
        if kind is DataRecipe:
            return load(kind, name, (*overrides, "sources.scenes.options.scenes=500"))
        return load(kind, name, overrides)

    monkeypatch.setattr(experiment, "load_recipe", small)
    monkeypatch.setattr("mblip.training.align.FIT_TEXTS", 64)
    settings = [word for name in ("multilingual", "no_realignment", "lora_small") for word in ("--setting", name)]
    three = ["--languages", "English,sw,Deutsch"]
    asked = ["quickstart", "--llm", str(llm), "--to", str(tmp_path / "run"), "--scenes", "1", *three, *settings, *cut]
    before = signal.getsignal(signal.SIGTERM)
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.exception
    assert signal.getsignal(signal.SIGTERM) is before
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert set(report["ablations"]) == {"multilingual", "no_realignment", "lora_small"}
    assert report["llm"] == "tiny" and set(report["llm_alone"]) == {"all", *report["languages"]}
    assert set(report["languages"]) == set(report["mix"]["languages"]) == {"en", "sw", "de"}
    assert "two_object_caption" not in report["headline"]
    rates = [
        json.loads((tmp_path / "run" / name / "metrics.jsonl").read_text().splitlines()[0])
        for name in ("multilingual-1", "lora_small-1")
    ]
    assert rates[0]["lr_lora"] == pytest.approx(20 * rates[0]["lr_qformer"])
    assert rates[1]["lr_lora"] == pytest.approx(rates[1]["lr_qformer"])
    for name in ("report.html", "report.md"):
        page = (tmp_path / "run" / name).read_text(encoding="utf-8")
        assert "A small mBLIP around tiny" in page and "the language model alone, asked in text" in page
        assert "two objects" not in page
    stamp = (tmp_path / "run" / "words.json").stat().st_mtime_ns
    again = CliRunner().invoke(app, asked)
    assert again.exit_code == 0 and "asking tiny" not in again.output
    assert (tmp_path / "run" / "words.json").stat().st_mtime_ns == stamp
    assert json.loads((tmp_path / "run" / "report.json").read_text())["ablations"] == report["ablations"]
    alone = CliRunner().invoke(app, [*asked[: asked.index("--setting")], "--setting", "no_realignment", *cut])
    assert alone.exit_code == 0, alone.exception  # it trains no step, so there is no loss to draw
    assert "Nothing was trained." in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    wrong = CliRunner().invoke(app, [*asked, "--setting", "lora_smal"])
    assert isinstance(wrong.exception, InputError) and "did you mean 'lora_small'" in str(wrong.exception)
    wrong = CliRunner().invoke(app, [*asked, "model.llm=nano:nano-mlm"])
    assert isinstance(wrong.exception, InputError) and "leave model.llm out" in str(wrong.exception)
    for field, remedy in (("seed=2", "use --seeds"), ("data.mix=mine", "leave data.mix out")):  # not silently set back
        wrong = CliRunner().invoke(app, [*asked, field])
        assert isinstance(wrong.exception, InputError) and remedy in str(wrong.exception)
    # Another model in the same folder is told before it is asked, which takes minutes and drops the first one's answers.
    other = checkpoints.llm(tmp_path / "other", "llama", seed=1)
    wrong = CliRunner().invoke(app, [str(other) if word == str(llm) else word for word in asked])
    assert isinstance(wrong.exception, InputError) and "the run of another recipe (model.llm is" in str(wrong.exception)
    assert (tmp_path / "run" / "words.json").stat().st_mtime_ns == stamp


def test_the_words_alone_are_those_that_pictures_ask_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def complete(model: object, tokenizer: object, prompts: list[str]) -> list[str]:
        told.extend(prompts)
        return [right.get(prompt, "?") for prompt in prompts]

    items = [item for code in ("en", "sw") for item in load_items([code], 4, ("naming", "naming_never_shown"))]
    right = {write_prompt(item): item.reference for item in items if item.task == "naming_never_shown"}
    monkeypatch.setattr("mblip.nano.alone._complete", complete)
    monkeypatch.setattr("mblip.nano.alone.load_language_model", lambda *args: (torch.nn.Identity(), None))
    found = ask_words(
        "nano:nano-mlm", load_lexicon().named_languages(), tmp_path / "words.json", 4, 0.2, lambda line: None
    )
    assert found["sw"]["value"] == 1 and found["en"]["value"] == 0  # English has no pairs that were never shown
    assert found["all"]["value"] == pytest.approx(1 / 85)
    number = len(told)
    ask_words("nano:nano-mlm", load_lexicon().named_languages(), tmp_path / "words.json", 4, 0.2, lambda line: None)
    assert len(told) == number
    monkeypatch.setattr("mblip.nano.alone.fingerprint", lambda folder: "another model")
    ask_words("nano:nano-mlm", load_lexicon().named_languages(), tmp_path / "words.json", 4, 0.2, lambda line: None)
    assert len(told) == 2 * number  # the answers of one model are not those of another
    prompt = write_prompt(next(item for item in items if item.id == "sw-naming_never_shown-0"))
    lines = prompt.split("\n")
    assert prompt in told and len(lines) == 4 and lines[-1].endswith(" in Swahili is")
    assert all(line.startswith("The word for ") and line.endswith(".") for line in lines[:3])


def test_the_headline_is_chosen_by_pairs_never_shown_on_other_scenes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def answer(asks: experiment._Questions) -> dict[str, str]:
        asked.append((asks.run.name, asks.name, {item.task for item in asks.items}))
        known = 100 if asks.run.name == "lora_small-2" else 40
        return {item.id: item.reference if i % 100 < known else "?" for i, item in enumerate(asks.items)}

    monkeypatch.setattr(experiment._Questions, "answer", answer)
    candidates = [setting for setting in SETTINGS if setting.candidate]
    runs = {setting: [tmp_path / f"{setting.name}-{seed}" for seed in (1, 2)] for setting in candidates}
    chosen = experiment._choose(experiment.Experiment(), runs, held_out=0.2)
    assert chosen.name == "lora_small"
    assert {name for name, _, _ in asked} == {f"{s.name}-{seed}" for s in candidates for seed in (1, 2)}
    assert all((name, tasks) == ("validation", {"naming_never_shown"}) for _, name, tasks in asked)
    assert {setting.name for setting in candidates} == {"multilingual", "lora_off", "lora_small", "lora_large"}


@pytest.mark.parametrize("damage", ["missing", "cut", "no weights"])
def test_a_damaged_base_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    base = tmp_path / "nano-mlm"
    shutil.copytree(locate.locate("nano:nano-mlm"), base)
    weights = base / "model.safetensors"
    if damage == "missing":
        shutil.rmtree(base)
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:100_000])
    else:
        weights.unlink()
    shipped = locate._shipped
    monkeypatch.setattr(
        locate, "_shipped", lambda *name: locate.locate(base) if name[1] == "nano-mlm" else shipped(*name)
    )
    with pytest.raises(InputError, match="nano-mlm"):
        run_experiment(tmp_path / "run", False, 1, lambda line: None)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("languages", "setting", "says"),
    [
        ("en,ht", "multilingual", r"Haitian Creole \(ht\); leave it out, or choose from af"),
        ("sw,de", "multilingual", "lack English"),
        ("en,de", "left_out", "add sw"),
    ],
)
def test_languages_that_the_quickstart_cannot_take(tmp_path: Path, languages: str, setting: str, says: str) -> None:
    asked = ["quickstart", "--to", str(tmp_path / "run"), "--languages", languages, "--setting", setting]
    result = CliRunner().invoke(app, asked)
    assert isinstance(result.exception, InputError) and re.search(says, str(result.exception))
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(app, ["quickstart", "--to", str(tmp_path / "file" / "run")])
    assert isinstance(result.exception, InputError) and "cannot write" in str(result.exception)
