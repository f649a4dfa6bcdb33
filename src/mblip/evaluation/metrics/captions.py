"""Caption metrics from raw text: normalise, segment, tokenise, count."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import islice

from mblip.evaluation.metrics.ngrams import METRICS, CaptionScores, score_captions
from mblip.evaluation.metrics.ptb_tokenizer import tokenize_all
from mblip.evaluation.metrics.segmentation import segmenter


def caption_scores(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    language: str = "en",
    segmentation: str = "none",
    nfc: bool = False,
    metrics: Sequence[str] = METRICS,
) -> CaptionScores:
    """BLEU, ROUGE-L and CIDEr as in pycocoevalcap.

    Args:
        hypotheses: One caption per image.
        references: The captions of each image.
        language: mC4 code, for the segmentation ``spacy``.
        segmentation: Word segmentation of hypotheses and references before the PTB tokeniser, see
            :func:`~mblip.evaluation.metrics.segmentation.segmenter`.
        nfc: Normalise to NFC after segmentation, as mBLIP does.
        metrics: Some of :data:`~mblip.evaluation.metrics.ngrams.METRICS`.

    Raises:
        InputError: The segmentation is unknown, or its library is not installed.
    """
    segment = segmenter(segmentation, language)

    def prepare(texts: Sequence[str]) -> list[str]:
        cut = [segment(text) for text in texts]
        return tokenize_all(unicodedata.normalize("NFC", text) for text in cut) if nfc else tokenize_all(cut)

    flat = iter(prepare([text for texts in references for text in texts]))
    grouped = [list(islice(flat, len(texts))) for texts in references]
    return score_captions(prepare(hypotheses), grouped, metrics)
