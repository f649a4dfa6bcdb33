"""The recipe of an evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mblip.languages import LanguageCode
from mblip.settings import Recipe, Section

Pictures = Annotated[
    Literal["correct", "original"], Field(description="original: as stored, neither turned nor laid on white")
]


class TableSection(Section):
    """A test set in a table: captions, questions, or questions with options."""

    name: str = Field(default="", pattern=r"^[a-z0-9_.-]*$", description="in results; by default the file's")
    path: str = Field(description="below the data root; {code} stands for the language's code in its files")
    task: Literal["caption", "vqa", "choice"]
    languages: tuple[LanguageCode, ...] = Field(description="of the texts and of the answers that are wanted")
    codes: dict[str, str] = Field(default={}, description="what {code} is, and a language column says, by mC4 code")
    columns: dict[str, str] = Field(
        default={},
        description="by role: image, second_image, id, caption, question, answer, options, hint, language, ...",
    )
    images: tuple[str, ...] = Field(
        default=(), description="folders or tars below the data root; the table's by default"
    )
    where: dict[str, str] = Field(default={}, description="only rows whose column says this")
    answers: dict[str, str] = Field(default={}, description="gold answers that stand for others, such as True: yes")
    prompt: str = Field(default="", description="{text} is the question, {language} the language's English name")
    answer_language: LanguageCode | None = Field(
        default=None, description="that a prompt asks for, where it is another"
    )
    source: str = Field(default="", description="where the files are to be had")


class EvalRecipe(Recipe):
    """``mblip eval``: which benchmarks and tables, and how they are asked."""

    kind: Literal["eval"] = "eval"
    benchmarks: tuple[str, ...] = Field(default=(), description="by name; a family such as pope stands for its splits")
    tables: tuple[TableSection, ...] = Field(default=(), description="test sets that are tables")
    languages: tuple[LanguageCode, ...] = Field(default=(), description="only these; empty for all of each benchmark")
    prompts: str = Field(
        default="paper", description="paper, original (its names of languages), finetuned or a YAML file"
    )
    sets: Literal["official", "paper"] = Field(
        default="official", description="paper: the items that the original scored, where these are others"
    )
    variant: str = Field(default="", description="of the metrics, where a benchmark has it; mblip is the original's")
    pictures: Pictures = "correct"
    protocol: Literal["generation", "candidates"] = Field(
        default="generation", description="candidates: choose the likeliest of the given answers"
    )
    chat: bool | None = Field(
        default=None,
        description="of a LLaVA: by its language model's chat template or not; left out, as it was trained",
    )
    limit: int | None = Field(default=None, gt=0, description="images of each benchmark and language, at most")
