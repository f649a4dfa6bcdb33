"""Warn if a model is asked for a language that it was not trained in; there is no warning if the model does not record them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from mblip.languages import exact_language
from mblip.models.locate import DESCRIPTIONS

_NAMED = 10  # maximum number of languages that a sentence names


def parse_languages(value: Any) -> frozenset[str] | None:
    """The codes that a model records as the languages of the answers that it was trained on; None if it records none."""
    return frozenset(value) if isinstance(value, list) and all(isinstance(code, str) for code in value) else None


def read_languages(folder: Path) -> frozenset[str] | None:
    """Like :func:`parse_languages`, for the model in a folder, without loading it."""
    for path in (folder / name for name in DESCRIPTIONS):
        if path.is_file():
            try:
                return parse_languages(json.loads(path.read_text(encoding="utf-8")).get("trained_languages"))
            except (OSError, ValueError, AttributeError):  # loading the model reports it later
                return None
    return None


def describe_languages(trained: Collection[str]) -> str:
    """The languages of a model's training in words."""
    if len(trained) == 1:
        return f"{_names(trained)} only"
    return _names(trained) if len(trained) <= _NAMED else f"{len(trained)} languages"


def warn_of_languages(trained: Collection[str] | None, asked: Iterable[str]) -> str:
    """The warning about languages that a model was not trained in; empty if there are none, or nothing is known.

    Args:
        trained: See :func:`parse_languages`.
        asked: mC4 codes.
    """
    if not trained or not (never := [code for code in asked if code not in trained]):
        return ""
    contrast = "not" if len(trained) == 1 else "but not"
    return (
        f"the model was trained to write {describe_languages(trained)}, {contrast} {_names(never)}: its text may be wrong "
        "or in another language"
    )


def _names(codes: Collection[str]) -> str:
    # A language beyond the 96 has no name here before its model is loaded.
    names = sorted(language.name if (language := exact_language(code)) else code for code in codes)
    shown, more = names[:_NAMED], len(names) - _NAMED
    if more > 0:
        return f"{', '.join(shown)} and {more} more"
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))
