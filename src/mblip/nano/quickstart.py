"""Render the quickstart's page again from its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import UndefinedError

from mblip.config import DataRecipe, load_recipe
from mblip.errors import InputError
from mblip.evaluation.results import PREDICTIONS, RUN
from mblip.nano.benchmark import TASKS, load_items
from mblip.nano.words import load_lexicon
from mblip.schema import Prediction
from mblip.storage import read_records

_AGAIN = "run mblip quickstart on its folder again"
_SHOWN = ("sw", "ar", "ja", "hi", "ru", "th", "yo", "iw")
ANSWERS = "scenes"
"""Folder with the answers of a run, in the layout of ``mblip eval``."""
_OLD_ANSWERS = "predictions.jsonl"  # file of answers in earlier versions


def wrote(directory: Path) -> bool:
    """Whether ``mblip quickstart`` wrote a folder."""
    answers = (*directory.glob(f"*-1/{ANSWERS}"), *directory.glob(f"*-1/{_OLD_ANSWERS}"))
    return (directory / "report.json").is_file() and bool(answers) and not (directory / RUN).exists()


def rewrite(directory: Path) -> dict[str, Any]:
    """Write ``report.html`` and ``report.md`` of a quickstart from its ``report.json`` and the answers of its first run.

    Returns:
        The content of ``report.json``.

    Raises:
        InputError: A file is damaged or of another version.
    """
    from mblip.nano.page import write_report  # takes seconds, and every mblip report imports this module

    path = directory / "report.json"
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        write_report(report, directory, samples(directory / f"{report['setting']}-1"))
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); {_AGAIN}") from error
    except (KeyError, TypeError, AttributeError, UndefinedError) as error:
        raise InputError(f"{path} was not written by this version ({error} is not as expected); {_AGAIN}") from error
    return report


def samples(run: Path) -> list[dict[str, Any]]:
    """The first scene of each task in languages of many scripts, with the answers of a run.

    A run that was asked in few of these languages shows the first of the others too.
    """
    held_out = load_recipe(DataRecipe, "data/nano_scenes").translation.held_out
    old = run / _OLD_ANSWERS
    rows = [*(read_records(old, Prediction) if old.is_file() else ()), *read_predictions(run / ANSWERS)]
    answers = {row.id: row.answer for row in rows}
    asked = dict.fromkeys(identity.partition("-")[0] for identity in answers)
    named = [code for code in dict.fromkeys([*_SHOWN, *asked]) if code in asked and code in load_lexicon().languages]
    languages = named[: len(_SHOWN)]
    return [
        {"image": item.image, "task": item.task, "language": item.language, "prompt": item.prompt,
         "answer": answers[item.id], "reference": item.reference}
        for item in load_items(languages, 1, TASKS, held_out)
        if item.id in answers
    ]  # fmt: skip


def read_predictions(directory: Path) -> list[Prediction]:
    """The answers in a folder, with their prompts."""
    return [row for path in sorted((directory / PREDICTIONS).glob("*.jsonl")) for row in read_records(path, Prediction)]
