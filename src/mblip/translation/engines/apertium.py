"""Apertium: rule-based translation by an installed program (GPL), offline and fast, for installed pairs.

Debian: ``apt-get install apertium apertium-eng-spa apertium-eng-cat apertium-eo-en apertium-en-gl``.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from mblip.endpoint import one_line
from mblip.errors import InputError
from mblip.languages import Profile, exact_language
from mblip.translation.engines import base
from mblip.translation.engines.base import Result, retry_in_halves

_MARK = re.compile(r"[*#@](?=\w)")

LICENCE = "no claim on translations (the program is GPL)"


class ApertiumEngine:
    """The installed pairs; see :func:`open_engine`."""

    name = "apertium"
    licence = LICENCE
    at_a_time = 1024
    """Texts of one start of the program, which takes about half a second to read its dictionaries."""

    def __init__(self, program: str, most_unknown: float, timeout: float) -> None:
        found = shutil.which(program)
        if not found:
            raise InputError(
                f"there is no program {program!r}; apt-get install apertium and a pair such as apertium-eng-spa"
            )
        self._program, self._most_unknown, self._timeout = found, most_unknown, timeout
        try:
            self._modes = _modes(self._run(["-l"], ""))
        except _Failed as error:
            raise InputError(f"apertium -l failed: {error}") from error

    def knows(self, source: str, target: str) -> bool:
        """Whether the pair is installed."""
        return (source, target) in self._modes

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[Result]:
        """See :class:`~mblip.translation.engines.base.Engine`; pairs that are not installed give None."""
        mode = self._modes.get((source, target))
        if mode is None or not texts:
            return [None] * len(texts)
        lines = [" ".join(text.split()) for text in texts]
        translated = retry_in_halves(lambda part: self._lines(part, mode), lines, _Failed)
        return [
            self._clean(line, result) if isinstance(result, str) else result
            for line, result in zip(lines, translated, strict=True)
        ]

    def _lines(self, lines: Sequence[str], mode: str) -> list[Result]:
        """Translate line by line; if a pair's rules change the number of lines, halves are tried to find the cause."""
        translated = self._run(["-n", "-f", "line", mode], "\n".join(lines) + "\n").split("\n")[:-1]
        if len(translated) == len(lines):
            return list(translated)
        if len(lines) == 1:
            return [" ".join(" ".join(translated).split())]
        raise _Failed(f"{len(translated)} lines for {len(lines)}")

    def _clean(self, line: str, result: str) -> str | None:
        """Remove Apertium's marks of unknown words; None if there are too many."""
        if not _MARK.search(line):  # else the marks may belong to the text
            unknown = len(_MARK.findall(result))
            if unknown > self._most_unknown * len(line.split()):
                return None
            result = _MARK.sub("", result)
        result = result.strip()
        if line.endswith(".") and result and not result.endswith("."):  # the program drops a line's final full stop
            result += "."
        return result or None

    def _run(self, arguments: list[str], text: str) -> str:
        process = subprocess.Popen(
            [self._program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        try:
            out, said = process.communicate(text.encode("utf-8", "replace"), timeout=self._timeout)
        except BaseException as error:
            # The program is a shell script, whose pipeline would continue and block.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                raise _Failed(f"no answer within {self._timeout:g} s") from error
            raise
        if process.returncode:
            raise _Failed(one_line(said.decode(errors="replace")) or f"exit code {process.returncode}")
        return out.decode(errors="replace")


class _Failed(Exception):
    """The program failed, or does not answer."""


def _modes(listing: str) -> dict[tuple[str, str], str]:
    """Directions by mC4 codes, such as (en, es) -> eng-spa; regional variants are left out."""
    modes: dict[tuple[str, str], str] = {}
    for mode in listing.split():
        pair = mode.split("-")
        if len(pair) == 2 and all(code.isalpha() for code in pair):
            source, target = map(exact_language, pair)
            if source and target:  # excludes Aragonese, and Serbo-Croatian, whose modes write Latin letters
                modes[source.code, target.code] = mode
    return modes


def open_engine(program: str = "apertium", most_unknown: float = 0.25, timeout: float = 60.0) -> ApertiumEngine:
    """Open the installed program.

    Args:
        program: Its name or path.
        most_unknown: Largest share of unknown words in a text; texts with more are not translated.
        timeout: Seconds for one call of up to 1,024 texts; if it is exceeded, halves are tried, down to the text that hangs.

    Raises:
        InputError: The program is not installed.
    """
    return ApertiumEngine(program, most_unknown, timeout)


def lacking(languages: Sequence[str], options: Mapping[str, Any], profile: Profile) -> list[str]:
    """The languages that it cannot translate English into."""
    engine = base.open_engine("apertium", options)
    assert isinstance(engine, ApertiumEngine)
    return [code for code in languages if not engine.knows("en", code)]
