"""Let permissions bind in tests that run as root, which may otherwise read and write every file."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_VERSION = 0x20080522  # of the structures of capset(2)
_OVERRIDES = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH


@contextmanager
def permissions_bind() -> Iterator[None]:
    """In the block, this thread and those that it starts may open only files whose permissions allow it."""
    if os.geteuid() != 0:
        yield
        return
    held = _exchange(0)
    try:
        _exchange(_OVERRIDES)
        yield
    finally:
        _set(held)


def _exchange(without: int) -> ctypes.Array[ctypes.c_uint32]:
    """Drop some effective capabilities; returns all those before."""
    header, held = (ctypes.c_uint32 * 2)(_VERSION, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capget(header, held):
        raise OSError(ctypes.get_errno(), "capget")
    kept = (ctypes.c_uint32 * 6)(*held)
    kept[0] &= ~without
    _set(kept)
    return held


def _set(capabilities: ctypes.Array[ctypes.c_uint32]) -> None:
    if ctypes.CDLL(None, use_errno=True).capset((ctypes.c_uint32 * 2)(_VERSION, 0), capabilities):
        raise OSError(ctypes.get_errno(), "capset")
