"""Freed memory that is kept for the next step of a generation, not handed back to the kernel in between."""

from __future__ import annotations

import ctypes
import os
import sys

# glibc's names and numbers (malloc.h), each with its value in bytes.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_KEPT = ((_M_TRIM_THRESHOLD, 512 << 20), (_M_TOP_PAD, 64 << 20), (_M_MMAP_THRESHOLD, 32 << 20))
# A person who sets one of these has decided.
_OVERRIDES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_freed_memory() -> bool:
    """Let glibc keep up to 512 MiB that were freed, and tell whether it does.

    A step of a beam search makes and frees several tensors of beams times vocabulary. By default their pages go back to
    the kernel each time and are cleared and mapped anew in the next step, which took a third of a batch's time. To be
    called when the model is loaded: what loading freed is then back already. Elsewhere than under glibc, or where a
    person has chosen otherwise by the environment, nothing happens.
    """
    if sys.platform != "linux" or any(os.environ.get(name) for name in _OVERRIDES):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, value) for name, value in _KEPT)
