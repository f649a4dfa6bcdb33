"""Tensors without values: a step takes the bytes that PyTorch's FakeTensorMode finds."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import checkpoints
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mblip.config import TrainRecipe, load_recipe, shipped_recipes
from mblip.models import VisionLLM
from mblip.models.auto_settings import resolve_auto
from mblip.models.hollow import Hollow, Meter, hollow_out
from mblip.models.planning import batch_shape, synthetic_states
from mblip.models.prepare import prepare_shape


class Reference(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the live fake tensors that operations make."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self.now = 0
        self.alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in self.alive | given:
                storage = leaf.untyped_storage()
                self.alive.add(storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.drop, storage._cdata, storage.nbytes())
        return made

    def drop(self, address: int, size: int) -> None:
        self.alive.discard(address)
        self.now -= size


def fake(model: nn.Module) -> None:
    """Fake parameters and buffers in the mode around the call, with gradients where they learn."""
    made: dict[int, Any] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, old in tensors.items():
                if old is not None and id(old) not in made:
                    new = torch.empty(old.shape, dtype=old.dtype)
                    made[id(old)] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
                if old is not None:
                    tensors[name] = made[id(old)]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None


def step(vlm: VisionLLM, recipe: TrainRecipe) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
        synthetic_states(vlm, batch_shape(vlm, recipe), "cpu").sum().backward()  # type: ignore[no-untyped-call]


def peaks(recipe: TrainRecipe) -> tuple[int, int]:
    """Of the meter, and of the reference."""
    recipe = resolve_auto(recipe, on_gpu=True)
    with torch.device("meta"):
        vlm = prepare_shape(recipe)
    hollow_out(vlm)
    with Meter() as meter:
        step(vlm, recipe)
    with torch.device("meta"):
        vlm = prepare_shape(recipe)
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake(vlm)
        with Reference() as reference:
            step(vlm, recipe)
    return meter.peak, reference.peak


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("mt5", {"checkpointing": ["llm"]}),
        ("mt5", {"precision": "fp32", "parts": {"vision": "full", "llm": "full"}}),
        ("bloom", {"checkpointing": ["llm"]}),
        ("gemma3", {"speedups": []}),  # sliding windows in some layers
        ("qwen3", {"lora": {"dropout": 0.0}}),
    ],
)
def test_a_step_takes_what_fake_tensors_take(tmp_path: Path, family: str, changes: dict[str, Any]) -> None:
    eyes, llm = checkpoints.blip2(tmp_path / "eyes", "t5"), checkpoints.llm(tmp_path / "llm", family)
    fields: dict[str, Any] = {
        "title": "small", "stage": "align", "model": {"vision": str(eyes), "llm": str(llm)},
        "optim": {"lr": 1e-3, "steps": 10, "micro_batch": 2}, "data": {"max_prompt_tokens": 6, "max_answer_tokens": 5},
        **changes,
    }  # fmt: skip
    found, wanted = peaks(TrainRecipe.model_validate(fields))
    assert found == wanted > 0


@pytest.mark.slow  # 20 s each: every layer of every base, with fake tensors
@pytest.mark.parametrize("name", sorted(name for name in shipped_recipes() if name.startswith("train/")))
def test_every_recipe_takes_what_fake_tensors_take(name: str) -> None:
    found, wanted = peaks(load_recipe(TrainRecipe, name))
    assert found == wanted > 0


def test_what_is_counted() -> None:
    with Meter() as meter:
        a = torch.zeros(10, 10)
        assert isinstance(a, Hollow) and a.device.type == "cpu" and meter.peak == 400
        view = a.t()[2:]
        view.add_(1)  # in place, and a view: nothing new
        assert meter.peak == 400 and view.shape == (8, 10)
        b = a + view.sum()  # 400 bytes more, and 4 while the sum lives
        assert meter.peak == 804
        del a, b  # the view still holds the first
        torch.ones(200)
        assert meter.peak == 1200
        assert [(F.relu(x).shape, F.relu(x).dtype) for x in (view, view.double())] == [
            ((8, 10), torch.float32), ((8, 10), torch.float64)
        ]  # fmt: skip
        assert (torch.ones(3, dtype=torch.long) * 2).dtype is torch.long
        assert (torch.ones(3, dtype=torch.long) * 2.0).dtype is torch.float32


def test_a_condition_is_false_and_a_number_stays() -> None:
    with Meter():
        assert not torch.ones(3).bool().all()
        assert torch.tensor([3, 4]).sum().item() == 7
        assert isinstance(torch.tensor([3.0, 4.0]) * torch.ones(2), Hollow)


def test_nothing_computes_without_a_meter() -> None:
    with Meter():
        a = torch.zeros(3)
    with pytest.raises(RuntimeError, match="needs a Meter"):
        a + 1
