"""The prompts of a model, from the templates that it was trained on."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mblip.config import DataRecipe, TrainRecipe, load_recipe
from mblip.errors import InputError
from mblip.languages import Language, known_language
from mblip.mixture.templates import load_templates, shipped_templates

UNKNOWN = ("benchmarks",)  # templates for a model with unknown training prompts: those of the paper's evaluation
PUBLISHED = ("published",)


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts of one model.

    Attributes:
        caption: Prompt for captions, with ``{language}``.
        question: Prompt for questions, with ``{question}`` and ``{language}``.
        own: All prompts of the model's training that a user may type, such as ``How many {question}?`` or ``Name the
            object in {language}:``.
    """

    caption: str
    question: str
    own: tuple[str, ...]

    def for_caption(self, language: str) -> str:
        """The prompt for a caption in a language, given by its English name."""
        return self.caption.replace("{language}", language)

    def for_question(self, question: str, language: str) -> str:
        """The prompt for a short answer; a question that reads like a prompt of the training is used as that prompt."""
        question = " ".join(question.split())
        if own := self.own_prompt(question):
            return own
        if "{question}?" in self.question:
            question = question.rstrip("?？ ")
        # The question comes last, because it may contain braces.
        return self.question.replace("{language}", language).replace("{question}", question)

    def own_prompt(self, question: str) -> str:
        """The prompt of the training that a question reads like, with its language by any name; empty if there is none.

        Case and the final punctuation mark do not matter: ``name the object in kiswahili`` is ``Name the object in
        Swahili:``.
        """
        return self.match(question)[0]

    def match(self, question: str) -> tuple[str, Language | None]:
        """Like :meth:`own_prompt`, together with the language that the prompt names; None if it names none."""
        question = " ".join(question.split())
        for prompt in self.own:
            if (found := _pattern(prompt).fullmatch(question)) is None:
                continue
            fields, language = found.groupdict(), None
            if "language" in fields:
                language = known_language(fields["language"])
                if language is None:  # "Name the object in the middle"
                    continue
                fields["language"] = language.name
            return prompt.format_map(fields), language
        return "", None


def prompts_from(templates: Sequence[str], trained: Collection[str] = ()) -> Prompts:
    """Choose prompts from template files: one that names the language if there is any, from the last file that has one.

    Args:
        templates: Template files of the runs that made the model, the latest last.
        trained: Prompts that the model was trained on, if known: a later file may have replaced a file's tasks.

    Raises:
        InputError: A template file is missing.
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
        # A prompt that begins with a field would match any question.
        if not template.prompt.startswith("{")
        or (template.prompt_roles == ("question",) and "{language}" not in template.prompt)
    }
    return Prompts(first("caption"), first(*asking), tuple(sorted(prompts - {"{question}"})))


def is_a_prompt(question: str) -> bool:
    """Whether a question reads like a prompt of any shipped template, which names its language or needs none."""
    return any(prompts_from((name,)).own_prompt(question) for name in shipped_templates())


def templates_of_run(folder: Path) -> tuple[str, ...]:
    """The template files of the mix that a run was trained on.

    The published checkpoints have those of the original; a folder that does not record its templates has those of the
    benchmarks.
    """
    if _is_published(folder):
        return PUBLISHED
    try:
        section = load_recipe(TrainRecipe, folder / "recipe.yaml").data
        mix = Path(section.mix) if section.mix else folder / "mix"
        # If a run was moved, or is used from another folder, its mix may be beside it.
        places = [place / "recipe.yaml" for place in (mix, folder.parent / mix.name)]
        found = next(place for place in places if place.is_file())
        return load_recipe(DataRecipe, found).templates
    except (InputError, StopIteration):
        return UNKNOWN


def _is_published(folder: Path) -> bool:
    """Whether a folder holds a checkpoint in the layout of 2023, which has its own class name."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("architectures") == ["mBLIP"]


@lru_cache(maxsize=256)
def _pattern(prompt: str) -> re.Pattern[str]:
    """A pattern for questions that read like a prompt: any case, any text for its fields, any final mark."""
    words, mark = re.fullmatch(r"(.*?)([:.?!]?)", prompt, re.DOTALL).groups()  # type: ignore[union-attr]
    expression = ""
    for part in re.split(r"(\{\w+\})", words):
        name = part[1:-1] if part.startswith("{") else ""
        again = f"(?P={name})" if f"(?P<{name}>" in expression else f"(?P<{name}>.+?)"
        expression += again if name else re.escape(part)
    return re.compile(expression + (f"{re.escape(mark)}?" if mark else ""), re.IGNORECASE)
