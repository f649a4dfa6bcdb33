"""The language table: the 96 languages of the paper, with their codes in every source, and languages that users add.

The shares are those of mC4's pages and of mT5's smoothed sampling. The table corrects errors of the original mBLIP code
(``iw`` as "former Hebrew", Traditional Chinese, Sorani for mC4's Kurmanji), and keeps the original's values for the
compatibility profile ``original``. :mod:`mblip.more_languages` adds to the table.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from typing import Annotated, Literal

from pydantic import AfterValidator

from mblip.errors import InputError, shorten

Profile = Literal["correct", "original"]


@dataclasses.dataclass(frozen=True, slots=True)
class Language:
    """One language.

    Attributes:
        code: mC4's code, the key everywhere in this project.
        bcp47: Current BCP-47 tag, such as ``he`` for ``iw``.
        name: English name in prompts.
        own_name: The language's own name for itself (CLDR).
        script: ISO 15924 code, such as ``Latn``.
        direction: ``ltr`` or ``rtl``.
        nllb: FLORES-200 code for NLLB; empty if NLLB lacks the language.
        madlad: Target tag of MADLAD-400, such as ``<2sw>``; empty if it lacks the language.
        trainable: Whether a mix may have it. Benchmarks have some languages that no model here was trained on.
        mc4_share: Percentage of mC4; for an added language, its share on the same scale.
        mt5_share: Percent after mT5's smoothing.
        benchmark_codes: Code by benchmark, if it is not ``bcp47``.
        aliases: Other names and outdated codes to find it by.
        original_name: English name in the original's training prompts.
        original_nllb: FLORES-200 code the original translated into.
        original_benchmark_names: English name in the original's prompts by benchmark, if it differs from training.
    """

    code: str
    bcp47: str
    name: str
    own_name: str
    script: str
    direction: str
    nllb: str
    madlad: str
    trainable: bool
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
        """This language with the original mBLIP's name and translation code, or unchanged for ``correct``."""
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
                trainable=row["trainable"] == "true",
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

LANGUAGES: dict[str, Language] = {language.code: language for language in _TABLE if language.trainable}
"""The 96 languages by mC4 code, in the order of the table, followed by added ones."""

BENCHMARK_LANGUAGES: dict[str, Language] = {language.code: language for language in _TABLE if not language.trainable}
"""Languages of benchmarks that no mix has unless a recipe adds them (Croatian and Quechua in XM3600)."""


def add_language(language: Language) -> None:
    """Add a language to :data:`LANGUAGES` for this process; adding an equal one again changes nothing.

    Raises:
        InputError: The code, or a name, already belongs to another language.
    """
    held = LANGUAGES.get(language.code)
    if held is not None and dataclasses.replace(held, mc4_share=language.mc4_share) == language:
        return
    if held is not None:
        raise InputError(
            f"cannot add the language {language.code!r} ({language.name}): it was already added with another name, "
            "script or code; make MBLIP_LANGUAGES and the recipe's more_languages agree"
        )
    for name in _names(language):
        other = exact_language(name)
        if other is not None and (other.trainable or other.code != language.code):
            raise InputError(
                f"cannot add the language {language.code!r} ({language.name}): {name!r} already means {other.name} "
                f"({other.code!r}); give it its own code and names, or leave it out"
            )
    LANGUAGES[language.code] = language
    _forget()


def added_languages() -> list[Language]:
    """The languages that were added to the table, in order."""
    shipped = {language.code for language in _TABLE if language.trainable}
    return [language for code, language in LANGUAGES.items() if code not in shipped]


UNDETERMINED = "und"
"""ISO 639-2's code for an unknown language, in mixes of texts from others."""


def name_code(code: str) -> str:
    """The English name of a language by its mC4 code, also for the unknown language."""
    return "unknown" if code == UNDETERMINED else find_language(code).name


