"""BLEU, ROUGE-L and CIDEr of captions, equal to pycocoevalcap's, computed for a whole corpus at once.

Sources: Papineni et al. 2002 (BLEU), Lin 2004 (ROUGE-L), Vedantam et al. 2015 (CIDEr, here the variant "CIDEr-D" that
coco-caption calls CIDEr). The constants, the choice of the reference length and the handling of empty captions are those
of pycocoevalcap 1.2.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ORDERS = (1, 2, 3, 4)
METRICS = ("Bleu", "ROUGE_L", "CIDEr")
_SMALL, _TINY = 1e-9, 1e-15  # BLEU: in the denominator and in the numerator
_BETA = 1.2  # ROUGE-L: weight of recall
_SIGMA = 6.0  # CIDEr: width of the length penalty, in words


@dataclass(frozen=True, slots=True)
class CaptionScores:
    """Scores of a corpus of captions.

    Attributes:
        total: The requested ones of ``Bleu_1`` to ``Bleu_4``, ``ROUGE_L`` and ``CIDEr`` for the corpus, as fractions.
        per_image: The same for each image, in the given order, [images].
        bleu_counts: The counts behind BLEU: ``guess`` and ``correct`` by order, ``testlen`` and ``reflen``.
    """

    total: dict[str, float]
    per_image: dict[str, Floats]
    bleu_counts: dict[str, int | list[int]]


def score_captions(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], metrics: Sequence[str] = METRICS
) -> CaptionScores:
    """Score tokenised captions.

    Args:
        hypotheses: One caption per image, tokens joined by blanks.
        references: The captions of each image, at least one, tokenised in the same way.
        metrics: Some of :data:`METRICS`.
    """
    corpus = _Corpus(hypotheses, references)
    total: dict[str, float] = {}
    per_image: dict[str, Floats] = {}
    counts: dict[str, int | list[int]] = {}
    if "Bleu" in metrics:
        bleu, per_image, counts = _bleu(corpus)
        total.update(zip((f"Bleu_{order}" for order in ORDERS), bleu, strict=True))
    if "ROUGE_L" in metrics:
        pairs = zip(hypotheses, references, strict=True)
        per_image["ROUGE_L"] = np.array([_rouge_l(hypothesis, texts) for hypothesis, texts in pairs])
    if "CIDEr" in metrics:
        per_image["CIDEr"] = _cider(corpus)
    total.update({name: float(per_image[name].mean()) for name in ("ROUGE_L", "CIDEr") if name in per_image})
    return CaptionScores(total, per_image, counts)


@dataclass(frozen=True, slots=True)
class _Grams:
    """The n-grams of one order in all sentences: one row per n-gram and sentence, in this order."""

    sentence: Ints
    gram: Ints
    count: Ints
    kinds: int


class _Corpus:
    """All sentences as numbers: first the hypothesis of each image, then the references, image by image."""

    def __init__(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        self.images = len(hypotheses)
        self.references = np.array([len(refs) for refs in references], dtype=np.int64)
        tokens = [sentence.split() for sentence in (*hypotheses, *(ref for refs in references for ref in refs))]
        vocabulary: defaultdict[str, int] = defaultdict()
        vocabulary.default_factory = vocabulary.__len__  # a new token gets the next number
        self.length = np.fromiter(map(len, tokens), dtype=np.int64, count=len(tokens))
        count = int(self.length.sum())
        numbers = np.fromiter(map(vocabulary.__getitem__, chain.from_iterable(tokens)), dtype=np.int64, count=count)
        self.image = np.concatenate([np.arange(self.images), np.repeat(np.arange(self.images), self.references)])
        self.grams = _count(numbers, np.repeat(np.arange(len(tokens)), self.length), len(vocabulary))


def _count(words: Ints, sentence: Ints, kinds: int) -> list[_Grams]:
    """Count the n-grams of each order; an n-gram is encoded by the number of its prefix and its last word."""
    counted, gram, vocabulary = [], words, kinds
    sentences = int(sentence.max(initial=0)) + 1
    for order in ORDERS:
        if order > 1:
            inside = sentence[: len(gram) - 1] == sentence[order - 1 :]
            joined = gram[:-1] * vocabulary + words[order - 1 :]
            distinct, number = np.unique(joined[inside], return_inverse=True)
            kinds = len(distinct)
            gram = np.full(len(joined), -1, dtype=np.int64)
            gram[inside] = number
        at = np.flatnonzero(gram >= 0)
        rows, count = np.unique(gram[at] * sentences + sentence[at], return_counts=True)
        counted.append(_Grams(rows % sentences, rows // sentences, count, kinds))
        if order == 1:
            continue
        # An n-gram that crosses the end of its sentence never begins a longer one, so its number does not matter.
        gram = np.maximum(gram, 0)
    return counted


def _bleu(corpus: _Corpus) -> tuple[list[float], dict[str, Floats], dict[str, int | list[int]]]:
    images = corpus.images
    tested = corpus.length[:images]
    distance = np.abs(corpus.length[images:] - tested[corpus.image[images:]])
    # The closest reference length, the shorter one of a tie.
    order = np.lexsort((corpus.length[images:], distance, corpus.image[images:]))
    first = np.concatenate([[0], np.cumsum(corpus.references)[:-1]]).astype(np.int64)
    wanted = corpus.length[images:][order][first]

    guess = np.maximum(tested[:, None] - np.arange(len(ORDERS)), 0)
    correct = np.stack([_clipped_matches(corpus, grams) for grams in corpus.grams], axis=1)
    score = (correct + _TINY) / (guess + _SMALL)
    scores = np.cumprod(score, axis=1) ** (1 / np.array(ORDERS))
    scores *= _brevity(tested.astype(np.float64), wanted.astype(np.float64))[:, None]

    guessed, matched = guess.sum(axis=0), correct.sum(axis=0)
    total = np.cumprod((matched + _TINY) / (guessed + _SMALL)) ** (1 / np.array(ORDERS))
    total *= _brevity(np.array(float(tested.sum())), np.array(float(wanted.sum())))
    counts: dict[str, int | list[int]] = {
        "testlen": int(tested.sum()),
        "reflen": int(wanted.sum()),
        "guess": guessed.tolist(),
        "correct": matched.tolist(),
    }
    return total.tolist(), {f"Bleu_{n}": scores[:, n - 1] for n in ORDERS}, counts


def _brevity(tested: Floats, wanted: Floats) -> Floats:
    ratio = (tested + _TINY) / (wanted + _SMALL)
    penalty: Floats = np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0)
    return penalty


def _clipped_matches(corpus: _Corpus, grams: _Grams) -> Ints:
    """For each image, the n-grams of the hypothesis that a reference has, with clipped counts."""
    key = corpus.image[grams.sentence] * max(grams.kinds, 1) + grams.gram
    hypothesis = grams.sentence < corpus.images
    distinct, place = np.unique(key[~hypothesis], return_inverse=True)
    most = np.zeros(len(distinct), dtype=np.int64)
    np.maximum.at(most, place, grams.count[~hypothesis])
    found = _look_up(distinct, key[hypothesis])
    hit = found >= 0
    matches = np.minimum(grams.count[hypothesis][hit], most[found[hit]])
    summed = np.bincount(corpus.image[grams.sentence[hypothesis][hit]], weights=matches, minlength=corpus.images)
    return summed.astype(np.int64)


def _cider(corpus: _Corpus) -> Floats:
    """CIDEr-D of each image; document frequencies are those of the references given."""
    images, sentences = corpus.images, len(corpus.length)
    # The length that the penalty compares is the number of bigrams.
    bigrams = np.maximum(corpus.length - 1, 0).astype(np.float64)
    delta = bigrams[corpus.image[images:]] - bigrams[images:]
    penalty = np.e ** (-(delta**2) / (2 * _SIGMA**2))
    similarity = np.zeros(sentences - images)
    for grams in corpus.grams:
        key = grams.gram * images + corpus.image[grams.sentence]
        hypothesis = grams.sentence < images
        # The rows are sorted, so the references of one image are adjacent.
        theirs_key = key[~hypothesis]
        first = np.diff(theirs_key, prepend=-1) > 0
        frequency = np.bincount(grams.gram[~hypothesis][first], minlength=grams.kinds)
        idf = np.log(float(images)) - np.log(np.maximum(1.0, frequency))
        weight = grams.count * idf[grams.gram]
        norm = np.sqrt(np.bincount(grams.sentence, weights=weight**2, minlength=sentences))
        found = _look_up(key[hypothesis], theirs_key)
        hit = found >= 0
        ours, theirs = weight[hypothesis][found[hit]], weight[~hypothesis][hit]
        reference = grams.sentence[~hypothesis][hit] - images
        value = np.bincount(reference, weights=np.minimum(ours, theirs) * theirs, minlength=sentences - images)
        norms = norm[corpus.image[images:]] * norm[images:]
        similarity += np.divide(value, norms, out=np.zeros(len(norms)), where=norms != 0) * penalty
    summed = np.bincount(corpus.image[images:], weights=similarity / len(ORDERS), minlength=images)
    scores: Floats = summed / corpus.references * 10.0
    return scores


def _look_up(ordered: Ints, wanted: Ints) -> Ints:
    """The index of each wanted key among sorted distinct keys; -1 if it is missing."""
    if not len(ordered):
        return np.full(len(wanted), -1, dtype=np.int64)
    place = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return np.where(ordered[place] == wanted, place, -1)


def _rouge_l(hypothesis: str, references: Sequence[str]) -> float:
    words = hypothesis.split(" ")  # an empty caption is one empty word here, unlike in BLEU and CIDEr
    places: dict[str, int] = {}
    for place, word in enumerate(words):
        places[word] = places.get(word, 0) | 1 << place
    precision = recall = 0.0
    for reference in references:
        others = reference.split(" ")
        common = _common_subsequence(places, len(words), others)
        precision = max(precision, common / len(words))
        recall = max(recall, common / len(others))
    if not precision or not recall:
        return 0.0
    return ((1 + _BETA**2) * precision * recall) / (recall + _BETA**2 * precision)


def _common_subsequence(places: Mapping[str, int], length: int, others: Sequence[str]) -> int:
    """Length of the longest common subsequence, bit-parallel (Hyyrö 2004).

    Args:
        places: Positions of each word in the first sentence, as bits.
        length: Number of words in the first sentence.
        others: The words of the second.
    """
    row = full = (1 << length) - 1
    for word in others:
        matches = row & places.get(word, 0)
        if matches:
            row = (row + matches | row - matches) & full
    return length - row.bit_count()
