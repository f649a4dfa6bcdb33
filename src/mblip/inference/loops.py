"""Prevent loops in decoding, such as ``ubao mtelezo, ubao mtelezo, ...`` up to the maximum length."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessor

_LONGEST = 24  # longest repeated phrase, in tokens
_KEPT = 4  # tokens of a phrase that may be repeated directly after it


class NoLoops(LogitsProcessor):  # type: ignore[misc]
    """Forbids the token that would continue an immediate repetition of a phrase.

    Only repetitions without a gap count, so words may come again later, also names spelled in bytes. A phrase of up to
    four tokens may occur twice in a row (``fox, fox,``), a single token three times; of a longer phrase, the first four
    tokens may be repeated. Transformers' ``no_repeat_ngram_size`` forbids every earlier n-gram anywhere: letters that a
    tokeniser spells in bytes could then not occur twice in a caption.
    """

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [sequences, vocabulary] for the token after ``input_ids`` [sequences, tokens]."""
        length = input_ids.shape[1]
        for period in range(1, _LONGEST + 1):
            again = max(2, min(period, _KEPT))  # tokens that equal those one period earlier
            if length < period + again:
                break
            circling = (input_ids[:, -again:] == input_ids[:, -again - period : length - period]).all(dim=1)
            if circling.any():
                rows = circling.nonzero().squeeze(1)
                scores = scores.clone()
                scores[rows, input_ids[rows, -period]] = -torch.inf
        return scores