def find_language(text: str) -> Language:
    """Find a language by name or by any common tag; case and accents do not matter.

    Names are English names and own names. Tags are mC4 and FLORES codes, BCP-47 with script, region, variant and
    extensions (``zh-Hant-TW``, ``de-DE-u-co-phonebk``), ISO 639-1, 639-2 (B and T) and 639-3, POSIX locales
    (``ca_ES.UTF-8@valencia``), outdated codes (``iw``, ``in``, ``sh``) and what NLLB, MADLAD, M2M-100, Whisper, fastText
    and Android put around them (``<2sw>``, ``__label__swh_Latn``, ``pt-rBR``).

    A tag must have the script of the table: ``sr-Latn``, ``hi-Latn`` or ``pa-PK`` mean another script and are refused.
        Chinese is both simplified and traditional, as in mC4. Separate languages (``ckb``, ``yue``, ``nn``, ``arz``)
        are not taken for their neighbours.

    Raises:
        InputError: The language is unknown, or in another script; the message names the nearest.
    """
    if not isinstance(text, str):
        raise InputError(f"a language must be a text such as 'sw', not {text!r:.100}")
    if language := exact_language(text) or _tagged(text):
        return language
    raise InputError(f"unknown language {shorten(text)!r}; {_hint(text)}")


def known_language(text: str) -> Language | None:
    """The language that :func:`find_language` finds, or None: for text that need not name one, in every row of a file."""
    try:
        return exact_language(text) or _tagged(text)
    except InputError:
        return None


def find_languages(text: str) -> list[Language]:
    """The languages of a list with commas, each once, in order; empty for an empty text.

    Raises:
        InputError: A language is unknown, and the message names the nearest; or there are commas alone.
    """
    found = [find_language(part) for part in text.split(",") if part.strip()]
    if text.strip() and not found:  # empty would mean all of them
        raise InputError(f"{text!r} names no language; mblip languages lists all {len(LANGUAGES)}")
    return list({language.code: language for language in found}.values())


def find_code(text: str) -> str:
    """The mC4 code of a language, for the fields of a recipe.

    Raises:
        ValueError: The language is unknown; the message names the nearest.
    """
    try:
        return find_language(text).code
    except InputError as error:
        raise ValueError(str(error)) from error


def find_trainable(text: str) -> str:
    """The mC4 code of a language that a mix may hold.

    Raises:
        InputError: The language is unknown, or only benchmarks have it.
    """
    code = find_language(text).code
    if code not in LANGUAGES:
        raise InputError(
            f"{text!r} is not one of the {len(LANGUAGES)} languages of mixes; add it with more_languages of the recipe"
        )
    return code


def exact_language(text: str) -> Language | None:
    """The language with exactly this name or code in the table, for files whose other tags have other meanings."""
    return _index().get(_fold(text))


# Marks around codes in MADLAD and fairseq, Whisper, M2M-100 and fastText, OPUS-MT.
_WRAPPED = re.compile(r"(?:<2|<\||__label__|__|>>)([\w-]+?)(?:\|?>|<<|__)?")
_LOCALE = re.compile(r"([A-Za-z]{1,3}(?:[-_][A-Za-z0-9]+)*)(?:\.[\w-]+)?(?:@(\w+))?")
_ANDROID_REGION = re.compile(r"-r([A-Za-z]{2})$")
_POSIX_SCRIPTS = {"latin": "Latn", "cyrillic": "Cyrl", "devanagari": "Deva", "arabic": "Arab"}
# Old tags of Windows, and languages whose codes CLDR separates although the table joins them.
_OTHER_TAGS = {"zh-chs": "zh-Hans", "zh-cht": "zh-Hant", "sh": "sr", "hbs": "sr", "pbt": "ps", "quz": "qu"}
# Scripts that are the table's under another name, or that its texts use too.
_SAME_SCRIPTS = {"zh": ("Hant", "Hani"), "ko": ("Hang",), "ja": ("Hrkt", "Hira", "Kana")}
_TOO_LONG = 100


