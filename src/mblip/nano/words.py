"""Human-translated names of everyday objects (Unicode CLDR) in 86 of the 96 languages."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources

# Checked by hand: CLDR's own yes/no strings are English, dialogue buttons or misspelt in several languages, so the
# question is asked only where the pair below holds.
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


@dataclass(frozen=True)
class Lexicon:
    """Names by language code and emoji; a concept is known by its English name."""

    names: dict[str, dict[str, str]]

    @cached_property
    def emoji(self) -> dict[str, str]:
        """The emoji of each concept, in a fixed order."""
        return {name: emoji for emoji, name in self.names["en"].items()}

    @cached_property
    def concepts(self) -> tuple[str, ...]:
        """English names, one for each picture."""
        return tuple(self.emoji)

    @property
    def languages(self) -> tuple[str, ...]:
        """mC4 codes of the languages with at least one name, in alphabetical order."""
        return tuple(self.names)

    def name(self, concept: str, language: str) -> str | None:
        """The concept's name in a language, or None where CLDR has none."""
        return self.names.get(language, {}).get(self.emoji[concept])

    def named_languages(self, share: float = 0.8) -> tuple[str, ...]:
        """Languages that name at least this share of the concepts (85; Kurmanji falls short)."""
        return tuple(code for code, own in self.names.items() if len(own) >= share * len(self.concepts))


@lru_cache(maxsize=1)
def load_lexicon() -> Lexicon:
    """The packaged names; a name is distinct within its language."""
    data = resources.files("mblip.nano").joinpath("data/names.json.gz").read_bytes()
    return Lexicon(json.loads(gzip.decompress(data)))
