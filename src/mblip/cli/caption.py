"""``mblip caption`` and ``mblip ask``: a model's words about pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mblip.errors import InputError

if TYPE_CHECKING:
    from mblip.models import VisionLLM

Model = Annotated[str, typer.Option(help="Run directory, checkpoint directory or Hub id.")]
Pictures = Annotated[list[Path], typer.Argument(help="Picture files.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def register(app: typer.Typer) -> None:
    """Add both verbs."""
    app.command()(caption)
    app.command()(ask)


def caption(
    pictures: Pictures,
    language: Annotated[str, typer.Option(help="Languages by code or name, separated by commas.")],
    model: Model = "",
    as_json: Json = False,
) -> None:
    """Caption pictures in one or more languages."""
    from mblip.languages import find_language

    languages = [find_language(part.strip()).code for part in language.split(",")]
    from mblip.inference import caption as captions  # takes seconds: after the languages have proved known

    vlm = _load(model)
    for picture in pictures:
        (texts,) = captions(vlm, [picture], languages)
        for code, text in zip(languages, texts, strict=True):
            row = {"image": str(picture), "language": code, "caption": text}
            print(json.dumps(row, ensure_ascii=False) if as_json else f"{picture}\t{code}\t{text}")


def ask(
    picture: Annotated[Path, typer.Argument(help="A picture file.")],
    question: Annotated[str, typer.Argument(help="The question.")],
    language: Annotated[str, typer.Option(help="Language of the answer, by code or name.")] = "en",
    model: Model = "",
    as_json: Json = False,
) -> None:
    """Ask a question about a picture."""
    from mblip.inference import answer

    text = answer(_load(model), picture, question, language)
    row = {"image": str(picture), "question": question, "language": language, "answer": text}
    print(json.dumps(row, ensure_ascii=False) if as_json else text)


def _load(model: str) -> VisionLLM:
    if not model:
        raise InputError(
            "no model is named: give --model runs/quickstart/multilingual-1 after mblip quickstart (emoji scenes only), "
            "or --model Gregor/mblip-mt0-xl for the published one"
        )
    from mblip.models.load import load_model

    return load_model(model)
