"""Apertium: rule-based translation by an installed program (GPL), offline and fast, for the pairs that are installed.

Debian: ``apt-get install apertium apertium-eng-spa apertium-eng-cat apertium-eo-en apertium-en-gl``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence

from mblip.errors import InputError
from mblip.languages import exact_language

_MARK = re.compile(r"[*#@](?=\w)")

LICENCE = "no claim on translations (the program is GPL)"


class ApertiumEngine:
    """The installed pairs; see :func:`open_engine`."""

    name = "apertium"
    licence = LICENCE

    def __init__(self, program: str, most_unknown: float) -> None:
        found = shutil.which(program)
        if not found:
            raise InputError(
                f"there is no program {program!r}; apt-get install apertium and a pair such as apertium-eng-spa"
            )
        self._program, self._most_unknown = found, most_unknown
        self._modes = _modes(self._run(["-l"], ""))

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str | None]:
        """See :class:`~mblip.translation.engines.base.Engine`; pairs that are not installed give None.

        Raises:
            InputError: The program failed.
        """
        mode = self._modes.get((source, target))
        if mode is None or not texts:
            return [None] * len(texts)
        lines = [" ".join(text.split()) for text in texts]
        return [self._clean(line, result) for line, result in zip(lines, self._lines(lines, mode), strict=True)]

    def _lines(self, lines: list[str], mode: str) -> list[str]:
        """Translate line by line; where some pair's rules add or swallow a break, halves of the lines find the one."""
        translated = self._run(["-n", "-f", "line", mode], "\n".join(lines) + "\n").split("\n")[:-1]
        if len(translated) == len(lines):
            return translated
        if len(lines) == 1:
            return [" ".join(" ".join(translated).split())]
        half = len(lines) // 2
        return self._lines(lines[:half], mode) + self._lines(lines[half:], mode)

    def _clean(self, line: str, result: str) -> str | None:
        """Take Apertium's marks off unknown words; None where too many are."""
        if not _MARK.search(line):  # else they may be the text's own
            unknown = len(_MARK.findall(result))
            if unknown > self._most_unknown * len(line.split()):
                return None
            result = _MARK.sub("", result)
        result = result.strip()
        if line.endswith(".") and result and not result.endswith("."):  # the program swallows a line's last full stop
            result += "."
        return result or None

    def _run(self, arguments: list[str], text: str) -> str:
        done = subprocess.run([self._program, *arguments], input=text.encode(), capture_output=True, check=False)
        if done.returncode:
            message = done.stderr.decode(errors="replace").strip().splitlines()
            raise InputError(f"apertium {' '.join(arguments)} failed: {message[0] if message else done.returncode}")
        return done.stdout.decode()


def _modes(listing: str) -> dict[tuple[str, str], str]:
    """Directions by mC4 codes, such as (en, es) -> eng-spa; regional variants are left out."""
    modes: dict[tuple[str, str], str] = {}
    for mode in listing.split():
        pair = mode.split("-")
        if len(pair) == 2 and all(code.isalpha() for code in pair):
            source, target = map(exact_language, pair)
            if source and target:  # not Aragonese, nor Serbo-Croatian, whose modes write Latin letters
                modes[source.code, target.code] = mode
    return modes


def open_engine(program: str = "apertium", most_unknown: float = 0.25) -> ApertiumEngine:
    """Open the installed program.

    Args:
        program: Its name or path.
        most_unknown: A text with a larger share of words that it does not know is not translated.

    Raises:
        InputError: It is not installed.
    """
    return ApertiumEngine(program, most_unknown)
