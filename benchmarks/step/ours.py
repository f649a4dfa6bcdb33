"""mblip's training step, with or without each of its techniques."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from mblip.models import VisionLLM
from mblip.processing.grouping import assign_micro_batches
from mblip.processing.text import IGNORED
from step.batches import Batch
from step.texts import Example


def parts(rows: Sequence[Example], size: int, encoder_decoder: bool, grouped: bool, by_length: bool) -> list[list[int]]:
    """Places of the texts of each micro-batch."""
    pictures = [row.picture if grouped else place for place, row in enumerate(rows)]
    lengths = [(len(row.prompt), len(row.answer)) if by_length else (0,) for row in rows]
    if not encoder_decoder:
        lengths = [(sum(pair),) for pair in lengths]
    [found] = assign_micro_batches(pictures, lengths, size)
    return found


def loss(vlm: VisionLLM, batch: Batch, chunked: bool) -> tuple[Tensor, int]:
    """Summed over the supervised tokens, and how many they are."""
    if chunked:
        values = vlm(batch)
        return values["loss_sum"], int(values["tokens"])
    hidden, labels = vlm.hidden_states_and_labels(batch)
    head = vlm.language_model.get_output_embeddings()
    logits = F.linear(hidden.to(head.weight.dtype), head.weight).float()
    total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total, int((labels != IGNORED).sum())
