"""int8 for inference on a CPU: faster than fp32, and no text depends on the others of its batch.

bitsandbytes' LLM.int8 is slower than fp32 on every CPU shape that was measured (docs/log.md). Here weights have 8 bits
with a scale for each output. Each row of activations has 16 bits with a scale of its own, as a coarse and a fine row of
8 bits that one product takes together. Rows with outliers, which are common in T5, lose nothing. The sums are integers, so
a row gives the same bits whatever else is in the batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mblip.models.quantize import linear_layers

# In narrower layers, splitting the rows costs more than the faster product saves.
MIN_WIDTH = 512
_STEPS, _ZERO = 127, 128


class Int8Linear(nn.Module):
    """A frozen linear layer in int8.

    Args:
        layer: The linear layer that it replaces.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.weight.detach().float()
        self.scales = weight.abs().amax(1).clamp_(min=torch.finfo(torch.float32).tiny) / _STEPS
        self.zeros = torch.zeros(self.out_features, dtype=torch.int32)
        self.bias = None if layer.bias is None else layer.bias.detach().float()
        # T5 looks up the type of `weight`. It is no parameter: it is packed for this machine and must not be saved.
        self.weight = torch.ops.onednn.qlinear_prepack((weight / self.scales[:, None]).round_().to(torch.int8), None)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., in] -> [..., out], in the type of the input."""
        rows = hidden.reshape(-1, self.in_features).float()
        unit = rows.abs().amax(1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny) / _STEPS
        shares = rows / unit
        coarse = shares.round()
        both = torch.empty(2 * len(rows), self.in_features, dtype=torch.uint8)
        both[: len(rows)] = coarse + _ZERO
        both[len(rows) :] = shares.sub_(coarse).mul_(_STEPS).round_().add_(_ZERO)
        made = torch.ops.onednn.qlinear_pointwise(
            both, 1.0, _ZERO, self.weight, self.scales, self.zeros, None, 1.0, 0, torch.float32, "none", [], "none"
        )
        found = torch.add(made[: len(rows)], made[len(rows) :], alpha=1 / _STEPS).mul_(unit)
        if self.bias is not None:
            found += self.bias
        return found.to(hidden.dtype).view(*hidden.shape[:-1], self.out_features)


def is_faster() -> bool:
    """Whether this CPU multiplies bytes exactly and faster than floating-point numbers (x86 with VNNI)."""
    return bool(torch.cpu._is_vnni_supported())


def to_int8(language_model: Any) -> int:
    """Replace the wide linear layers, except the output head, by int8 layers; returns their number."""
    changed = 0
    for name in linear_layers(language_model):
        old = language_model.get_submodule(name)
        if min(old.in_features, old.out_features) < MIN_WIDTH:
            continue
        parent, _, child = name.rpartition(".")
        setattr(language_model.get_submodule(parent), child, Int8Linear(old))
        changed += 1
    return changed
