"""Where the projection starts: at the words that the language model would be told in place of the picture.

From random weights the projection finds out through a frozen language model, picture by picture, which direction of its
embedding space means what; much of an alignment's time goes there. But the embeddings of the words that tell of a picture
are known, and a linear map is found by solving for it: summed over the queries, what a picture is projected to should be
the sum of the embeddings of its caption's tokens. Not in the paper, whose warm-up stage trains the projection by steps.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from mblip.models.generation import evaluating
from mblip.models.mblip import VisionLLM
from mblip.processing.text import IGNORED
from mblip.training.loop import Batch

RIDGE = 1e-3  # of the mean variance of a query's states


def fit_projection(vlm: VisionLLM, batches: Iterable[Batch]) -> float:
    """Set the projection by ridge regression on texts about one image each.

    Args:
        vlm: Whose Q-Former sees and whose input embeddings are aimed at; ``language_projection`` is replaced in place.
        batches: As for :meth:`VisionLLM.forward`; the answers should tell what is in the picture.

    Returns:
        The share of the embeddings' variance that the fit explains, 0..1.
    """
    projection, table = vlm.model.language_projection, vlm.model.get_input_embeddings().weight
    size = projection.in_features + 1 + projection.out_features
    moments = torch.zeros(size, size, dtype=torch.float64)
    with torch.no_grad(), evaluating(vlm):
        for batch in batches:
            seen = vlm.query_states(batch["pixel_values"].to(vlm.device)).mean(1)[batch["image_index"][:, 0]]
            words = _summed_words(table, batch["labels"].to(vlm.device), vlm) / vlm.num_query_tokens
            joined = torch.cat([seen.double(), seen.new_ones(len(seen), 1).double(), words.double()], dim=1).cpu()
            moments += joined.T @ joined
        # Without the means, which the bias takes.
        total, sums = moments[projection.in_features, projection.in_features], moments[projection.in_features]
        central = moments - torch.outer(sums, sums) / total
        source, target = slice(0, projection.in_features), slice(projection.in_features + 1, size)
        inner, cross = central[source, source], central[source, target]
        inner = inner + RIDGE * inner.diagonal().mean() * torch.eye(len(inner), dtype=torch.float64)
        weight = torch.linalg.solve(inner, cross)
        bias = (sums[target] - sums[source] @ weight) / total
        projection.weight.copy_(weight.T)
        projection.bias.copy_(bias)
        left = (
            central[target, target] - weight.T @ cross - cross.T @ weight + weight.T @ central[source, source] @ weight
        )
    return float(1 - left.diagonal().sum() / central[target, target].diagonal().sum())


def _summed_words(table: Tensor, labels: Tensor, vlm: VisionLLM) -> Tensor:
    """The embeddings of each answer's tokens, added up without the end token: [texts, width]."""
    told = (labels != IGNORED) & (labels != vlm.tokenizer.eos_token_id)
    summed: Tensor = (table[labels.masked_fill(~told, 0)] * told[..., None]).sum(1)
    return summed
