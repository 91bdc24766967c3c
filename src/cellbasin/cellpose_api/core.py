"""`cellpose.core`: which device is used."""

from __future__ import annotations

from typing import Any


def use_gpu(gpu_number: int = 0, use_torch: bool = True) -> bool:
    """Whether a graphics processor that can be used was found."""
    return assign_device(gpu=True)[1]


def assign_device(use_torch: bool = True, gpu: bool = False, device: Any = 0) -> tuple[str, bool]:
    """The device that models run on ("cpu", "cuda", "mps") and whether it is a graphics processor."""
    from cellbasin.engines import find_hardware

    found = find_hardware().gpu
    return (found, True) if found and gpu else ("cpu", False)
