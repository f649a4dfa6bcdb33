"""The one language table: the 96 languages of the paper, with their codes in every source.

The shares are of mC4's pages and of mT5's smoothed sampling from them. Where the original
mBLIP code was wrong (``iw`` as "former Hebrew", Traditional Chinese, Sorani for mC4's Kurmanji) the table is right, and
the original's values are kept for the compatibility profile ``original``.
"""

from __future__ import annotations

import csv
import dataclasses
import re
import unicodedata
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib import resources
from typing import Literal

from mblip.errors import InputError, nearest

Profile = Literal["correct", "original"]


@dataclasses.dataclass(frozen=True, slots=True)
class Language:
    """One language.

    Attributes:
        code: mC4's code; the key everywhere in this project.
        bcp47: The tag of today's standard, such as ``he`` for ``iw``.
        name: English name, as prompts say it.
        own_name: The language's own name for itself (CLDR).
        script: ISO 15924 code, such as ``Latn``.
        direction: ``ltr`` or ``rtl``.
        nllb: FLORES-200 code, the one NLLB is prompted with; empty if NLLB lacks the language.
        madlad: Target tag of MADLAD-400, such as ``<2sw>``; empty if it lacks the language.
        mc4_share: Percent of mC4.
        mt5_share: Percent after mT5's smoothing.
        benchmark_codes: Code by benchmark, where it is not ``bcp47``.
        aliases: Other names and outdated codes it is found by.
        original_name: English name in the original's training prompts.
        original_nllb: FLORES-200 code the original translated into.
        original_benchmark_names: English name in the original's prompts by benchmark, where it differs from training.
    """

    code: str
    bcp47: str
    name: str
    own_name: str
    script: str
    direction: str
    nllb: str
    madlad: str
    mc4_share: float
    mt5_share: float
    benchmark_codes: Mapping[str, str]
    aliases: tuple[str, ...]
    original_name: str
    original_nllb: str
    original_benchmark_names: Mapping[str, str]

    def code_in(self, benchmark: str) -> str:
        """The code that a benchmark's files use, such as ``iw`` in ``maxm`` and ``he`` in ``xm3600``."""
        return self.benchmark_codes.get(benchmark, self.bcp47)

    def in_profile(self, profile: Profile, benchmark: str = "") -> Language:
        """This language as the original mBLIP named and translated it, or unchanged for ``correct``."""
        if profile == "correct":
            return self
        name = self.original_benchmark_names.get(benchmark, self.original_name)
        if self.nllb == self.original_nllb:
            return dataclasses.replace(self, name=name)
        script = self.original_nllb[-4:]
        direction = "rtl" if script == "Arab" else "ltr"
        return dataclasses.replace(self, name=name, nllb=self.original_nllb, script=script, direction=direction)


def _read_table() -> Iterator[Language]:
    with resources.files("mblip").joinpath("languages.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield Language(
                code=row["code"],
                bcp47=row["bcp47"],
                name=row["name"],
                own_name=row["own_name"],
                script=row["script"],
                direction=row["direction"],
                nllb=row["nllb"],
                madlad=row["madlad"],
                mc4_share=float(row["mc4_share_percent"]),
                mt5_share=float(row["mt5_share_percent"]),
                benchmark_codes=_pairs(row["benchmark_codes"]),
                aliases=tuple(filter(None, row["aliases"].split(";"))),
                original_name=row["original_name"],
                original_nllb=row["original_nllb"],
                original_benchmark_names=_pairs(row["original_benchmark_names"]),
            )


def _pairs(text: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in text.split(";") if pair)


_TABLE = tuple(_read_table())

LANGUAGES: dict[str, Language] = {language.code: language for language in _TABLE if language.mc4_share}
"""The 96 languages by mC4 code, in the order of the table."""

BENCHMARK_LANGUAGES: dict[str, Language] = {language.code: language for language in _TABLE if not language.mc4_share}
"""Languages that a benchmark asks for though no model here was trained on them (Croatian and Quechua in XM3600)."""


def find_language(text: str) -> Language:
    """Find a language by any code (mC4, BCP-47, FLORES), its English name or its own name; case and accents are free.

    Regional tags count for their language (``pt-BR``), unless the region writes another script (``zh-TW``).

    Raises:
        InputError: Unknown; names the nearest.
    """
    index = _index()
    key = _fold(text)
    if key in index:
        return index[key][1]
    tag = re.fullmatch(r"([a-z]{2,3})[-_]([a-z]{4}|[a-z]{2}|\d{3})", key)
    if tag and tag[1] in index:
        language, subtag = index[tag[1]][1], tag[2]
        if subtag == language.script.casefold() or (len(subtag) < 4 and subtag not in _OTHER_SCRIPT.get(tag[1], ())):
            return language
    # As it is spelled: without its accents and vowel signs a name would be wrong.
    hint = nearest(key, index, lambda folded: index[folded][0])
    raise InputError(f"unknown language {text!r}{hint}; mblip languages lists all {len(LANGUAGES)}")


_OTHER_SCRIPT = {
    "az": ("iq", "ir", "ru"),
    "ha": ("cm", "sd"),
    "kk": ("af", "cn", "ir", "mn"),
    "ky": ("cn", "tr"),
    "mn": ("cn",),
    "pa": ("pk",),
    "sd": ("in",),
    "sr": ("me", "ro", "tr"),
    "tg": ("pk",),
    "uz": ("af", "cn"),
    "zh": ("hk", "mo", "tw"),
}


@lru_cache(maxsize=1)
def _index() -> dict[str, tuple[str, Language]]:
    index: dict[str, tuple[str, Language]] = {}
    for language in _TABLE:
        flores = (language.nllb, language.nllb.partition("_")[0])
        names = (language.name, language.own_name, language.code, language.bcp47, *flores, *language.aliases)
        index.update({_fold(name): (name, language) for name in names if name})
    return index


def _fold(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.strip().casefold())
    return "".join(character for character in decomposed if unicodedata.category(character) != "Mn")
