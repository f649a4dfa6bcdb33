"""What an engine is, and opening one as a recipe says."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol

from pydantic import ValidationError, validate_call

from mblip.errors import InputError, nearest
from mblip.languages import Profile

ENGINES = ("apertium", "ctranslate2", "lexicon", "openai", "transformers")
"""Modules of this package with an ``open_engine(**options)`` and a ``LICENCE`` of the translations."""


class Engine(Protocol):
    """Translates texts; what it cannot translate comes back as None and is counted, never guessed."""

    name: str
    """As in the manifest, with the model where there is one."""

    licence: str
    """Of the translations, as far as the model's licence binds them."""

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str | None]:
        """Translate texts from one language into another (mC4 codes), one result for each, in order."""
        ...


def check_engine(name: str, options: Mapping[str, Any]) -> None:
    """Check an engine's name and the names of its options without loading a model.

    Raises:
        InputError: An unknown engine or option.
    """
    known = inspect.signature(_module(name).open_engine).parameters
    for option in options:
        if option not in known:
            raise InputError(f"translation.options: engine {name!r} has no option {option!r}{nearest(option, known)}")


def engine_licence(name: str) -> str:
    """What an engine's translations may be used for, as its module says."""
    licence: str = _module(name).LICENCE
    return licence


def _module(name: str) -> ModuleType:
    if name not in ENGINES:
        raise InputError(f"translation.engine: there is no engine {name!r}{nearest(name, ENGINES)}")
    return importlib.import_module(f"mblip.translation.engines.{name}")


def open_engine(name: str, options: Mapping[str, Any], profile: Profile = "correct") -> Engine:
    """Open an engine with its options.

    Args:
        name: One of :data:`ENGINES`.
        options: Of its ``open_engine``.
        profile: ``original`` for the language codes of the original mBLIP, in engines that are told codes.

    Raises:
        InputError: An unknown engine or option.
    """
    check_engine(name, options)
    opener = _module(name).open_engine
    if profile != "correct" and "profile" in inspect.signature(opener).parameters:
        options = {"profile": profile, **options}
    try:
        engine: Engine = validate_call(opener)(**options)
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(str(part) for part in first["loc"])
        raise InputError(f"translation.options: engine {name!r}, option {option!r}: {first['msg'].lower()}") from error
    return engine
