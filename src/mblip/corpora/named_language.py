"""Find the language that a prompt requests by its English name: "... in Swahili", "Short German answer:"."""

from __future__ import annotations

import re
from functools import lru_cache

from mblip.languages import BENCHMARK_LANGUAGES, LANGUAGES

# Text around a name by which a prompt requests the language; lower ranks are more certain.
_LEADS = re.compile(r"(?:\b(?:in|into|using|language(?: is)?)\s*:?|[(\[]\s*(?:in\s+)?)\s*[\"'“‘]?$", re.IGNORECASE)
_TRAILS = re.compile(
    r"['’]?s?\s+(?:\w+\s+){0,2}?(?:answer|caption|title|description|question|name|label|word|term|noun|keyword|sentence|"
    r"explanation|reason|response|reply|summary|text|account|yes|phrase)s?\b|\s*:"
)
_ENDS = re.compile(r"[\"'”’]?\s*(?:language)?\s*[)\]]?\s*(?:[.:,;!)\]\n]|$)")
_ASKED = re.compile(r"[\"'”’]?\s*[?？]")
_GOES_ON = re.compile(r"\s+(?:to|with|and|what|how|why|whether|by|as|using|for|where|which|that|please)\b")


def named_language(prompt: str) -> str:
    """The mC4 code of the language that a prompt requests for its answer; empty if there is none.

    If several languages are named, the one in the position of an instruction counts: at the end, or at the beginning.
    """
    best, codes, place = 9, list[str](), 0
    for found in _names().finditer(prompt):
        rank = _rank(prompt[: found.start()], prompt[found.end() :])
        if rank < best:
            best, codes = rank, []
        if rank == best < 9:
            codes.append(_codes()[found[0]])
            place = found.end()
    if not codes:
        return ""
    return codes[-1] if len(prompt) - place < 20 else codes[0]


def language_called(name: str) -> str:
    """The mC4 code of exactly this English name; empty if there is none."""
    return _codes().get(name.strip(), "")


def _rank(before: str, after: str) -> int:
    leads = _LEADS.search(before[-24:]) is not None
    if leads and _ENDS.match(after):
        return 0
    if _TRAILS.match(after):
        return 0
    if leads:
        return 1 if _GOES_ON.match(after) else 2 if _ASKED.match(after) else 3
    return 9


@lru_cache(maxsize=1)
def _codes() -> dict[str, str]:
    """Codes by English name, current and the original's; aliases only if they are in Latin letters."""
    codes: dict[str, str] = {}
    for language in (*BENCHMARK_LANGUAGES.values(), *LANGUAGES.values()):
        named = [name for name in language.aliases if name[0].isupper() and name.isascii() and len(name) > 3]
        named += [*language.original_benchmark_names.values(), language.original_name, language.name]
        codes |= {name: language.code for name in named if name}
    return codes


@lru_cache(maxsize=1)
def _names() -> re.Pattern[str]:
    ordered = sorted(map(re.escape, _codes()), key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(ordered)})(?!\w)")
