"""``mblip ask``: a question about a picture."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from mblip.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(ask)


def ask(
    picture: Annotated[Path, typer.Argument(help="A picture file.")],
    question: Annotated[str, typer.Argument(help="The question.")],
    language: Annotated[
        str, typer.Option(help="Language of the answer, by any name or code; by default the language of the question.")
    ] = "",
    model: Annotated[
        str,
        typer.Option(
            help="Run, checkpoint folder or Hub id; by default the published mT0-XL, if it is on this machine."
        ),
    ] = "",
    beams: Annotated[int, typer.Option(min=1, help="Number of beams in the beam search.")] = 5,
    quantization: Annotated[
        str, typer.Option(help="Quantization of the language model: auto, none, int8 or nf4.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Ask a model a question about a picture."""
    from mblip.languages import find_languages
    from mblip.models.locate import know_languages

    if not question.strip():
        raise InputError("the question is empty: write it after the picture, in quotes")
    know_languages(model)
    if len(named := find_languages(language)) > 1:
        raise InputError("--language names more than one language; an answer is in one")
    code = named[0].code if named else ""
    from mblip.inference.resolve import check_pictures, choose_model, open_model

    check_pictures([picture])
    chosen = choose_model(model)
    from mblip.cli._progress import log_shown
    from mblip.inference.language_id import language_of  # takes seconds, so the options are checked first
    from mblip.inference.notices import notice_for
    from mblip.inference.prompts import is_a_prompt
    from mblip.processing.images import open_picture

    if not code and not is_a_prompt(question):
        try:
            code = language_of(question)
        except InputError as error:
            raise error.reworded(f"{error}, such as --language en") from error
    predictor = open_model(chosen, quantization)
    notice = notice_for(predictor.vlm)
    if notice and (message := notice(open_picture(picture))):
        print(f"mblip: {message}", file=sys.stderr)
    with log_shown(lambda line: print(f"mblip: {line}", file=sys.stderr), logging.WARNING):
        text = predictor.answer(picture, question, code or None, num_beams=beams)
    row = {"image": str(picture), "question": question, "language": code, "answer": text, "model": chosen}
    print(json.dumps(row, ensure_ascii=False) if as_json else text)
