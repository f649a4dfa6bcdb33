"""An output head that makes its input contiguous first.

Stock generation gives the head the last state of each prompt, a slice that is not contiguous. For such rows, and a
weight that needs no gradient, torch repeats the weight for every row of the batch: with 64 prompts and a vocabulary of
262,144 that takes 20 GiB and most of the time. Copying the rows, a few hundred kilobytes, avoids it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class OutputHead(nn.Linear):
    """A linear layer that makes its input contiguous first; parameters, their names and results stay the same."""

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., width] -> [..., vocabulary]."""
        return super().forward(hidden.contiguous())


def place_output_head(language_model: Any) -> None:
    """Replace a plain linear output head by an :class:`OutputHead` with the same parameters.

    A head of another kind stays as it is.
    """
    old = language_model.get_output_embeddings()
    if type(old) is not nn.Linear:
        return
    # Made without values, because it takes the parameters of the old head: a tie to the embeddings is a shared
    # parameter.
    with torch.device("meta"):
        new = OutputHead(old.in_features, old.out_features, old.bias is not None)
    new.weight, new.bias = old.weight, old.bias
    new.train(old.training)
    for name, module in list(language_model.named_modules()):
        for child, value in module.named_children():
            if value is old:
                setattr(language_model.get_submodule(name), child, new)
