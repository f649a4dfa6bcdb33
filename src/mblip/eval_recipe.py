"""The recipe of an evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mblip.languages import LanguageCode
from mblip.settings import Recipe

Pictures = Annotated[
    Literal["correct", "original"], Field(description="original: as stored, neither turned nor laid on white")
]


class EvalRecipe(Recipe):
    """``mblip eval``: which benchmarks, and how they are asked."""

    kind: Literal["eval"] = "eval"
    benchmarks: tuple[str, ...] = Field(description="by name; a family such as pope stands for its splits")
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
