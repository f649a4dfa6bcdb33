"""Choose the device on which torch computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mblip.errors import InputError, ResourceError


def choose_device(wanted: str) -> str:
    """A device by name; ``auto`` is CUDA if available, else the CPU.

    Raises:
        ResourceError: CUDA is requested, but torch sees no such device.
    """
    import torch

    found = torch.cuda.is_available()
    if wanted.startswith("cuda") and not found:
        raise ResourceError(
            f"there is no CUDA device for device={wanted}: set device=cpu, or run on a machine with one"
        )
    return wanted if wanted != "auto" else "cuda" if found else "cpu"


def check_placement(device_map: Any) -> None:
    """Check the devices of a ``device_map`` before gigabytes are read.

    Args:
        device_map: A device, ``auto``, a map from modules to devices (or ``disk``), or None.

    Raises:
        InputError: One of them is no device of this machine.
    """
    import torch

    for device in device_map.values() if isinstance(device_map, Mapping) else [device_map]:
        if device in (None, "auto", "disk"):
            continue
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, TypeError, ValueError) as error:
            known = "cpu" + "".join(f", cuda:{number}" for number in range(torch.cuda.device_count()))
            raise InputError(
                f"device_map: torch finds no device {device!r:.100} on this machine; there are {known}, and auto"
            ) from error
