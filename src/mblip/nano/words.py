"""Human-translated names of everyday objects (Unicode CLDR) in 86 of the 96 languages."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources


@dataclass(frozen=True)
class Lexicon:
    """Names by language code and emoji; concepts are identified by their English names."""

    names: dict[str, dict[str, str]]

    @cached_property
    def emoji(self) -> dict[str, str]:
        """The emoji of each concept, in a fixed order."""
        return {name: emoji for emoji, name in self.names["en"].items()}

    @cached_property
    def concepts(self) -> tuple[str, ...]:
        """The concepts' English names, one per picture."""
        return tuple(self.emoji)

    @property
    def languages(self) -> tuple[str, ...]:
        """mC4 codes of the languages with at least one name, in alphabetical order."""
        return tuple(self.names)

    def name(self, concept: str, language: str) -> str | None:
        """The concept's name in a language, or None if CLDR has none."""
        return self.names.get(language, {}).get(self.emoji[concept])

    def named_languages(self, share: float = 0.8) -> tuple[str, ...]:
        """Languages that name at least this share of the concepts (85; Kurmanji falls short)."""
        return tuple(code for code, own in self.names.items() if len(own) >= share * len(self.concepts))


@lru_cache(maxsize=1)
def load_lexicon() -> Lexicon:
    """Load the packaged names; names are unique within a language."""
    data = resources.files("mblip.nano").joinpath("data/names.json.gz").read_bytes()
    return Lexicon(json.loads(gzip.decompress(data)))
