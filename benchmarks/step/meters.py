"""What is measured: seconds, bytes and FLOPs."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode


def now(device: torch.device) -> float:
    """Seconds, the device having done all; of a CPU its own, so that other programs on it do not count."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def reset_peak(device: torch.device) -> int:
    """Start counting the peak anew; the bytes in use now."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak of the resident set
    return _status("VmRSS")


def peak(device: torch.device) -> int:
    """Bytes at the worst moment since."""
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else _status("VmHWM")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product in the type that the model computes in."""
    size = 8192 if device.type == "cuda" else 1024  # on the CPU less than a second for all
    a = torch.randn(size, size, device=device, dtype=dtype)
    rates = []
    for _ in range(8):
        started = now(device)
        _ = a @ a
        rates.append(2 * size**3 / (now(device) - started))
    return max(rates)


def flops(run: Callable[[], object]) -> float:
    """Of all matrix products that ``run`` asks for, without computing them."""
    with _NoProducts(), FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


class _NoProducts(TorchDispatchMode):
    """Matrix products give zeros of the right shape at once: enough to count their FLOPs."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket
        if name in (torch.ops.aten.mm, torch.ops.aten.bmm):
            return args[0].new_zeros(*args[0].shape[:-1], args[1].shape[-1])
        if name is torch.ops.aten.addmm:
            return args[1].new_zeros(args[1].shape[0], args[2].shape[1])
        return function(*args, **(kwargs or {}))
