"""Where an answer that is too long is cut, and whether it then ends."""

from __future__ import annotations

import pytest
from tests import checkpoints

from mblip.processing.text import IGNORED, TextLayout

END, IMAGE = 1, 3
LONG = "the red house is on the dog and a cat " * 4


def layout(kind: str, *, encoder_decoder: bool) -> TextLayout:
    return TextLayout(checkpoints.tokenizer(kind), IMAGE, END, 2, encoder_decoder)


@pytest.mark.parametrize("limit", [1, 2, 5, 8, 12])
@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_an_answer_that_is_cut_ends_only_where_that_is_asked_for(kind: str, limit: int) -> None:
    """The original: mT0's 128th token is the end token, BLOOM's answer of 128 tokens has it as its 129th."""
    for encoder_decoder in (True, False):
        made = layout(kind, encoder_decoder=encoder_decoder)
        [whole] = made.targets(["a: "], [LONG])
        [short] = made.targets(["a: "], ["dog"], len(whole), True)
        assert whole[-1] == short[-1] == END and len(whole) > 12
        assert made.targets(["a: "], [LONG], limit) == [whole[:limit]]
        kept = limit - 1 if encoder_decoder else limit
        assert made.targets(["a: "], [LONG], limit, True) == [[*whole[:kept], END]]
        assert made.targets(["a: "], [LONG], len(whole), True) == made.targets(["a: "], [LONG], len(whole)) == [whole]
        assert made.targets(["a: "], [LONG], None, True) == [whole]
        labels = made.pairs(["a: "], [LONG], [1], None, limit, True)["labels"][0]
        assert labels[labels != IGNORED].tolist() == [*whole[:kept], END]
