"""The tokeniser behind BLEU, ROUGE-L and CIDEr, without Java.

pycocoevalcap lower-cases and tokenises captions with Stanford CoreNLP's PTBTokenizer and drops a list of punctuation;
published CIDEr values depend on every detail of it (``gimme`` is two tokens, ``three!four?five`` one, emoji vanish).
This tokeniser gives the same tokens; its rules are in :mod:`mblip.evaluation.metrics.ptb_rules`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache

from mblip.evaluation.metrics.ptb_rules import (
    ABBREVIATIONS,
    CASED_MODIFIERS,
    IGNORED,
    PLAIN_WORD,
    RULES,
    SPLIT_WORDS,
    WORD_BREAKS,
    Rule,
    printed,
)

# Tokens that pycocoevalcap drops. Its list has brackets in upper case; they stay, because captions are lower-cased
# first.
_DROPPED = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
# Line breaks in Java, except "\n", which pycocoevalcap replaces by a blank; these would shift all captions that follow.
_LINE_BREAKS = re.compile("[\v\f\r\u2028\u2029]")
# Places where a token or its context may cross a blank, or end in one: tags, unusual blanks, telephone numbers, "1
# 1/2", "No. 5", "plan B. The". Some always do, others only if more text follows.
_UNSETTLED = re.compile(r"[<\t-\r\x1c-\x1f\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")
_UNSETTLED_BEFORE_MORE = re.compile(r"[\d).]$")
_BEYOND_BLANKS = re.compile(r"[\d).] +[\d.]|(?<![A-Za-z])[A-Za-z]\. +[A-Z]")
# Captions that end in one letter and a period ("the Wii U.", before "A living room") or in "No." and the like.
_OPEN_END = re.compile(r"(?:(?<![A-Za-z])[A-Za-z]|\b(?i:art|ca|figs?|nos?|op|pp|prop))\.$")
_OPEN_END_LENGTH = 6  # "prop." and the character before it
# Word boundaries inside a token in Java: at some signs, and at others if they are not between two letters.
_WORD_BOUNDARY = re.compile(f"([{WORD_BREAKS}]|(?<=[\\d_.'-])[_.'-]|[_.'-](?![^\\W\\d_]))")
# The tokens of a chunk between blanks end with a mark if they may depend on the chunk's neighbours, always or only if
# text follows. A third mark ends each caption. No token can contain these marks, and no caption a line feed.
_ALWAYS, _BEFORE_MORE, _END = "\v", "\f", "\n"


class _Chunks(dict[str, str]):
    """A cache from text between two blanks to its tokens, each followed by a blank, and their mark."""

    _MOST = 1 << 18

    def __missing__(self, chunk: str) -> str:
        if len(self) >= self._MOST:
            self.clear()
        mark = _BEFORE_MORE if _UNSETTLED_BEFORE_MORE.search(chunk) else ""
        mark = _ALWAYS if _UNSETTLED.search(chunk) else mark
        word = _plain_word(chunk)
        tokens = _lower(word) if word else _tokenize_line(chunk)
        found = self[chunk] = _END if chunk == _END else (tokens and tokens + " ") + mark
        return found


_chunks = _Chunks()


def tokenize(text: str) -> str:
    """Tokenise a caption.

    Returns:
        The tokens joined by blanks, lower-cased, without punctuation, as ``pycocoevalcap``'s ``PTBTokenizer`` gives
        them for a single caption. A token may contain no-break spaces (``1 1/2``).
    """
    return tokenize_all([text])[0]


def tokenize_all(texts: Iterable[str]) -> list[str]:
    """Tokenise many captions as pycocoevalcap does, in one file, where the next one may decide about a final period."""
    captions = [text.replace(_END, " ") for text in texts]
    # All at once, so that repeated words are only looked up.
    chunks = f" {_END} ".join([*captions, ""]).split(" ")
    lines = "".join(map(_chunks.__getitem__, chunks)).split(_END)
    return [
        _settle(line, place, captions) if _BEFORE_MORE in line or _ALWAYS in line else line[:-1]
        for place, line in enumerate(lines[:-1])
    ]


def _settle(line: str, place: int, captions: Sequence[str]) -> str:
    """The tokens of a caption with marks."""
    text = captions[place]
    if _is_open(text):
        following = captions[place + 1] if place + 1 < len(captions) else ""
        return _joined(_tokens(f"{text}\n{following}\n", len(text)))
    line = line.removesuffix(_BEFORE_MORE)
    if _ALWAYS in line or (_BEFORE_MORE in line and _BEYOND_BLANKS.search(text)):
        return " ".join(filter(None, map(_tokenize_line, _LINE_BREAKS.split(text))))
    return line.replace(_BEFORE_MORE, "")[:-1]


def _plain_word(chunk: str) -> str:
    """The single word of a chunk, if that is clear without the rules; else empty."""
    match = PLAIN_WORD.fullmatch(chunk)
    if not match:
        return ""
    word = match[1].lower()
    keeps_period = match[2] == "." and (len(word) == 1 or word in ABBREVIATIONS)
    return "" if keeps_period or word in SPLIT_WORDS else match[1]


def _is_open(text: str) -> bool:
    """Whether the next caption decides about the final period."""
    end = text.rstrip()
    if not end.endswith(".") or not _OPEN_END.search(end[-_OPEN_END_LENGTH:]):
        return False
    return not _LINE_BREAKS.search(text)


def _tokenize_line(text: str) -> str:
    return _joined(_tokens(text + "\n", len(text)))


def _joined(tokens: Iterable[str]) -> str:
    line = " ".join(tokens).rstrip()
    return " ".join(token for token in line.split(" ") if token not in _DROPPED)


def _tokens(line: str, end: int) -> Iterable[str]:
    """Yield the lower-cased tokens that begin before ``end`` in a text, where a line break is."""
    place = 0
    while place < end:
        character = line[place]
        longest, token, rewrite = 0, "", None
        for rule in _rules_for(character):
            match = rule.pattern.match(line, place)
            if match and match.end() - place > longest:
                longest, token, rewrite = match.end() - place, match[1], rule.rewrite
        if rewrite:
            place += len(token)
            token = rewrite(token)
        else:
            place += 1
            token = "" if character.isspace() or IGNORED.match(character) else printed(character)
        if token:
            yield _lower(token)


@cache
def _rules_for(character: str) -> tuple[Rule, ...]:
    return tuple(rule for rule in RULES if rule.start.match(character))


def _lower(token: str) -> str:
    """Lower-case as Java does: a capital sigma is final if its word has cased letters only before it."""
    if "\u03a3" not in token:
        return token.lower()
    return "".join(_lower_word(part) for part in _WORD_BOUNDARY.split(token))


def _lower_word(word: str) -> str:
    letters = []
    start = next((place for place, letter in enumerate(word) if not unicodedata.category(letter).startswith("M")), 0)
    for place, letter in enumerate(word):
        if letter == "\u03a3":
            final = _cased(word[start:place]) and not _cased(word[place + 1 :])
            letters.append("\u03c2" if final else "\u03c3")
        else:
            letters.append(letter.lower())
    return "".join(letters)


def _cased(text: str) -> bool:
    return any(unicodedata.category(letter) in ("Lu", "Ll", "Lt") or CASED_MODIFIERS.match(letter) for letter in text)
