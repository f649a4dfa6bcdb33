"""Choose the device on which torch computes."""

from __future__ import annotations

from mblip.errors import ResourceError


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