def _tagged(text: str) -> Language | None:
    """The language of a tag; None if it is not a tag, or its language is not in the table.

    Raises:
        InputError: The language is in the table, but in another script.
    """
    import langcodes  # 0.15 s, and rarely needed

    tag = _parse_tag(text)
    if tag is None:
        return None
    parsed = langcodes.Language.get(tag)
    broad = parsed.prefer_macrolanguage()
    language = exact_language(parsed.language or "") or exact_language(broad.language or "")
    if language is None:
        return None
    # A region implies a script if it uses another one than other regions (zh-TW, pa-PK).
    script = broad.script or (broad.maximize().script if broad.territory else language.script)
    if script in (None, language.script, *_SAME_SCRIPTS.get(language.code, ())):
        return language
    raise InputError(
        f"unknown language {text!r}: {language.name} is written in {language.script} here, not in {script}; "
        f"{_did_you_mean([language])}"
    )


@lru_cache(maxsize=1024)  # every row of a file may name the same one
def _hint(text: str) -> str:
    """The end of the message about an unknown language: what was perhaps meant, and the command that lists all."""
    import langcodes
    from langcodes.data_dicts import MACROLANGUAGES

    tag = _parse_tag(text)
    # For a valid tag its parent language, such as ``no`` for ``nn``.
    if tag and (parent := exact_language(MACROLANGUAGES.get(langcodes.Language.get(tag).language or "") or "")):
        return _did_you_mean([parent])
    folded = _fold(text)
    if len(folded) == _PAIR:  # two letters resemble too many codes for a guess: "il" is nearest to "isl"
        spoken = None if tag else _language_of_country(folded)
        return _did_you_mean([spoken], f"{folded.upper()} is the code of a country; ") if spoken else _did_you_mean([])
    return _did_you_mean(_similar(folded))


def _did_you_mean(languages: Sequence[Language], reason: str = "") -> str:
    *others, last = [f"{language.code!r} ({language.name})" for language in languages] or [""]
    guess = f"did you mean {', '.join(others)}{' or ' if others else ''}{last}? " if last else ""
    return f"{guess}{reason}mblip languages lists all {len(LANGUAGES)}"


_MOST_GUESSES = 3


def _similar(folded: str) -> list[Language]:
    """The languages that a word of the text names; if none, those with similar or longer names, the likeliest first."""
    index = _index()
    first, *others = re.split(r"[\W_]+", folded)
    found = [word for word in (first, *others) if word in index and (len(word) > _PAIR or word is first)]
    if not found and len(folded) > _PAIR:
        # At most one wrong letter in four: with more, as in "klingon" for "igbo", a guess misleads.
        found = difflib.get_close_matches(folded, index, n=4 * _MOST_GUESSES, cutoff=0.75)
        found += [name for name in index if f" {folded}" in f" {name}"]
    return list({index[name].code: index[name] for name in found}.values())[:_MOST_GUESSES]


_PAIR = 2
# Codes that ISO 3166 leaves to users, and the United Nations: CLDR would take them for English.
_NO_COUNTRY = re.compile(r"aa|q[m-z]|x[a-z]|zz|un")


def _language_of_country(code: str) -> Language | None:
    """The language that most people write in the country of a code, such as ``ja`` for ``jp``."""
    import langcodes

    if not re.fullmatch(r"[a-z]{2}", code) or _NO_COUNTRY.fullmatch(code) or not langcodes.tag_is_valid(f"und-{code}"):
        return None
    return exact_language(langcodes.Language.get(f"und-{code}").maximize().language or "")


