"""The chunked cross-entropy: exact in fp32 and sums in fp32 whatever the head is kept in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from mblip.models import loss as losses
from mblip.models.loss import chunk_rows, loss_sum, token_losses

VOCABULARY, WIDTH, TOKENS = 4000, 32, 50


@pytest.fixture(autouse=True, params=[VOCABULARY + 1, 1000], ids=["one product", "blocks"])
def several_chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "CHUNK_ELEMENTS", 16 * VOCABULARY)
    monkeypatch.setattr(losses, "_LARGE_HEAD", request.param)


@pytest.mark.parametrize(("dtype", "of_loss", "of_gradient"), [("float32", 1e-6, 1e-6), ("bfloat16", 2e-5, 1e-2)])
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_against_all_logits_in_fp64(dtype: str, of_loss: float, of_gradient: float, softcap: float | None) -> None:
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    weight, bias = torch.randn(VOCABULARY, WIDTH).to(kind), torch.randn(VOCABULARY).to(kind)
    states, targets = torch.randn(TOKENS, WIDTH).to(kind), torch.randint(0, VOCABULARY, (TOKENS,))
    ours: Any = [t.clone().requires_grad_() for t in (states, weight, bias)]
    exact = [t.double().requires_grad_() for t in (states, weight, bias)]
    total = loss_sum(ours[0], ours[1], ours[2], targets, softcap)
    (3 * total).backward()  # type: ignore[no-untyped-call]
    # What is compared is the sum of rounded logits: those of a head in bf16 are products rounded to bf16.
    logits = F.linear(ours[0], ours[1], ours[2]).double() if dtype == "bfloat16" else F.linear(*exact)
    logits = softcap * torch.tanh(logits / softcap) if softcap else logits
    wanted = F.cross_entropy(logits, targets, reduction="sum")
    assert total.dtype == torch.float32
    assert float(total.detach()) == pytest.approx(float(wanted.detach()), rel=of_loss)
    assert float(token_losses(ours[0], ours[1], ours[2], targets, softcap).sum()) == pytest.approx(
        float(wanted.detach()), rel=of_loss
    )
    whole = F.linear(*exact)
    whole = softcap * torch.tanh(whole / softcap) if softcap else whole
    (3 * F.cross_entropy(whole, targets, reduction="sum")).backward()  # type: ignore[no-untyped-call]
    for found, reference in zip(ours, exact, strict=True):
        assert found.grad is not None and reference.grad is not None
        assert float((found.grad.double() - reference.grad).norm() / reference.grad.norm()) < of_gradient


def test_chunks_are_even_and_at_most_half_again_too_large() -> None:
    weight = torch.empty(VOCABULARY, 1)
    for tokens in range(1, 200):
        rows = chunk_rows(weight, tokens)
        sizes = [len(part) for part in torch.split(torch.empty(tokens), rows)]
        assert max(sizes) <= 24 and (len(sizes) == 1 or min(sizes) > 1)


def test_no_supervised_token_teaches_nothing() -> None:
    states = torch.empty(0, WIDTH, requires_grad=True)
    total = loss_sum(states, torch.randn(VOCABULARY, WIDTH), None, torch.empty(0, dtype=torch.long), None)
    total.backward()  # type: ignore[no-untyped-call]
    assert float(total.detach()) == 0.0 and states.grad is not None
