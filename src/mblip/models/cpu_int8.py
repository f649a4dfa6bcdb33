"""int8 that is faster than fp32 on a CPU: for inference alone, and so that no text depends on its batch.

bitsandbytes' LLM.int8 is slower than fp32 on every CPU shape that was measured (docs/log.md). Here weights have 8 bits with
a scale for each output, and each row of activations has 16 bits with a scale of its own: a coarse and a fine row of 8 bits,
which one product takes together. Rows with outliers, of which T5 has many, lose nothing; and the sums are whole numbers, so
that a row gives the same to the last bit whatever stands beside it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mblip.models.quantize import linear_layers

# In narrower layers, splitting the rows costs more than the product saves.
MIN_WIDTH = 512
_STEPS, _ZERO = 127, 128


class Int8Linear(nn.Module):
    """A frozen linear layer in int8.

    Args:
        layer: The layer that it stands for.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.weight.detach().float()
        self.scales = weight.abs().amax(1).clamp_(min=torch.finfo(torch.float32).tiny) / _STEPS
        self.zeros = torch.zeros(self.out_features, dtype=torch.int32)
        self.bias = None if layer.bias is None else layer.bias.detach().float()
        # Under this name, since T5 looks at its type. No parameter: it is packed for this machine, and not to be saved.
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
    """Whether this CPU multiplies bytes faster than floating-point numbers, and exactly: x86 with VNNI."""
    return bool(torch.cpu._is_vnni_supported())


def to_int8(language_model: Any) -> int:
    """Put int8 layers in place of the wide linear ones, but for the output head; gives how many."""
    changed = 0
    for name in linear_layers(language_model):
        old = language_model.get_submodule(name)
        if min(old.in_features, old.out_features) < MIN_WIDTH:
            continue
        parent, _, child = name.rpartition(".")
        setattr(language_model.get_submodule(parent), child, Int8Linear(old))
        changed += 1
    return changed
