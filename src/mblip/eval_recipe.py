"""The recipe of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from mblip.languages import LanguageCode, find_language
from mblip.settings import Recipe, Section

PictureReading = Annotated[
    Literal["correct", "original"], Field(description="original: as stored, neither rotated nor put on white")
]


class TableSection(Section):
    """A test set in a table: captions, questions, or questions with options."""

    name: str = Field(default="", pattern=r"^[a-z0-9_.-]*$", description="name in results; by default the file's name")
    path: str = Field(description="below the data root; {code} is the language's code in its files")
    task: Literal["caption", "vqa", "choice"]
    languages: tuple[LanguageCode, ...] = Field(description="languages of the texts and answers")
    codes: dict[str, str] = Field(default={}, description="{code}, or the value of a language column, by mC4 code")
    columns: dict[str, str] = Field(
        default={},
        description="columns by role: image, second_image, id, caption, question, answer, options, hint, language, ...",
    )
    images: tuple[str, ...] = Field(
        default=(), description="folders or tars of images below the data root; by default the table's folder"
    )
    where: dict[str, str] = Field(default={}, description="only rows whose column has this value")
    answers: dict[str, str] = Field(default={}, description="gold answers to replace, such as {True: yes}")
    prompt: str = Field(default="", description="{text} is the question, {language} the language's English name")
    answer_language: LanguageCode | None = Field(
        default=None, description="language that the prompt asks for, if it differs"
    )
    source: str = Field(default="", description="where to get the files")

    def place(self, root: Path, code: str) -> Path:
        """The path of the table in a language below the data root, or the pattern of its parts."""
        return root / self.path.replace("{code}", self.codes.get(code, find_language(code).bcp47))


def matching_files(path: Path) -> list[Path]:
    """The files of a table: one, or those of a pattern such as ``test-*.parquet``, sorted by name; none if it is absent."""
    if path.is_file():
        return [path]
    return sorted(path.parent.glob(path.name)) if "*" in path.name else []


class EvalRecipe(Recipe):
    """``mblip eval``: benchmarks and tables, with the settings of the evaluation."""

    kind: Literal["eval"] = "eval"
    benchmarks: tuple[str, ...] = Field(default=(), description="by name; a family such as pope means all its splits")
    tables: tuple[TableSection, ...] = Field(default=(), description="test sets that are tables")
    languages: tuple[LanguageCode, ...] = Field(
        default=(), description="only these languages; empty for all languages of each benchmark"
    )
    prompts: str = Field(
        default="paper", description="paper, original (the original's language names), finetuned or a YAML file"
    )
    sets: Literal["official", "paper"] = Field(
        default="official", description="paper: the items that the original scored, where they differ"
    )
    variant: str = Field(
        default="", description="variant of the metrics, if a benchmark has it; mblip is the original's"
    )
    pictures: PictureReading = "correct"
    protocol: Literal["generation", "candidates"] = Field(
        default="generation", description="candidates: choose the most likely of the possible answers"
    )
    chat: bool | None = Field(
        default=None,
        description="for a LLaVA: whether to use its language model's chat template; by default, as in its training",
    )
    limit: int | None = Field(default=None, gt=0, description="maximum number of images per benchmark and language")