def _parse_tag(text: str) -> str | None:
    """A BCP-47 tag from a program's name of a language; None if it is not one."""
    import langcodes

    text = text.strip()
    if not text.isascii() or len(text) > _TOO_LONG:
        return None
    wrapped = _WRAPPED.fullmatch(text)
    locale = _LOCALE.fullmatch(wrapped[1] if wrapped else text)
    if not locale:
        return None
    tag = _ANDROID_REGION.sub(r"-\1", locale[1]).replace("_", "-")
    tag = _OTHER_TAGS.get(tag.casefold(), tag)
    first, *others = tag.split("-")
    first = _OTHER_TAGS.get(first.casefold(), first)
    if len(others) == 2 and len(others[1]) == 4 and others[1].isalpha():  # old .NET order: region before script
        others.reverse()
    modifier = (locale[2] or "").casefold()
    if modifier in _POSIX_SCRIPTS:
        others.insert(0, _POSIX_SCRIPTS[modifier])
    tag = "-".join([first, *others])
    try:
        valid = langcodes.tag_is_valid(tag)
    except ValueError:
        return None
    return tag if valid else None


def _forget() -> None:
    """Forget what was found, because the table has changed."""
    _index.cache_clear()
    _hint.cache_clear()


@lru_cache(maxsize=1)
def _index() -> dict[str, Language]:
    index: dict[str, Language] = {}
    for language in {**BENCHMARK_LANGUAGES, **LANGUAGES}.values():
        index.update({_fold(name): language for name in _names(language)})
    return index


def _names(language: Language) -> list[str]:
    flores = (language.nllb, language.nllb.partition("_")[0])
    names = (language.name, language.own_name, language.code, language.bcp47, *flores, *language.aliases)
    return [name for name in names if name]


def _fold(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.strip().casefold())
    return "".join(character for character in decomposed if unicodedata.category(character) != "Mn")


LanguageCode = Annotated[str, AfterValidator(find_code)]
"""A recipe's language: any name or tag, stored and compared as mC4's code."""


YES_NO: dict[str, tuple[str, str]] = {
    "af": ("ja", "nee"), "ar": ("نعم", "لا"), "az": ("bəli", "xeyr"), "be": ("так", "не"), "bg": ("да", "не"),
    "bn": ("হ্যাঁ", "না"), "ca": ("sí", "no"), "cs": ("ano", "ne"), "da": ("ja", "nej"), "de": ("ja", "nein"),
    "el": ("ναι", "όχι"), "en": ("yes", "no"), "es": ("sí", "no"), "et": ("jah", "ei"), "eu": ("bai", "ez"),
    "fa": ("بله", "نه"), "fi": ("kyllä", "ei"), "fil": ("oo", "hindi"), "fr": ("oui", "non"), "gl": ("si", "non"),
    "gu": ("હા", "ના"), "hi": ("हाँ", "नहीं"), "hu": ("igen", "nem"), "hy": ("այո", "ոչ"), "id": ("ya", "tidak"),
    "is": ("já", "nei"), "it": ("sì", "no"), "iw": ("כן", "לא"), "ja": ("はい", "いいえ"), "ka": ("კი", "არა"),
    "kk": ("иә", "жоқ"), "ko": ("예", "아니요"), "lt": ("taip", "ne"), "lv": ("jā", "nē"), "mk": ("да", "не"),
    "mr": ("होय", "नाही"), "ms": ("ya", "tidak"), "nl": ("ja", "nee"), "no": ("ja", "nei"), "pl": ("tak", "nie"),
    "pt": ("sim", "não"), "ro": ("da", "nu"), "ru": ("да", "нет"), "sk": ("áno", "nie"), "sl": ("da", "ne"),
    "sq": ("po", "jo"), "sr": ("да", "не"), "sv": ("ja", "nej"), "sw": ("ndiyo", "hapana"), "ta": ("ஆம்", "இல்லை"),
    "te": ("అవును", "కాదు"), "th": ("ใช่", "ไม่ใช่"), "tr": ("evet", "hayır"), "uk": ("так", "ні"), "ur": ("ہاں", "نہیں"),
    "vi": ("có", "không"), "zh": ("是", "否"),
}  # fmt: skip
"""Yes and no by mC4 code, checked by hand, because some of CLDR's are English, dialogue buttons or misspelt."""
