"""Cross-entropy over a large vocabulary without all logits in memory.

The vocabularies here have 250,000 entries: the logits of 8 x 128 answer tokens take a gibibyte in fp32, and their
gradient another one. Only supervised tokens are projected, a chunk at a time, and a chunk's gradients replace its
logits, so nothing is computed or stored twice. torch's own ``linear_cross_entropy`` returns the sum in the head's type,
which in bf16 has three digits.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# Elements of one chunk of logits: 128 MiB in fp32. With fewer tokens at once, products with the head's tall matrix are
# slow.
CHUNK_ELEMENTS = 1 << 25
# Rows of a large head in one product on a CPU: its part of the logits stays in the caches, and all threads share it.
_BLOCK_ROWS = 1 << 10
_LARGE_HEAD = 1 << 16  # rows


def loss_sum(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, softcap: float | None) -> Tensor:
    """Summed negative log-likelihood of the targets, in fp32, with gradients.

    Args:
        hidden: [tokens, width], the input of the output head.
        weight: [vocabulary, width].
        bias: [vocabulary], if the head has one.
        targets: [tokens], none of them ignored.
        softcap: If given, logits are bounded as softcap * tanh(logits / softcap).
    """
    hidden = hidden.to(weight.dtype)
    total: Tensor = _ChunkedSum.apply(hidden, weight, bias, targets, softcap)  # type: ignore[no-untyped-call]
    return total


@torch.no_grad()
def token_losses(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, softcap: float | None) -> Tensor:
    """Negative log-likelihood of each target [tokens], in fp32, without gradients; arguments as :func:`loss_sum`."""
    hidden = hidden.to(weight.dtype)
    chunk = chunk_rows(weight, len(targets))
    pieces = zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True)
    losses = [_losses(states, weight, bias, wanted, softcap) for states, wanted in pieces]
    return torch.cat(losses)


def chunk_rows(weight: Tensor, tokens: int) -> int:
    """Tokens per chunk for a head [vocabulary, width], so that chunks are equal and none is small."""
    chunks = max(1, round(tokens * weight.shape[0] / CHUNK_ELEMENTS))
    return max(1, math.ceil(tokens / chunks))


def _wide(weight: Tensor) -> torch.dtype:
    """The type of logits and sums: fp32, or fp64 for a model in fp64."""
    return torch.promote_types(weight.dtype, torch.float32)


def squashed_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, softcap: float | None) -> Tensor:
    """Logits [tokens, vocabulary] in fp32; arguments as :func:`loss_sum`."""
    return _squash(F.linear(hidden, weight, bias).to(_wide(weight)), softcap)


def _squash(logits: Tensor, softcap: float | None) -> Tensor:
    return softcap * torch.tanh(logits / softcap) if softcap else logits


def _chunk_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, softcap: float | None) -> Tensor:
    """As :func:`squashed_logits` without gradients, but a large head on a CPU is multiplied block by block."""
    if hidden.device.type != "cpu" or len(weight) < _LARGE_HEAD:
        return squashed_logits(hidden, weight, bias, softcap)
    logits = hidden.new_empty((len(hidden), len(weight)), dtype=_wide(weight))
    for start in range(0, len(weight), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        logits[:, block] = F.linear(hidden, weight[block], None if bias is None else bias[block])
    return _squash(logits, softcap)


def _losses(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, softcap: float | None) -> Tensor:
    return F.cross_entropy(_chunk_logits(hidden, weight, bias, softcap), targets, reduction="none")


class _ChunkedSum(torch.autograd.Function):
    """The sum over chunks; gradients are computed in the forward pass and scaled in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        softcap: float | None,
    ) -> Tensor:
        """See :func:`loss_sum`."""
        wanted = ctx.needs_input_grad[:3]
        sources = (hidden, weight, bias)
        # Sums over chunks are fp32, whatever the model's type.
        grads = [
            torch.zeros_like(source, dtype=_wide(weight)) if needed and source is not None else None
            for needed, source in zip(wanted, sources, strict=True)
        ]
        total = hidden.new_zeros((), dtype=_wide(weight))
        chunk = chunk_rows(weight, len(targets))
        for start in range(0, len(targets), chunk):
            states, labels = hidden[start : start + chunk], targets[start : start + chunk, None]
            logits = _chunk_logits(states, weight, bias, softcap)
            slope = 1 - (logits / softcap).square_() if softcap and any(wanted) else None
            logits -= logits.amax(1, keepdim=True)
            right = logits.gather(1, labels)
            error = logits.exp_()  # in place, so that there is no second tensor of this size
            sums = error.sum(1, keepdim=True)
            total += (sums.log() - right).sum()
            if not any(wanted):
                continue
            error /= sums  # softmax
            error.scatter_add_(1, labels, error.new_full((1, 1), -1.0).expand(labels.shape))
            if slope is not None:
                error *= slope
            if grads[2] is not None:
                grads[2] += error.sum(0)
            error = error.to(weight.dtype)
            if grads[0] is not None:
                grads[0][start : start + chunk] = error @ weight
            if grads[1] is not None:
                grads[1] += error.T @ states
        ctx.save_for_backward(*grads)
        ctx.dtypes = [None if source is None else source.dtype for source in sources]
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients that the forward pass has computed."""
        grads = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        scaled = [None if grad is None else (grad * outputs[0]).to(dtype) for grad, dtype in grads]
        return (*scaled, None, None)
