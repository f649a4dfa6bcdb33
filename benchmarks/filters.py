"""What the translation filters drop: of human translations (nothing is right), and of texts as looping translators make them.

    MBLIP_BENCH=... python benchmarks/filters.py

``MBLIP_BENCH`` is a folder with IGLUE's files (e-bug/iglue); every language of xFlickrCO and XVNLI that is there is taken.
Run it on an older commit for the figures before. No row of the files is printed.

XVNLI was translated and passes all filters. xFlickrCO's captions were written anew for each language, so that neither their
length nor their numbers must agree with the English ones: there the filters that look at the text itself count, and what all
of them drop is told beside it.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mblip.config import FilterSection
from mblip.translation.filters import keeps_numbers, rejection

JOINED = {"ja", "zh", "th"}


def pairs(folder: Path) -> Iterator[tuple[str, str, str, str]]:
    """(benchmark, language, English text, its translation by people)."""
    for name, fields in (("xFlickrCO", ("sentences",)), ("XVNLI", ("sentence1", "sentence2"))):
        english = rows(folder / name / "annotations/en/test.jsonl")
        for path in sorted((folder / name / "annotations").glob("*/test.jsonl")):
            language = path.parent.name
            if language == "en":
                continue
            for original, row in zip(english, rows(path), strict=True):
                for field in fields:
                    source, text = (x[field][0] if field == "sentences" else x[field] for x in (original, row))
                    yield name, language, source, text


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def word_of(text: str, language: str, draw: random.Random) -> str:
    """A word of a text; two characters where the language writes no blanks."""
    letters = re.findall(r"[^\W\d_]{2}" if language in JOINED else r"[^\W\d_]{3,}", text)
    return draw.choice(letters) if letters else text


def repeat_word(text: str, language: str, draw: random.Random) -> str:
    """A word four times more, where it stands."""
    word = word_of(text, language, draw)
    return text.replace(word, ("" if language in JOINED else " ").join([word] * 5), 1)


def hidden_repeat(text: str, language: str, draw: random.Random) -> str:
    """A word four times at the beginning, the first with a capital."""
    word = word_of(text, language, draw).lower()
    return ("" if language in JOINED else " ").join([word.capitalize(), word, word, word, text])


MUTATIONS: dict[str, Callable[[str, str, random.Random], str]] = {
    "the whole text twice": lambda text, language, _: text + ("" if language in JOINED else " ") + text,
    "the whole text twice, first word small": lambda text, language, _: (
        text + ("" if language in JOINED else " ") + text[:1].lower() + text[1:]
    ),
    "a word five times": repeat_word,
    "a word four times, first with a capital": hidden_repeat,
    "only dots": lambda text, language, _: "." * max(3, len(text) // 2),
    "only unknown tokens": lambda text, language, _: " ".join(["⁇"] * max(1, len(text) // 4)),
    "an unknown token for a word": lambda text, language, draw: text.replace(word_of(text, language, draw), "⁇", 1),
    "a control character": lambda text, language, draw: (
        text[: (at := draw.randrange(len(text) + 1))] + "\x02" + text[at:]
    ),
    "a replacement character": lambda text, language, draw: (
        text.replace(draw.choice(text or " "), "\ufffd", 1) or "\ufffd"
    ),
}


def numbers(found: list[tuple[str, str, str, str]]) -> None:
    """Print how many lost and changed numbers are caught: those of the rows, and numbers that were never translated."""
    print("\n| numbers of XVNLI | language | rows | caught |\n|---|---|---|---|")
    for language in sorted({language for _, language, _, _ in found}):
        chosen = [(source, text) for _, other, source, text in found if other == language]
        digits = [(s, t) for s, t in chosen if re.search(r"\d", s) and re.search(r"\d", t)]
        mutated = {
            "digits left out": [(s, re.sub(r"\d+", "", t)) for s, t in digits],
            "digits one higher": [(s, re.sub(r"\d+", lambda m: str(int(m.group()) + 1), t)) for s, t in digits],
        }
        for number in (1, 2, 3, 7, 12, 40, 1900):
            word = {
                1: "one|an?|the|first",
                2: "two|both|second|couple|pair",
                3: "three|third",
                7: "seven",
                12: "twelve",
            }
            free = [pair for pair in chosen if not re.search(rf"\b({word.get(number, number)})\b|\d", pair[0].lower())]
            mutated[f"{number} in the English text alone"] = [(f"{number} {s}", t) for s, t in free]
        for name, pairs_of in mutated.items():
            caught = sum(not keeps_numbers(s, t, language) for s, t in pairs_of)
            print(f"| {name} | {language} | {len(pairs_of):,} | {100 * caught / max(1, len(pairs_of)):.1f} % |")


def main() -> None:
    """Print both tables."""
    folder = Path(os.environ.get("MBLIP_BENCH", "")) / "e-bug__iglue" / "datasets"
    if not folder.is_dir():
        sys.exit("set MBLIP_BENCH to the folder of benchmark files")
    found, section = list(pairs(folder)), FilterSection()
    alone = section.model_copy(update={"length_ratio": 0.0, "numbers": False, "copied_words": 0})
    print("| human translations | rows | dropped | by reason | by all filters |\n|---|---|---|---|---|")
    dropped_in_all = 0
    for name, language in sorted({(name, language) for name, language, _, _ in found}):
        chosen = [(source, text) for *place, source, text in found if place == [name, language]]
        fitting = section if name == "XVNLI" else alone
        reasons = Counter(rejection(fitting, source, text, language) for source, text in chosen)
        every = sum(bool(rejection(section, source, text, language)) for source, text in chosen)
        kept = reasons.pop("", 0)
        dropped_in_all += len(chosen) - kept
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        share = f"{100 - 100 * kept / len(chosen):.3f} %"
        print(f"| {name} {language} | {len(chosen):,} | {share} | {told} | {100 * every / len(chosen):.2f} % |")
    print(f"| all | {len(found):,} | {100 * dropped_in_all / len(found):.3f} % | | |")
    numbers([pair for pair in found if pair[0] == "XVNLI"])
    new = {"repetition", "no letters", "broken characters"}
    dropped = sum(rejection(section, source, text, language) in new for _, language, source, text in found)
    print(f"\nby {', '.join(sorted(new))}: {dropped} of {len(found):,}, {100 * dropped / len(found):.3f} %")
    print("\n| mutated | rows | caught |\n|---|---|---|")
    for name, mutate in MUTATIONS.items():
        draw = random.Random(1)
        caught = sum(
            bool(rejection(section, source, mutate(text, language, draw), language))
            for _, language, source, text in found
        )
        before = sum(bool(rejection(section, source, text, language)) for _, language, source, text in found)
        print(
            f"| {name} | {len(found):,} | {100 * caught / len(found):.1f} % (unmutated {100 * before / len(found):.2f} %) |"
        )


if __name__ == "__main__":
    main()
