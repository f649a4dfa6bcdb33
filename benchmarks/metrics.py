"""CIDEr of an XM3600-sized job against pycocoevalcap with Java: python benchmarks/metrics.py [--languages N] [--images N].

36 languages x 3,600 images, two references and one hypothesis an image (XM3600 has 261,375 captions for 129,600 pairs of
image and language). The words are CLDR's names of countries, languages and currencies in each language, drawn by Zipf's
law, 5 to 14 a caption, with punctuation (Chinese: 10 to 24 characters, a blank between them).
Both sides get the same texts and tokenise them inside the timed part; seconds by the clock and of processor time (Java's
included) are printed, and the values must agree to 1e-9.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import time
from collections.abc import Callable
from itertools import islice

LANGUAGES = [
    "ar",
    "bn",
    "cs",
    "da",
    "de",
    "el",
    "en",
    "es",
    "fa",
    "fi",
    "fil",
    "fr",
    "he",
    "hi",
    "hr",
    "hu",
    "id",
    "it",
    "ja",
    "ko",
    "mi",
    "nl",
    "nb",
    "pl",
    "pt",
    "qu",
    "ro",
    "ru",
    "sv",
    "sw",
    "te",
    "th",
    "tr",
    "uk",
    "vi",
    "zh",
]

Captions = dict[int, list[str]]


def vocabulary(language: str) -> list[str]:
    """Words of CLDR's display names."""
    from babel import Locale

    locale = Locale.parse(language)
    names = [*locale.territories.values(), *locale.languages.values(), *locale.currencies.values()]
    return list(dict.fromkeys(word for name in names for word in str(name).split()))


def corpus(language: str, images: int) -> tuple[Captions, Captions]:
    """Hypotheses and references by image."""
    rng = random.Random(language)
    words = vocabulary(language)
    rng.shuffle(words)
    weights = [1 / (rank + 3) for rank in range(len(words))]

    def caption() -> str:
        drawn = rng.choices(words, weights, k=rng.randint(5, 14))
        if rng.random() < 0.3:
            drawn[len(drawn) // 2] += ","
        text = " ".join(drawn)
        if language == "zh":  # a character is a token
            text = " ".join(text.replace(" ", "")[: rng.randint(10, 24)])
        return text + rng.choice([".", "", "!"])

    references = {image: [caption(), caption()] for image in range(images)}
    hypotheses = {}
    for image, texts in references.items():
        kept = texts[0].split()
        hypotheses[image] = [" ".join(w for w in kept if rng.random() < 0.7) + " " + rng.choice(words)]
    return hypotheses, references


def stock(hypotheses: Captions, references: Captions) -> float:
    """pycocoevalcap: two runs of Java, then its CIDEr."""
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()

    def tokens(captions: Captions) -> Captions:
        return tokenizer.tokenize({image: [{"caption": text} for text in texts] for image, texts in captions.items()})

    return float(Cider().compute_score(tokens(references), tokens(hypotheses))[0])


def ours(hypotheses: Captions, references: Captions) -> float:
    """The same metric, as for XM3600."""
    from mblip.evaluation.metrics.captions import caption_scores

    captions = [texts[0] for texts in hypotheses.values()]
    return caption_scores(captions, list(references.values()), metrics=("CIDEr",)).total["CIDEr"]


def timed(
    run: Callable[[Captions, Captions], float], corpora: list[tuple[Captions, Captions]]
) -> tuple[float, float, list[float]]:
    """Seconds by the clock, of processor time, and the values."""
    start, before = time.perf_counter(), processor_seconds()
    with contextlib.redirect_stdout(io.StringIO()):
        values = [run(hypotheses, references) for hypotheses, references in corpora]
    return time.perf_counter() - start, processor_seconds() - before, values


def processor_seconds() -> float:
    """Of this process and of those it has waited for."""
    return sum(os.times()[:4])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--languages", type=int, default=len(LANGUAGES))
    parser.add_argument("--images", type=int, default=3600)
    options = parser.parse_args()
    os.environ["LC_ALL"] = "C.UTF-8"
    chosen = list(islice(LANGUAGES, options.languages))
    corpora = [corpus(language, options.images) for language in chosen]
    with open(os.devnull, "w") as null:  # noqa: PTH123 - the jar reports each unknown character
        os.dup2(null.fileno(), 2)
        fast, fast_cpu, our_values = timed(ours, corpora)
        slow, slow_cpu, their_values = timed(stock, corpora)
    apart = max(abs(a - b) for a, b in zip(our_values, their_values, strict=True))
    words = sum(
        len(text.split()) for hyps, refs in corpora for texts in (*hyps.values(), *refs.values()) for text in texts
    )
    print(
        f"{len(chosen)} languages x {options.images:,} images, {words:,} words; largest difference of CIDEr {apart:.1e}"
    )
    print(f"pycocoevalcap {slow:7.1f} s, {slow_cpu:7.1f} s of processor time")
    print(f"mblip         {fast:7.1f} s, {fast_cpu:7.1f} s of processor time")
    print(f"{slow / fast:.1f} times as fast by the clock, {slow_cpu / fast_cpu:.1f} times in processor time")
    if apart > 1e-9:
        raise SystemExit("the values differ")


if __name__ == "__main__":
    main()
