"""Tensors with a shape, a type and a device but no values: a whole training step runs on them and takes no memory.

:class:`Meter` runs operations on the meta device and counts the bytes that their results would take. PyTorch's
``FakeTensorMode`` does the same for compilers. It takes several times the processor time, because it also answers for every
device and for sizes that are not known.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_SCALAR = torch.ops.aten._local_scalar_dense.default
_CPU = torch.device("cpu")
_LAYER_NORM = torch.ops.aten.native_layer_norm.default


class Hollow(Tensor):
    """A tensor that says it is on the CPU, so that autocast and attention choose as they do there; it has no values.

    Attributes:
        shadow: A tensor of the same shape, strides and type on the meta device; the shadows of views share a storage.
        kind: Shape, strides and type.
    """

    shadow: Tensor
    kind: tuple[Any, ...]
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, shadow: Tensor) -> Hollow:
        """Wrap a tensor on the meta device."""
        shape, strides, dtype = shadow.shape, shadow.stride(), shadow.dtype
        made: Hollow = Tensor._make_wrapper_subclass(
            cls, shape, strides, shadow.storage_offset(), dtype=dtype, device=_CPU
        )
        made.shadow, made.kind = shadow, (shape, strides, dtype)
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise RuntimeError(f"{func} needs a Meter around it: a tensor without values cannot compute by itself")


def hollow_out(model: nn.Module) -> None:
    """Replace a model's parameters and buffers by hollow ones; ties are kept, and trainable parameters get gradients."""
    made: dict[int, Any] = {}
    with Meter():
        for module in model.modules():
            for tensors in (module._parameters, module._buffers):
                for name, old in tensors.items():
                    if old is None:
                        continue
                    if id(old) not in made:
                        new: Any = torch.empty(old.shape, dtype=old.dtype)
                        if isinstance(old, nn.Parameter):
                            new = nn.Parameter(new, old.requires_grad)
                            new.grad = torch.empty(old.shape, dtype=old.dtype) if old.requires_grad else None
                        made[id(old)] = new
                    tensors[name] = made[id(old)]


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Computes shapes instead of values inside the block, and counts the bytes of what the operations make.

    New tensors are hollow, whether they are made from hollow ones or from nothing (``torch.zeros``). A condition on the
    values of one is false, as in transformers where it traces a model. What depends on numbers in the code alone
    (``torch.tensor([1, 2])``) keeps its values.

    Attributes:
        peak: The most bytes that were alive at once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._now = 0
        self._alive: dict[int, _Counted] = {}
        # What an operation makes of which kinds of arguments: layers repeat, and many shapes are computed in Python.
        self._known: dict[Any, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not types:  # no argument is hollow
            given = _tensors(args)
            options = kwargs if given or not _traits(func)["device"] else {**kwargs, "device": "meta"}
            return self._wrap(func(*args, **options), given)
        if func is _SCALAR:
            return False
        key = None if _traits(func)["aliases"] else (func, _kind(args), _kind(tuple(kwargs.items())))
        if key in self._known:
            return self._wrap(_again(self._known[key]), ())
        options = {name: _shadow(value) for name, value in kwargs.items()}
        if "device" in options:
            options["device"] = "meta"
        before = len(self._alive)
        results = func(*map(_shadow, args), **options)
        if func is _LAYER_NORM:  # the meta device makes its statistics as CUDA does, in fp32; a CPU in the input's type
            results = [part.to(args[0].dtype) for part in results]
        made = self._wrap(results, _tensors(args))
        if key:
            parts = made if isinstance(made, list) else [made]
            new = [part for part in parts if isinstance(part, Hollow)]
            if len(self._alive) - before == len(new) and all(map(_fills_its_storage, new)):
                kinds = [part.kind if isinstance(part, Hollow) else part for part in parts]
                self._known[key] = kinds if isinstance(made, list) else kinds[0]
        return made

    def _wrap(self, made: Any, given: Sequence[Tensor]) -> Any:
        """The result of an operation, hollow if it is on the meta device; new storages are counted."""
        if isinstance(made, list | tuple):
            return [self._wrap(part, given) for part in made]
        if not isinstance(made, Tensor):
            return made
        storage = made.untyped_storage()
        address = storage._cdata
        if address not in self._alive and all(_address(tensor) != address for tensor in given):
            self._alive[address] = _Counted(storage, self._freed)
            self._now += storage.nbytes()
            self.peak = max(self.peak, self._now)
        if not made.is_meta:
            return made
        for tensor in given:
            if isinstance(tensor, Hollow) and tensor.shadow is made:  # changed in place
                return tensor
        return Hollow(made)

    def _freed(self, storage: _Counted) -> None:
        del self._alive[storage.address]
        self._now -= storage.size


class _Counted(weakref.ref[torch.UntypedStorage]):
    """A reference that says when a storage is freed, and which one it was."""

    address: int
    size: int
    __slots__ = ("address", "size")

    def __new__(cls, storage: torch.UntypedStorage, freed: Any) -> _Counted:
        made = super().__new__(cls, storage, freed)
        made.address, made.size = storage._cdata, storage.nbytes()
        return made


@cache
def _traits(func: Any) -> dict[str, bool]:
    schema = func._schema
    return {
        "device": any(argument.name == "device" for argument in schema.arguments),
        "aliases": func.is_view or schema.is_mutable,
    }


def _shadow(value: Any) -> Any:
    """An argument as the operation on the meta device takes it."""
    if isinstance(value, Hollow):
        return value.shadow
    if isinstance(value, Tensor):
        return value.to("meta")
    if isinstance(value, list | tuple):
        return [_shadow(part) for part in value]
    return value


def _kind(value: Any) -> Any:
    """The part of an argument that decides about the shape of the result, to be a key of a dictionary."""
    if isinstance(value, Hollow):
        return value.kind
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype
    if isinstance(value, list | tuple):
        return tuple([_kind(part) for part in value])
    return type(value), value  # 1, 1.0 and True make different types


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for part in value for tensor in _tensors(part)] if isinstance(value, list | tuple) else []


def _address(tensor: Tensor) -> int:
    return int((tensor.shadow if isinstance(tensor, Hollow) else tensor).untyped_storage()._cdata)


def _again(kinds: Any) -> Any:
    if isinstance(kinds, list):
        return [_again(kind) for kind in kinds]
    return _empty(kinds) if isinstance(kinds, tuple) else kinds


def _empty(kind: tuple[Any, ...]) -> Tensor:
    shape, strides, dtype = kind
    return torch.empty_strided(shape, strides, dtype=dtype, device="meta")


def _fills_its_storage(tensor: Hollow) -> bool:
    """Whether a tensor that is made again from its kind takes as many bytes."""
    shadow = tensor.shadow
    same = _empty(tensor.kind).untyped_storage().nbytes() == shadow.untyped_storage().nbytes()
    return same and shadow.storage_offset() == 0
