"""What an engine is, and opening one as a recipe says."""

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
"""Modules of this package with an ``open_engine(**options)`` and a ``LICENCE`` of the translations. Optional is
``lacking(languages, options, profile)``, those of some languages that English cannot be translated into. Other packages
register modules of this kind (:data:`mblip.plugins.engines`)."""

for _name in ENGINES:
    plugins.engines.register(_name, f"mblip.translation.engines.{_name}", plugins.OWN)


@dataclass(frozen=True, slots=True)
class Untranslated:
    """A text that an engine was asked for and gave no usable translation of.

    Attributes:
        reason: What is counted, such as ``refused by the endpoint``, ``cut off`` or ``no translation``.
        detail: The words of the engine or the server.
        passing: Whether another try at another time may do better; such a result is not kept for later runs.
    """

    reason: str
    detail: str = ""
    passing: bool = False


Result = str | None | Untranslated
"""A translation; None where the engine does not know the text or the pair of languages."""


class Engine(Protocol):
    """Translates texts; what it cannot translate is said and counted, never guessed.

    An engine may also have a method ``stream(texts, source, target, done)``, which yields the number of each text with
    its result as soon as it is there, in any order, leaving out what is ``done`` where that changes no other result;
    without it ``translate`` is called for :data:`AT_A_TIME` texts. ``knows(source, target)`` says whether it has a pair at
    all; ``cheap`` is True where no result is worth keeping; ``identity`` tells two versions of one name apart.
    """

    name: str
    """As in the manifest, with the model where there is one."""

    licence: str
    """Of the translations, as far as the model's licence binds them."""

    def translate(self, texts: Sequence[str], source: str, target: str) -> Sequence[Result]:
        """Translate texts from one language into another (mC4 codes), one result for each, in order."""
        ...


AT_A_TIME = 64
"""Texts in one call of an engine that does not stream."""


def stream(
    engine: Engine, texts: Sequence[str], source: str, target: str, done: Container[int] = ()
) -> Iterator[tuple[int, Result]]:
    """Yield the number of every text that is not ``done``, with its result, soon after the engine has it.

    Calls are divided in the same way whatever is done, so that a result never depends on where an earlier run stopped;
    for that some texts may come although they are done.
    """
    own = getattr(engine, "stream", None)
    if own is not None:
        yield from own(texts, source, target, done)
        return
    for start in range(0, len(texts), AT_A_TIME):
        numbers = range(start, min(start + AT_A_TIME, len(texts)))
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
    """Call with all rows; where that fails, with halves of them, so that one bad row is found and costs no other.

    Args:
        call: Gives one result a row.
        rows: What is to be translated.
        failures: What the call raises for a row that is too long or otherwise impossible.
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


def lacking(name: str, options: Mapping[str, Any], languages: Sequence[str], profile: Profile = "correct") -> list[str]:
    """Those of some languages (mC4 codes) that an engine cannot translate English into, found without loading a model.

    Raises:
        InputError: As in :func:`open_engine`.
    """
    check_engine(name, options)
    finder = getattr(_module(name), "lacking", None)  # an engine that is only told names of languages has none
    return list(finder(languages, options, profile)) if finder else []


def _module(name: str) -> Any:
    if name not in plugins.engines:
        raise InputError(f"translation.engine: there is no engine {name!r}{plugins.engines.hint(name)}")
    return plugins.engines[name]


def open_engine(name: str, options: Mapping[str, Any], profile: Profile = "correct") -> Engine:
    """Open an engine with its options.

    Args:
        name: One of :data:`ENGINES`, or of another package.
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
