"""Several processes: which device, copies of the model (DDP) or shards of it (FSDP), and whole tensors out of shards.

The same command runs alone, under ``torchrun`` and under ``accelerate launch``. Sharding is torch's own
``fully_shard``, not Accelerate's plug-in, which silently does nothing on a CPU: so it can be tried anywhere.
"""

from __future__ import annotations

import contextlib
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
    """This process, alone or among those that a launcher started, with its device."""
    # The loop casts by itself: Accelerate's mixed precision is one for the whole life of a Python process.
    return Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision="no",
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


def distribute(model: nn.Module, accelerator: Accelerator, sharding: str) -> nn.Module:
    """The module to call in training: ``model`` on its device, and with several processes copied or sharded.

    Args:
        model: Keeps its structure; with ``full`` its parameters are replaced by shards, in place.
        accelerator: See :func:`start`.
        sharding: ``full`` spreads parameters, gradients and optimiser state over the processes.
    """
    if sharding == "none" or accelerator.num_processes == 1:
        with warnings.catch_warnings():  # of an argument that Accelerate passes on by its old name
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            prepared: nn.Module = accelerator.prepare_model(model)
        return prepared
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for block in _blocks(model):  # each goes to the device, is split and makes room for the next
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of every stack: the outermost module lists' items."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _blocks(child)


@contextlib.contextmanager
def sync_gradients(accelerator: Accelerator, model: nn.Module, last: bool) -> Iterator[None]:
    """Processes exchange gradients once a step, with the last micro-batch."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
        yield
    else:
        with contextlib.nullcontext() if last else accelerator.no_sync(model):
            yield


def gather_full(value: Any) -> Any:
    """A value with every sharded tensor in it gathered; all processes must call it."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, dict):
        return {key: gather_full(item) for key, item in value.items()}
    return [gather_full(item) for item in value] if isinstance(value, list) else value


def copy_into(parameter: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into a parameter, or this process's part of it into a shard."""
    with torch.no_grad():
        parameter.copy_(_like(parameter, value))


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Give an optimiser, of whole or of sharded parameters, a state that :func:`gather_full` has gathered."""
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
    """Replace shards by whole parameters, in place, so that the model can be saved; all processes must call it."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if isinstance(parameter, DTensor):
                value = nn.Parameter(parameter.full_tensor().detach().cpu(), parameter.requires_grad)
                setattr(module, name, value)


def clip_gradients(parameters: list[nn.Parameter], limit: float) -> float:
    """Scale the gradients of all together to a norm of at most ``limit``; the norm before."""
    return float(gather_full(torch.nn.utils.clip_grad_norm_(parameters, limit)))
