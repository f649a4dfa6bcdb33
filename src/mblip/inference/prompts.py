"""How a model is asked: with the words of the templates that it was trained on."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from mblip.config import DataRecipe, TrainRecipe, load_recipe
from mblip.errors import InputError
from mblip.mixture.templates import load_templates

UNKNOWN = ("benchmarks",)  # how a model is asked that does not say what it was trained on: as the paper evaluates
PUBLISHED = ("published",)


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts of one model.

    Attributes:
        caption: With ``{language}``.
        question: With ``{question}`` and ``{language}``.
        plain: Prompts with ``{question}`` that name no language, such as ``How many {question}?``.
    """

    caption: str
    question: str
    plain: tuple[str, ...]

    def for_caption(self, language: str) -> str:
        """The prompt for a caption in the language of this English name."""
        return self.caption.replace("{language}", language)

    def for_question(self, question: str, language: str) -> str:
        """The prompt for a short answer; a question that already reads like a plain prompt stays as it is."""
        question = " ".join(question.split())
        if any(_reads_like(question, plain) for plain in self.plain):
            return question
        if "{question}?" in self.question:
            question = question.rstrip("?？ ")
        # The question last, since it may hold braces of its own.
        return self.question.replace("{language}", language).replace("{question}", question)


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
    plain = {t.prompt for _, t in own if t.prompt_roles == ("question",) and "{language}" not in t.prompt}
    return Prompts(first("caption"), first(*asking), tuple(sorted(plain - {"{question}"})))


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


def _reads_like(question: str, plain: str) -> bool:
    before, _, after = plain.partition("{question}")
    return re.fullmatch(f"{re.escape(before)}.+{re.escape(after)}", question) is not None
