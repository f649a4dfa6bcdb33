"""Keep freed memory for the next step of a generation, instead of returning it to the kernel."""

from __future__ import annotations

import ctypes
import os
import sys

# glibc's parameters (malloc.h), and their values in bytes.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_KEPT = ((_M_TRIM_THRESHOLD, 512 << 20), (_M_TOP_PAD, 64 << 20), (_M_MMAP_THRESHOLD, 32 << 20))
# Variables by which the user has chosen already.
_OVERRIDES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_freed_memory() -> bool:
    """Let glibc keep up to 512 MiB of freed memory; returns whether it does.

    A step of beam search allocates and frees several tensors of beams times vocabulary. By default their pages go back
    to the kernel each time and are cleared and mapped again in the next step, which took a third of a batch's time.
    Call this after the model is loaded, so that memory freed by loading has been returned. Does nothing without glibc,
    or if the user has set one of glibc's variables in the environment.
    """
    if sys.platform != "linux" or any(os.environ.get(name) for name in _OVERRIDES):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, value) for name, value in _KEPT)
