"""Every switch that docs/differences.md names exists, and its commands give the original's way in full."""

from __future__ import annotations

import inspect
import re
import shlex
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest
import typer.main

from mblip.cli.app import app
from mblip.config import DataRecipe, EvalRecipe, TrainRecipe, load_recipe
from mblip.errors import InputError
from mblip.evaluation.benchmarks import BENCHMARKS
from mblip.evaluation.prompts import load_prompts
from mblip.evaluation.suites import load_suite
from mblip.mixture.templates import load_templates

PAGE = (Path(__file__).parents[2] / "docs" / "differences.md").read_text(encoding="utf-8")
RECIPES: tuple[tuple[type[DataRecipe] | type[TrainRecipe], str], ...] = (
    (DataRecipe, "paper_v2"), (DataRecipe, "balanced"), (TrainRecipe, "mt0_xl_warmup"), (TrainRecipe, "mt0_xl_align"),
    (TrainRecipe, "bloomz_7b_align"), (TrainRecipe, "finetune_gqa"),
)  # fmt: skip
GENERATION = {"repetition_penalty"}  # arguments of generate, not of a recipe


def rows(page: str = PAGE) -> list[list[str]]:
    """The cells of the tables, without their heads."""
    lines = [line.strip("|").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in cells] for cells in lines if cells[0].strip() != "Difference"]


def commands(page: str = PAGE) -> list[list[str]]:
    block = page.split("```")[1]
    return [shlex.split(line, comments=True)[1:] for line in block.splitlines() if line.startswith("mblip ")]


def problem(code: str) -> str:
    """What is wrong with a switch in a row, or nothing."""
    if code.startswith("mblip "):
        return command_problem(shlex.split(code)[1:])
    if "=" not in code:
        return ""  # a name, checked where it stands for one
    field, _, value = code.partition("=")
    if field in GENERATION:
        return ""
    value = value.strip("'")
    found = []
    for kind, name in RECIPES:
        try:
            recipe = load_recipe(kind, name, (f"{field}={value}",))
        except InputError as error:
            found.append(str(error))
            continue
        if isinstance(recipe, DataRecipe) and ".options." in field:
            source = next(one for one in recipe.sources if one.name == field.split(".")[1])
            reader = import_module(f"mblip.corpora.{source.reader}").read
            option = field.rpartition(".")[2]
            if option not in inspect.signature(reader).parameters:
                return f"{source.reader} has no option {option}"
        return ""
    return found[0]


def command_problem(words: list[str]) -> str:
    command, rest = typer.main.get_command(app), list(words)
    while hasattr(command, "commands"):
        name = rest.pop(0)
        if name not in command.commands:
            return f"no verb {name}"
        command = command.commands[name]
    options = {name for parameter in command.params for name in parameter.opts}
    for word in rest:
        if word.startswith("--") and word not in options:
            return f"no option {word}"
    values = dict(pairwise(rest))
    try:
        if "--suite" in values:
            load_suite([values["--suite"]])
        if "--prompts" in values:
            load_prompts(values["--prompts"], [BENCHMARKS["xm3600"]])
        for option in ("sets", "pictures"):
            if f"--{option}" in values:
                EvalRecipe.model_validate({"title": "", "benchmarks": (), option: values[f"--{option}"]})
    except (InputError, ValueError) as error:
        return str(error)
    variant = values.get("--variant")
    if variant and not any(variant in benchmark.variants for benchmark in BENCHMARKS.values()):
        return f"no variant {variant}"
    return ""


def test_there_is_a_row_for_every_difference_in_full() -> None:
    found = rows()
    assert len(found) >= 45
    assert [cells[0] for cells in found if len(cells) != 5 or not all(cells)] == []
    assert len({cells[0] for cells in found}) == len(found), "a difference stands there once"


@pytest.mark.parametrize("cells", rows(), ids=lambda cells: cells[0].replace(" ", "_")[:40])
def test_every_switch_exists_or_the_row_says_why_there_is_none(cells: list[str]) -> None:
    switch = cells[3]
    codes = re.findall(r"`([^`]+)`", switch)
    assert [why for code in codes if (why := problem(code))] == []
    if switch.startswith("none"):
        assert switch.startswith("none is needed") or re.match(r"none: (\S+ ){2,}", switch), "say why"
    else:
        assert any("=" in code or code.startswith("mblip ") for code in codes), "name a field, an option or a command"


def test_a_switch_that_does_not_exist_would_be_found() -> None:
    for code in (
        "data.picture=original", "optim.profile=originl", "sources.aokvq.translate=false", "profile=orignal",
        "sources.web_matching.options.drow=original", "mblip eval M --sets papers", "mblip eval M --varian mblip",
        "mblip eval M --variant mblp", "mblip data match --originals", "mblip eval M --prompts orignal",
        "mblip eval M --pictures raw", "model.answer_separator=x",
    ):  # fmt: skip
        assert problem(code), code
    assert len(rows("| Difference | a | b | c | d |\n|---|---|\n| x | y | z |")) == 1


def test_the_commands_of_the_papers_way_are_the_originals_in_full() -> None:
    data, train, asked = [], {}, []
    for words in commands():
        assert command_problem(words) == ""
        overrides = tuple(word for word in words if "=" in word and not word.startswith("--"))
        if words[0] == "data" and words[1] != "match":
            data.append(load_recipe(DataRecipe, words[2], overrides))
        elif words[0] == "train":
            train[words[1]] = load_recipe(TrainRecipe, words[1], overrides)
        elif words[0] == "eval":
            asked.append(load_suite([words[words.index("--suite") + 1]]))
    assert len(data) == 5 and all(recipe == data[0] for recipe in data)
    assert data[0].profile == "original" and data[0].templates == ("paper", "llava")
    options = {source.name: source.options for source in data[0].sources}
    assert options["web_matching"]["draw"] == "original" and options["llava_detail"]["instructions"] is True
    assert [source.name for source in data[0].sources if not source.translate] == ["aokvqa", "imagenet"]
    tasks = ("gqa", "xvnli", "nlvr2", "flickr30k")
    assert list(train) == ["mt0_xl_warmup", "mt0_xl_align", "bloomz_7b_align", *(f"finetune_{task}" for task in tasks)]
    for name, recipe in train.items():
        assert (recipe.optim.profile, recipe.data.pictures, recipe.data.end_cut_answers) == (
            "original",
            "original",
            True,
        )
        whole = name == "finetune_nlvr2"  # neither cropped nor mirrored there
        assert (recipe.data.flip, recipe.data.crop_scale) == (not whole, (1.0, 1.0) if whole else (0.5, 1.0))
    # Texts that one process of the original takes at once, whose means it takes the mean of.
    sizes = {name: (recipe.optim.micro_batch, recipe.optim.global_batch) for name, recipe in train.items()}
    assert list(sizes.values()) == [(8, 128), (8, 128), (4, 128), (64, 256), (32, 128), (16, 128), (16, 128)]
    assert train["bloomz_7b_align"].model.answer_separator == ""
    assert [recipe.sets for recipe in asked] == ["paper", "paper"]
    assert load_templates(("finetuned",)).english()
