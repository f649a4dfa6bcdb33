"""CHAIR: objects that a caption mentions but that are not in the picture (Rohrbach et al. 2018).

Sources: ``utils/chair.py`` of LisaAnne/Hallucination and ``evaluation.py`` of gregor-ge/mBLIP, with sentences split after
``.``, ``!`` or ``?`` and a blank (instead of NLTK's punkt model) and NLTK's word tokeniser. Synonyms and singular forms
are in ``chair_tables.json``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib import resources
from typing import Any

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_QUOTES = '«“‘„»”’`"'
# Signs that are always separate words.
_ALONE = re.compile(rf"[{_QUOTES};@#$%&?!*\[\](){{}}<>]|[\u2012-\u2015]|\.{{2,}}|--|''")
_COLON = re.compile(r"([:,])(\D|$)")  # only the first of two in a row
_LAST_PERIOD = re.compile(r"(?<!\.)\.(?=[\])}>\"'»”’ ]*$)")
_OPENING = re.compile(r"(?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)")
_CLITIC = re.compile(r"(?<=[^' ])('s|'m|'d|'ll|'re|'ve|n't|')(?= )")
_JOINED = re.compile(
    r"\b(can)(not)\b|\b(d)('ye)\b|\b(gim|lem)(me)\b|\b(gon)(na)\b|\b(wan)(na)(?=\s)|\b(got)(ta)\b|\b(more)('n)\b"
)
_TIS = re.compile(r"(?<= )('t)(is|was)\b")


def chair_words(caption: str) -> list[str]:
    """The words of a caption, lower-cased."""
    return [word for sentence in _SENTENCE_END.split(caption.lower().strip()) for word in _sentence_words(sentence)]


def _sentence_words(sentence: str) -> list[str]:
    text = _OPENING.sub("' ", sentence)
    text = _LAST_PERIOD.sub(" . ", text)
    text = _COLON.sub(r" \1 \2", text)
    text = " " + _ALONE.sub(r" \g<0> ", text) + " "
    text = _CLITIC.sub(r" \1", text)
    text = _JOINED.sub(lambda found: " ".join(["", *filter(None, found.groups()), ""]), text)
    return _TIS.sub(r"\1 \2", text).split()


@lru_cache(maxsize=1 << 16)
def singular(word: str) -> str:
    """The singular of an English noun by the tables of Inflector, with its errors, which are part of the metric."""
    tables = _tables()["singular"]
    first, hyphen, rest = word.partition("-")
    if hyphen and rest.partition("-")[0] in tables["prepositions"]:
        return f"{singular(first)}-{rest}"
    if word.endswith("'"):
        return singular(word[:-1]) + "'s"
    # As in the reference: whether an entry ends in the word, and not the word in an entry.
    if any(entry.endswith(word.lower()) for entry in tables["uninflected"]):
        return word
    if any(word.lower().endswith(f"{entry}s") for entry in tables["ie"]):
        return word.lower()
    for plural, one in tables["irregular"].items():
        if word.lower().endswith(plural):
            return word[: -len(plural)] + str(one)
    for ending, replacement in _endings():
        if ending.search(word):
            return ending.sub(replacement, word)
    return word


def chair_objects(caption: str) -> list[str]:
    """The names of the COCO objects that a caption mentions, once per mention."""
    doubles, names = _double_words(), _object_names()
    singulars = [singular(word) for word in chair_words(caption)]
    words, place = [], 0
    while place < len(singulars):
        pair = " ".join(singulars[place : place + 2])
        words.append(doubles.get(pair, singulars[place]))
        place += 2 if pair in doubles else 1
    if "toilet" in words:  # the seat of a toilet is no chair
        words = [word for word in words if word != "seat"]
    return [names[word] for word in words if word in names]


def object_names() -> frozenset[str]:
    """COCO's names of the objects."""
    return frozenset(_object_names().values())


def chair_scores(captions: Sequence[str], objects: Sequence[Iterable[str]]) -> dict[str, float]:
    """CHAIR of a set of captions.

    Args:
        captions: One caption per image.
        objects: The names of the COCO objects in each image.

    Returns:
        ``chair_s``, the share of captions with an object that is not in the image; ``chair_i``, the share of such
        mentions among all mentions of objects (0 without mentions); ``recall``, the share of the images' objects that
        their captions mention; ``length``, the mean number of blank-separated words of a caption.
    """
    false_captions = false_mentions = mentions = found = there = words = 0
    for caption, names in zip(captions, objects, strict=True):
        said, real = chair_objects(caption), set(names)
        wrong = sum(name not in real for name in said)
        false_captions += wrong > 0
        false_mentions += wrong
        mentions += len(said)
        found += len(real.intersection(said))
        there += len(real)
        words += len(caption.split())
    return {
        "chair_s": false_captions / len(captions),
        "chair_i": false_mentions / mentions if mentions else 0.0,
        "recall": found / there if there else 0.0,
        "length": words / len(captions),
    }


@lru_cache(maxsize=1)
def _tables() -> dict[str, Any]:
    text = resources.files("mblip.evaluation.metrics").joinpath("chair_tables.json").read_text(encoding="utf-8")
    tables: dict[str, Any] = json.loads(text)
    return tables


@lru_cache(maxsize=1)
def _endings() -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(ending), replacement) for ending, replacement in _tables()["singular"]["rules"]]


@lru_cache(maxsize=1)
def _object_names() -> dict[str, str]:
    return {word: line[0] for line in _tables()["objects"]["synonyms"] for word in line}


@lru_cache(maxsize=1)
def _double_words() -> dict[str, str]:
    tables = _tables()["double_words"]
    doubles: dict[str, str] = {words: words for words in tables["kept"]}
    doubles.update({f"{young} {animal}": animal for animal in tables["animals"] for young in ("baby", "adult")})
    doubles.update({f"passenger {vehicle}": vehicle for vehicle in tables["vehicles"]})
    doubles.update(tables["replaced"])
    return doubles
