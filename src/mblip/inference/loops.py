"""Decoding that does not run in circles: ``ubao mtelezo, ubao mtelezo, ...`` until the length is reached."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessor

_LONGEST = 24  # tokens of a phrase that is looked for
_KEPT = 4  # tokens of a longer phrase that may stand again right behind it; a shorter one may stand twice


class NoLoops(LogitsProcessor):  # type: ignore[misc]
    """Forbids the token with which a phrase would go on repeating itself.

    Only what follows itself without a gap counts, so that words may come again, names in bytes too. A phrase of up to
    four tokens may stand twice in a row (``fox, fox,``), one token three times; of a longer one the first four tokens.
    transformers' ``no_repeat_ngram_size`` forbids every n-gram that was there before, wherever: letters that a tokeniser
    spells in bytes could then not come again in a caption.
    """

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [sequences, vocabulary] for the token after ``input_ids`` [sequences, tokens]."""
        length = input_ids.shape[1]
        for period in range(1, _LONGEST + 1):
            again = max(2, min(period, _KEPT))  # tokens that equal those a period before
            if length < period + again:
                break
            circling = (input_ids[:, -again:] == input_ids[:, -again - period : length - period]).all(dim=1)
            if circling.any():
                rows = circling.nonzero().squeeze(1)
                scores = scores.clone()
                scores[rows, input_ids[rows, -period]] = -torch.inf
        return scores
