"""Zero-shot means zero-shot: no default template is a prompt of the evaluation, and mix, run and score say which are."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from mblip.config import DataRecipe, load_recipe
from mblip.evaluation.benchmarks import BENCHMARKS, EVALUATED, MADE
from mblip.mixture import build_mix, load_templates
from mblip.mixture.templates import Template, describe_prompts, normal_prompt, was_seen
from mblip.storage import read_manifest

ASKED = {normal_prompt(benchmark.prompt) for benchmark in (*BENCHMARKS.values(), *MADE.values())}
DEFAULTS = sorted({*DataRecipe(title="t", sources=()).templates, "paper", "nano"})


def test_all_prompts_of_all_benchmarks_were_found() -> None:
    assert {
        "question: {} short answer in ⟨language⟩:",
        "caption in ⟨language⟩:",
        "describe the image in ⟨language⟩ with as much detail as possible.",
        'is it guaranteed true that "{}"? yes, no, or maybe? answer in ⟨language⟩:',
        'based on the two images, is it correct to say "{}"? yes or no? answer in ⟨language⟩:',
        "name the main object in ⟨language⟩:",
        "{}",
    } == ASKED


@pytest.mark.parametrize("name", DEFAULTS)
def test_no_default_template_is_a_prompt_of_the_evaluation(name: str) -> None:
    rows = load_templates((name,)).english()
    assert len(rows) >= 10
    for task, template in rows:
        assert normal_prompt(template.prompt) not in ASKED, (task, template.prompt)


def test_the_papers_templates_are_not_nearly_prompts_of_the_evaluation_either() -> None:
    rows = [template.prompt for _, template in load_templates(("paper",)).english()]
    assert len(set(map(normal_prompt, rows))) == len(rows) > 60
    for prompt in rows:
        for asked in ASKED:
            likeness = difflib.SequenceMatcher(None, normal_prompt(prompt), asked, autojunk=False).ratio()
            assert likeness < 0.8, (prompt, asked, likeness)


def test_there_are_as_many_templates_as_the_original_has() -> None:
    counts = Counter(task for task, _ in load_templates(("paper",)).english())
    original = {
        "caption": 6, "vqa": 6, "naming": 11, "matching": 12, "presence": 8, "question_generation": 5, "reasoning": 5,
        "explanation": 5,
    }  # fmt: skip
    assert {task: counts[task] for task in original if counts[task] < original[task]} == {}


def test_the_set_that_holds_the_prompts_of_the_evaluation_holds_them_all() -> None:
    held = {normal_prompt(template.prompt) for _, template in load_templates(("benchmarks",)).english()}
    assert held == ASKED - {"{}"}


SAME = [
    ("Short answer in English:", "short  Answer in {language}: "),
    ("Caption in Portugese: ", "Caption in {language}:"),
    ("Caption in former Hebrew:", "Caption in {language}:"),
    ("Caption in Farsi:", "Caption in Persian:"),
    ("Question: {question} Short answer in {language}:", "QUESTION:\t{text}\nshort answer in Chinese:"),
    ('Is it so that "{hypothesis}"?', 'Is it so that "⟨text⟩"?'),
    ("Cafe\u0301 {x}", "Café {y}"),
    ("In Haitian Creole:", "In {language}:"),
]
OTHER = [
    ("Caption in {language}:", "Caption in {language}"),
    ("Caption in {language}:", "Caption in {text}:"),
    ("Question: {question} Answer:", "Question: Answer:"),
    ("{question}", "{question}?"),
    ("Polishing:", "{language}ing:"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_blanks_case_languages_and_names_of_fields_make_no_other_prompt(one: str, other: str) -> None:
    assert normal_prompt(one) == normal_prompt(other)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_anything_else_does(one: str, other: str) -> None:
    assert normal_prompt(one) != normal_prompt(other)


def test_what_is_not_known_is_not_called_unseen() -> None:
    asked = "Caption in Swahili: "
    clean = describe_prompts({"caption": ["A {language} line:"], "vqa": ["Q {question}"]})
    dirty = describe_prompts({"caption": ["Caption in {language}:"]}, (), clean)
    assert clean["complete"] and was_seen(asked, clean) is False
    assert dirty["complete"] and was_seen(asked, dirty) is True and len(dirty["prompts"]) == 3
    assert was_seen(asked, None) is None
    assert was_seen(asked, describe_prompts({})) is None  # a mix that does not say
    assert was_seen(asked, describe_prompts({}, (), dirty)) is True
    assert (
        was_seen(asked, describe_prompts({"vqa": ["Q {question}"]}, (), {})) is None
    )  # a run before that does not say
    only = describe_prompts({"caption": ["Caption in {language}:"], "vqa": ["Q {question}"]}, ("vqa",))
    assert was_seen(asked, only) is False  # the task was not trained on
    # A prompt that is nothing but the text: each text must read like a prompt of the training.
    count = describe_prompts({"count": ["How many {question}?"]})
    assert was_seen("{text}", count, ["How many dogs?", "how many  red cats?"]) is True
    assert was_seen("{text}", count, ["How many dogs?", "Is there a dog?"]) is False
    assert was_seen("{text}", describe_prompts({"conversation": ["{question}"]}), ["Is there a dog?"]) is True
    assert was_seen("{text}", count) is False


@pytest.mark.parametrize(("templates", "seen"), [
    ("[nano]", []), ("[nano, benchmarks]", ["Caption in {language}:", "Name the main object in {language}:"]),
])  # fmt: skip
def test_a_mix_says_which_prompts_it_holds(tmp_path: Path, templates: str, seen: list[str]) -> None:
    small = ("sources.scenes.options.scenes=40", f"templates={templates}")
    manifest = build_mix(load_recipe(DataRecipe, "nano_scenes", small), tmp_path / "mix")
    assert manifest == read_manifest(tmp_path / "mix")
    assert set(manifest.prompts) == set(manifest.by_task)
    assert sorted(manifest.evaluation_prompts_seen) == seen
    assert json.loads((tmp_path / "mix/manifest.json").read_text())["evaluation_prompts_seen"] == (
        manifest.evaluation_prompts_seen
    )
    card = (tmp_path / "mix/README.md").read_text()
    assert ("so their figures are not zero-shot: `Caption in {language}:`" in card) == bool(seen)
    assert ("No benchmark uses one of them." in card) != bool(seen)


def test_prompts_of_other_languages_are_listed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    german = Template("caption", "Beschriftung:", "{caption}", (), ("caption",), "de")
    monkeypatch.setattr("mblip.mixture.mix.translate_templates", lambda *_: ([german], []))
    small = ("sources.scenes.options.scenes=40", "translated_templates=true")
    manifest = build_mix(load_recipe(DataRecipe, "nano_scenes", small), tmp_path / "mix")
    assert manifest.prompts["caption"] == ["Objects in {language}:", "Beschriftung:"]


def test_every_evaluated_prompt_of_a_model_is_told_by_the_shipped_recipes() -> None:
    for name in ("data/paper_v2", "data/balanced", "data/nano_scenes", "data/nano_english"):
        by_task: dict[str, list[str]] = {}
        for task, template in load_templates(load_recipe(DataRecipe, name).templates).english():
            by_task.setdefault(task, []).append(template.prompt)
        trained = describe_prompts(by_task)
        seen = {
            key for key, b in EVALUATED.items() if was_seen(b.prompt, trained, ["Is there a snowboard in the image?"])
        }
        # LLaVA's questions stand alone in the original's mix, as POPE's do.
        assert all(re.match("pope", key) for key in seen), (name, seen)
        assert bool(seen) == (name == "data/paper_v2"), name
