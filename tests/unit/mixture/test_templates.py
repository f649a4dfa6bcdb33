"""Templates: the shipped ones fit their tasks, broken ones are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mblip.errors import InputError
from mblip.mixture import load_templates
from mblip.schema import Example


def _example(task: str, row: Any = 0, language: str = "de", **texts: str) -> Example:
    return Example(f"nano/{row}", "nano", task, ("k",), texts, dict.fromkeys(texts, language), "own")


# The nano language model was trained on these very words.
@pytest.mark.parametrize(("task", "texts", "prompt", "answer"), [
    ("naming", {"answer": "Fuchs"}, "Name the object in German:", "Fuchs"),
    ("caption", {"caption": "Fuchs, Hund"}, "Objects in German:", "Fuchs, Hund"),
    ("count_all", {"answer": "3"}, "How many objects?", "3"),
    ("count", {"question": "Fuchs", "answer": "2"}, "How many Fuchs?", "2"),
    ("presence", {"question": "Fuchs", "answer": "ja"}, "Question: Fuchs? Answer in German:", "ja"),
    ("left", {"answer": "Fuchs"}, "Left object in German:", "Fuchs"),
    ("right", {"answer": "Fuchs"}, "Right object in German:", "Fuchs"),
    ("matching", {"caption": "Fuchs, Hund", "answer": "nein"}, "Is this right: Fuchs, Hund? Answer in German:", "nein"),
    ("question_generation", {"question": "Fuchs", "answer": "ja"}, "Ask in German, the answer is ja:", "Fuchs?"),
])  # fmt: skip
def test_nano_templates_word_for_word(task: str, texts: dict[str, str], prompt: str, answer: str) -> None:
    instruction = load_templates(("nano",)).render(_example(task, **texts))
    assert (instruction.prompt, instruction.answer, instruction.answer_language) == (prompt, answer, "de")


def test_prompt_language_is_that_of_the_text_it_shows() -> None:
    templates = load_templates(("nano",))
    assert templates.render(_example("naming", answer="Fuchs")).prompt_language == "en"
    assert templates.render(_example("presence", question="Fuchs", answer="ja")).prompt_language == "de"


def test_answer_in_another_language_than_the_question() -> None:
    example = _example("vqa", question="Was ist das?", answer="dog")
    example.languages["answer"] = "en"
    instruction = load_templates(("paper",)).render(example)
    assert "English" in instruction.prompt and "Was ist das?" in instruction.prompt
    assert (instruction.prompt_language, instruction.answer_language) == ("de", "en")


def test_all_paper_templates_get_used_and_reasons_are_not_answers() -> None:
    templates = load_templates(("paper",))
    prompts = {templates.render(_example("caption", row, caption="Ein Hund")).prompt for row in range(100)}
    assert len(prompts) == 7
    for row in range(20):
        instruction = templates.render(_example("reasoning", row, question="Q?", answer="A", rationale="R"))
        assert instruction.answer.count("A") == 1 and "R" in instruction.answer


def test_fine_tuning_prompts_are_those_of_the_benchmarks() -> None:
    from mblip.evaluation.benchmarks import marvl, xgqa, xvnli

    prompts = dict(load_templates(("benchmarks",)).english())
    for benchmark, task, role in (
        (xgqa.BENCHMARK, "vqa", "question"), (xvnli.BENCHMARK, "entailment", "hypothesis"),
        (marvl.BENCHMARK, "image_pair", "statement"),
    ):  # fmt: skip
        asked = prompts[task].prompt.replace("{language}", "English").replace(f"{{{role}}}", "{text}")
        assert asked == benchmark.prompt
    paper = load_templates(("paper",))
    for task, role in (("entailment", "hypothesis"), ("image_pair", "statement")):
        rows = [paper.render(_example(task, row, **{role: "It is.", "answer": "yes"})) for row in range(100)]
        assert len({row.prompt for row in rows}) == 3 and all("It is." in row.prompt for row in rows)


def test_braces_in_texts_stay() -> None:
    assert load_templates(("nano",)).render(_example("caption", caption="{answer} {0} {")).answer == "{answer} {0} {"


def test_later_file_replaces_a_task(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("naming:\n  - {prompt: 'Say it {{in}} {language}!', answer: '{answer}'}\n")
    templates = load_templates(("nano", str(own)))
    assert templates.render(_example("naming", answer="Fuchs")).prompt == "Say it {in} German!"
    assert templates.render(_example("caption", caption="Fuchs")).prompt == "Objects in German:"


@pytest.mark.parametrize(("content", "message"), [
    ("naming: [a", "not readable YAML"),
    ("- naming", "must map each task"),
    ("naming: text", "every template of 'naming' must be"),
    ("naming: [{prompt: a}]", "every template of 'naming' must be"),
    ("naming: [{prompt: a, answer: 3}]", "every template of 'naming' must be"),
    ("naming: [{prompt: a, answer: b}]", "contains no field of the example"),
    ("naming: [{prompt: '{', answer: '{answer}'}]", "a brace that is not closed"),
    ("naming: [{prompt: '{answer.x}', answer: '{answer}'}]", "not the name of a text"),
])  # fmt: skip
def test_broken_files(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "own.yaml").write_text(content)
    with pytest.raises(InputError, match=message):
        load_templates((str(tmp_path / "own.yaml"),))


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="templates 'nnano'; did you mean 'nano'"):
        load_templates(("nnano",))
    with pytest.raises(InputError, match="no template for the task 'namng'; did you mean 'naming'"):
        load_templates(("nano",)).render(_example("namng", answer="x"))
    with pytest.raises(InputError, match="has no text 'answer'"):
        load_templates(("nano",)).render(_example("naming", caption="x"))
