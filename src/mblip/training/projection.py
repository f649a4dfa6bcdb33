"""Initialise the projection by regression onto the embeddings of words that describe the picture.

From random weights, the projection learns through a frozen language model which direction of the embedding space means
what, and this takes much of an alignment's time. If a text names what each query sees, the target embeddings of the
queries are known, and the linear map is the solution of a regression. This is not in the paper, whose warm-up stage
trains the projection by gradient steps.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from mblip.errors import InputError
from mblip.models.language_model import eval_mode
from mblip.models.vision_llm import VisionLLM
from mblip.processing.text import IGNORED
from mblip.training.loop import Batch

RIDGE = 1e-3  # relative to the mean variance of a query's states


def fit_projection(vlm: VisionLLM, batches: Iterable[Batch]) -> float:
    """Set the projection by ridge regression on texts about one image each.

    Args:
        vlm: The model. Its Q-Former's states are mapped to its input embeddings; ``language_projection`` is replaced in
            place.
        batches: As for :meth:`VisionLLM.forward`; the first token of an answer names what the first query sees, and so
            on.

    Returns:
        The share of the embeddings' variance that the fit explains, 0..1.

    Raises:
        InputError: An answer has more tokens than there are queries, or there are no answers.
    """
    projection, table = vlm.container.projection, vlm.llm.embeddings.weight
    ones = projection.in_features  # index of the constant that is appended to a state
    size = projection.in_features + 1 + projection.out_features
    moments = torch.zeros(size, size, dtype=torch.float64)
    with torch.no_grad(), eval_mode(vlm):
        for batch in batches:
            labels = batch["labels"].to(vlm.device)
            told = (labels != IGNORED) & (labels != vlm.layout.end_token_id)
            if int(told.sum(1).max()) > vlm.container.tokens_per_image:
                raise InputError(
                    f"model.fit_words: an answer has {int(told.sum(1).max())} tokens, but there are "
                    f"{vlm.container.tokens_per_image} queries; name tasks whose answers have at most one token per "
                    "query"
                )
            states = vlm.container.bridge_states(batch["pixel_values"].to(vlm.device))[batch["image_index"][:, 0]]
            seen = states[torch.arange(len(told))[:, None], (told.cumsum(1) - 1).clamp(0)][told].double()
            joined = torch.cat([seen, torch.ones_like(seen[:, :1]), table[labels[told]].double()], dim=1).cpu()
            moments += joined.T @ joined
        total, sums = moments[ones, ones], moments[ones]
        if not total:
            raise InputError("model.fit_words: the mix has no texts of these tasks")
        # Centred, because the bias takes the means.
        central = moments - torch.outer(sums, sums) / total
        source, target = slice(0, ones), slice(ones + 1, size)
        inner, cross = central[source, source], central[source, target]
        ridge = RIDGE * inner.diagonal().mean() * torch.eye(len(inner), dtype=torch.float64)
        weight = torch.linalg.solve(inner + ridge, cross)
        projection.weight.copy_(weight.T)
        projection.bias.copy_((sums[target] - sums[source] @ weight) / total)
        left = central[target, target] - weight.T @ cross - cross.T @ weight + weight.T @ inner @ weight
    return float(1 - left.diagonal().sum() / central[target, target].diagonal().sum())
