"""Training in several processes, with copies of the model (DDP) or shards of it (FSDP).

The same command runs alone, under ``torchrun`` and under ``accelerate launch``. Sharding uses torch's ``fully_shard``
and not Accelerate's plug-in, which silently does nothing on a CPU, so it can be tested anywhere.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def start() -> Accelerator:
    """The accelerator of this process, which runs alone or was started by a launcher."""
    # The loop casts by itself, because Accelerate's mixed precision cannot change within a Python process.
    return Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision="no",
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


def distribute(model: nn.Module, accelerator: Accelerator, sharding: str) -> nn.Module:
    """The module to call in training: ``model`` on its device, and with several processes copied or sharded.

    Args:
        model: The model; with ``full``, its parameters are replaced by shards in place.
        accelerator: See :func:`start`.
        sharding: ``full`` spreads parameters, gradients and optimiser state over the processes.
    """
    if sharding == "none" or accelerator.num_processes == 1:
        with warnings.catch_warnings():  # Accelerate passes an argument under its old name
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            prepared: nn.Module = accelerator.prepare_model(model)
        return prepared
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for block in _blocks(model):  # one at a time, so that the complete model need not fit the device
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of every stack, which are the items of the outermost module lists."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _blocks(child)


@contextlib.contextmanager
def sync_gradients(accelerator: Accelerator, model: nn.Module, last: bool) -> Iterator[None]:
    """Let processes exchange gradients once per step, with the last micro-batch."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
        yield
    else:
        with contextlib.nullcontext() if last else accelerator.no_sync(model):
            yield


def gather_full(value: Any) -> Any:
    """Gather every sharded tensor in a value; all processes must call it."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, dict):
        return {key: gather_full(item) for key, item in value.items()}
    return [gather_full(item) for item in value] if isinstance(value, list) else value


def all_finite(parameter: Tensor) -> bool:
    """Whether every weight of a parameter is a finite number, or of this process's part of it."""
    own = parameter.detach()
    own = own.to_local() if isinstance(own, DTensor) else own
    return own.numel() == 0 or math.isfinite(float(torch.linalg.vector_norm(own, math.inf)))


def copy_into(parameter: Tensor, value: Tensor) -> None:
    """Copy a full tensor into a parameter, or this process's part of it into a shard."""
    with torch.no_grad():
        parameter.copy_(_like(parameter, value))


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state from :func:`gather_full` into an optimiser of full or sharded parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {
        number: {
            name: _like(parameters[number], value) if value.ndim else value
            for name, value in state["state"][number].items()
        }
        for number in state["state"]
    }
    optimizer.load_state_dict({**state, "state": moments})


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    if not isinstance(parameter, DTensor):
        return value
    moved = value.to(parameter.device, parameter.dtype)
    return distribute_tensor(moved, parameter.device_mesh, parameter.placements)


def gather(model: nn.Module) -> None:
    """Replace shards by full parameters in place, so that the model can be saved; all processes must call it."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if isinstance(parameter, DTensor):
                value = nn.Parameter(parameter.full_tensor().detach().cpu(), parameter.requires_grad)
                setattr(module, name, value)


def clip_gradients(parameters: list[nn.Parameter], limit: float) -> float:
    """Clip the joint norm of all gradients to ``limit``; returns the norm before."""
    return float(gather_full(torch.nn.utils.clip_grad_norm_(parameters, limit)))
