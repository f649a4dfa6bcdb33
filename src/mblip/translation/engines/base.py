"""The protocol of engines, and opening an engine as a recipe says."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pydantic import ValidationError, validate_call

from mblip import plugins
from mblip.endpoint import one_line
from mblip.errors import InputError, nearest
from mblip.languages import Profile

T = TypeVar("T")

ENGINES = ("apertium", "ctranslate2", "openai", "transformers")
"""Modules of this package with an ``open_engine(**options)`` and a ``LICENCE`` of the translations.

``lacking(languages, options, profile)`` is optional: the languages among some that English cannot be translated into.
Other packages register modules of this kind (:data:`mblip.plugins.engines`)."""

for _name in ENGINES:
    plugins.engines.register(_name, f"mblip.translation.engines.{_name}", plugins.OWN)


@dataclass(frozen=True, slots=True)
class Untranslated:
    """A text for which an engine gave no usable translation.

    Attributes:
        reason: The reason for counting, such as ``refused by the endpoint``, ``cut off`` or ``no translation``.
        detail: The message of the engine or the server.
        passing: Whether a later try may succeed; such a result is not saved for later runs.
    """

    reason: str
    detail: str = ""
    passing: bool = False


Result = str | None | Untranslated
"""A translation; None if the engine cannot translate the text or the pair of languages."""


class Engine(Protocol):
    """Translates texts; failures are reported and counted, never guessed.

    An engine may also have a method ``stream(texts, source, target, done)``, which yields the index of each text with
    its result as soon as it is ready, in any order. It may skip texts that are ``done`` if that changes no other
    result. Without it, ``translate`` is called for ``at_a_time`` texts, or for :data:`AT_A_TIME` if the engine does not
    say. ``knows(source, target)`` says whether it has a pair; ``cheap`` is True if results are not worth saving;
    ``identity`` distinguishes versions of the same name.
    """

    name: str
    """Name in the manifest, with the model if there is one."""

    licence: str
    """Licence of the translations, as far as the model's licence covers them."""

    def translate(self, texts: Sequence[str], source: str, target: str) -> Sequence[Result]:
        """Translate texts from one language into another (mC4 codes), one result for each, in order."""
        ...


AT_A_TIME = 64
"""Number of texts in one call of an engine that neither streams nor says how many it takes."""


def stream(
    engine: Engine, texts: Sequence[str], source: str, target: str, done: Container[int] = ()
) -> Iterator[tuple[int, Result]]:
    """Yield the index of every text that is not ``done``, with its result, as soon as it is ready.

    Calls are divided in the same way whatever is done, so a result never depends on where an earlier run stopped. Some
    texts may therefore be yielded although they are done.
    """
    own = getattr(engine, "stream", None)
    if own is not None:
        yield from own(texts, source, target, done)
        return
    size = getattr(engine, "at_a_time", AT_A_TIME)
    for start in range(0, len(texts), size):
        numbers = range(start, min(start + size, len(texts)))
        if not all(number in done for number in numbers):
            results = engine.translate(texts[start : numbers.stop], source, target)
            yield from zip(numbers, results, strict=True)


def collect(results: Iterator[tuple[int, Result]], count: int) -> list[Result]:
    """The results of a stream, in order."""
    ordered: list[Result] = [None] * count
    for number, result in results:
        ordered[number] = result
    return ordered


def retry_in_halves(
    call: Callable[[Sequence[T]], Sequence[Result]], rows: Sequence[T], failures: type[Exception]
) -> list[Result]:
    """Call with all rows; if that fails, with halves, so that one bad row is found and others are not lost.

    Args:
        call: Returns one result per row.
        rows: The rows to translate.
        failures: Exceptions of the call for a row that is too long or otherwise impossible.
    """
    try:
        return list(call(rows))
    except failures as error:
        if len(rows) == 1:
            return [Untranslated("no translation", one_line(str(error) or type(error).__name__))]
    half = len(rows) // 2
    return retry_in_halves(call, rows[:half], failures) + retry_in_halves(call, rows[half:], failures)


def check_engine(name: str, options: Mapping[str, Any]) -> None:
    """Check an engine's name and the names of its options without loading a model.

    Raises:
        InputError: The engine or an option is unknown.
    """
    known = inspect.signature(_module(name).open_engine).parameters
    for option in options:
        if option not in known:
            raise InputError(f"translation.options: engine {name!r} has no option {option!r}{nearest(option, known)}")


def engine_licence(name: str) -> str:
    """The licence of an engine's translations, from its module."""
    licence: str = _module(name).LICENCE
    return licence


def lacking(name: str, options: Mapping[str, Any], languages: Sequence[str], profile: Profile = "correct") -> list[str]:
    """The languages among some (mC4 codes) that an engine cannot translate English into; loads no model.

    Raises:
        InputError: As in :func:`open_engine`.
    """
    check_engine(name, options)
    finder = getattr(_module(name), "lacking", None)  # an engine that takes names of languages has none
    return list(finder(languages, options, profile)) if finder else []


def _module(name: str) -> Any:
    if name not in plugins.engines:
        raise InputError(f"translation.engine: there is no engine {name!r}{plugins.engines.hint(name)}")
    return plugins.engines[name]


def open_engine(name: str, options: Mapping[str, Any], profile: Profile = "correct") -> Engine:
    """Open an engine with its options.

    Args:
        name: One of :data:`ENGINES`, or an engine of another package.
        options: Options of its ``open_engine``.
        profile: ``original`` for the language codes of the original mBLIP, in engines that take codes.

    Raises:
        InputError: The engine or an option is unknown.
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
