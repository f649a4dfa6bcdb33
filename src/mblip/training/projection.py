"""Initialise the projection by regression onto the embeddings of words that describe the picture.

From random weights the projection finds out through a frozen language model, picture by picture, which direction of its
embedding space means what; much of an alignment's time goes there. But where a text tells what each query sees, the
embeddings that the queries should be projected to are known, and a linear map is found by solving for it. Not in the paper,
whose warm-up stage trains the projection by steps.

The text is a list: its words and the commas between them tell in turn what the first query sees, the second, and so on. A
word of several tokens stands for the mean of their embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

import torch
from torch import Tensor

from mblip.errors import InputError
from mblip.models.language_model import eval_mode
from mblip.models.vision_llm import VisionLLM
from mblip.processing.text import IGNORED
from mblip.training.loop import Batch

RIDGE = 1e-3  # relative to the mean variance of a query's states


def fit_projection(vlm: VisionLLM, batches: Iterable[Batch]) -> float:
    """Set the projection by ridge regression on texts about one image each.

    Args:
        vlm: The model; the projection is fitted from Q-Former states to input embeddings and replaced in place.
        batches: As for :meth:`VisionLLM.forward`; the first word of an answer tells what the first query sees, the comma
            behind it what the second sees, and so on.

    Returns:
        The share of the embeddings' variance that the fit explains, 0..1.

    Raises:
        InputError: An answer has more words and commas than there are queries, or there are no answers.
    """
    projection = vlm.container.projection
    ones = projection.in_features  # index of the constant that is appended to a state
    size = projection.in_features + 1 + projection.out_features
    moments = torch.zeros(size, size, dtype=torch.float64)
    queries = vlm.container.tokens_per_image

    @cache
    def read(token: int) -> str:
        return str(vlm.tokenizer.decode([token]))

    with torch.no_grad(), eval_mode(vlm):
        for batch in batches:
            labels = batch["labels"].to(vlm.device)
            taught = (labels != IGNORED) & (labels != vlm.layout.end_token_id)
            places = list_places(labels, taught, read)
            if int(places[taught].max()) >= queries:
                raise InputError(
                    f"model.fit_words: an answer has {int(places[taught].max()) + 1} words and commas, but there are "
                    f"{queries} queries; name tasks whose answers have a query for each"
                )
            # The sum of the embeddings at each place, and its number of tokens.
            embedded = vlm.llm.embeddings(labels.clamp(min=0)).double() * taught[..., None]
            sums = embedded.new_zeros(len(labels), queries, embedded.shape[-1])
            sums.scatter_add_(1, places[..., None].expand_as(embedded), embedded)
            counts = sums.new_zeros(sums.shape[:2]).scatter_add_(1, places, taught.double())
            known = counts > 0
            vision_states = vlm.container.vision_states(batch["pixel_values"].to(vlm.device))
            states = vlm.container.bridge_states(vision_states)[batch["image_index"][:, 0]]
            seen = states[known].double()
            means = (sums / counts.clamp(min=1)[..., None])[known]
            joined = torch.cat([seen, torch.ones_like(seen[:, :1]), means], dim=1).cpu()
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


def list_places(labels: Tensor, taught: Tensor, read: Callable[[int], str]) -> Tensor:
    """The place in its list that each token of an answer belongs to [texts, tokens]; words and commas take turns.

    A token that ends in a comma, such as ``-,``, is of the word before it, and the comma's place stays empty.

    Args:
        labels: Token ids [texts, tokens].
        taught: Which of them are of the answer [texts, tokens]; the place of the others is 0.
        read: The text of a token.
    """
    places = torch.zeros_like(labels)
    for row, (ids, mask) in enumerate(zip(labels.tolist(), taught.tolist(), strict=True)):
        place = 0
        for column, (token, counts) in enumerate(zip(ids, mask, strict=True)):
            if not counts:
                continue
            text = read(token).strip()
            place += text == ","
            places[row, column] = place
            place += 1 if text == "," else 2 * text.endswith(",")
    return places
