"""How a model is asked: with the words of the templates that it was trained on."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mblip.config import DataRecipe, TrainRecipe, load_recipe
from mblip.errors import InputError
from mblip.languages import find_language
from mblip.mixture.templates import load_templates, shipped_templates

UNKNOWN = ("benchmarks",)  # how a model is asked that does not say what it was trained on: as the paper evaluates
PUBLISHED = ("published",)


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts of one model.

    Attributes:
        caption: With ``{language}``.
        question: With ``{question}`` and ``{language}``.
        own: Every prompt of the model's training that a person may type, such as ``How many {question}?`` or ``Name the
            object in {language}:``.
    """

    caption: str
    question: str
    own: tuple[str, ...]

    def for_caption(self, language: str) -> str:
        """The prompt for a caption in the language of this English name."""
        return self.caption.replace("{language}", language)

    def for_question(self, question: str, language: str) -> str:
        """The prompt for a short answer; a question that already reads like a prompt of the training is that prompt."""
        question = " ".join(question.split())
        if own := self.own_prompt(question):
            return own
        if "{question}?" in self.question:
            question = question.rstrip("?？ ")
        # The question last, since it may hold braces of its own.
        return self.question.replace("{language}", language).replace("{question}", question)

    def own_prompt(self, question: str) -> str:
        """The prompt of the training that a question reads like, its language by whatever name; empty where there is none.

        Case and the mark at the end are free: ``name the object in kiswahili`` is ``Name the object in Swahili:``.
        """
        question = " ".join(question.split())
        for prompt in self.own:
            if (found := _pattern(prompt).fullmatch(question)) is None:
                continue
            fields = found.groupdict()
            try:
                if "language" in fields:
                    fields["language"] = find_language(fields["language"]).name
            except InputError:  # "Name the object in the middle"
                continue
            return prompt.format_map(fields)
        return ""


def prompts_from(templates: Sequence[str], trained: Collection[str] = ()) -> Prompts:
    """The prompts of template files: one that names the language if any does, of the file that comes last.

    Args:
        templates: Of the runs that made the model, the latest last.
        trained: Prompts that it has really seen, where that is known: a file's tasks may be those of a later file instead.

    Raises:
        InputError: A template file is gone.
    """
    own = [row for name in reversed(templates) for row in load_templates((name,)).english()]
    own = [(task, row) for task, row in own if row.prompt in trained] or own
    rows = [*own, *load_templates(UNKNOWN).english()]

    def first(*tasks: str) -> str:
        found = [row.prompt for task in tasks for name, row in own if name == task]
        found = found or [row.prompt for task in tasks for name, row in rows if name == task]
        return next((prompt for prompt in found if "{language}" in prompt), found[0])

    own_tasks = {task for task, _ in own}
    asking = [task for task in ("vqa", "presence") if task in own_tasks] or ["vqa"]
    prompts = {
        template.prompt
        for _, template in own
        # One that begins with a field would be read into any question.
        if not template.prompt.startswith("{")
        or (template.prompt_roles == ("question",) and "{language}" not in template.prompt)
    }
    return Prompts(first("caption"), first(*asking), tuple(sorted(prompts - {"{question}"})))


def is_a_prompt(question: str) -> bool:
    """Whether a question reads like a prompt of any shipped templates, which says its language itself or has none."""
    return any(prompts_from((name,)).own_prompt(question) for name in shipped_templates())


def templates_of_run(folder: Path) -> tuple[str, ...]:
    """The template files of the mix that a run was trained on.

    Those of the original's prompts for the checkpoints that it published, and of the benchmarks' where a folder or its mix
    does not say.
    """
    if _is_published(folder):
        return PUBLISHED
    try:
        section = load_recipe(TrainRecipe, folder / "recipe.yaml").data
        mix = Path(section.mix) if section.mix else folder / "mix"
        # A run that was moved, or is used from another folder, still has its mix beside it.
        places = [place / "recipe.yaml" for place in (mix, folder.parent / mix.name)]
        found = next(place for place in places if place.is_file())
        return load_recipe(DataRecipe, found).templates
    except (InputError, StopIteration):
        return UNKNOWN


def _is_published(folder: Path) -> bool:
    """Whether a folder holds a checkpoint in the layout of 2023, whose class has a name of its own."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("architectures") == ["mBLIP"]


@lru_cache(maxsize=256)
def _pattern(prompt: str) -> re.Pattern[str]:
    """What reads like a prompt: its words in any case, anything for its fields, with or without the mark at the end."""
    words, mark = re.fullmatch(r"(.*?)([:.?!]?)", prompt, re.DOTALL).groups()  # type: ignore[union-attr]
    expression = ""
    for part in re.split(r"(\{\w+\})", words):
        name = part[1:-1] if part.startswith("{") else ""
        again = f"(?P={name})" if f"(?P<{name}>" in expression else f"(?P<{name}>.+?)"
        expression += again if name else re.escape(part)
    return re.compile(expression + (f"{re.escape(mark)}?" if mark else ""), re.IGNORECASE)
