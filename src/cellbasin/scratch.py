"""Large arrays: in memory, or where that is short in a file that has no name and goes with the array."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Allocate = Callable[[tuple[int, ...]], NDArray[np.float32]]

_GB = 1e9
_SHARE = 0.6  # of the memory that there is, when no limit is given


def in_memory(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Zeros, float32."""
    return np.zeros(shape, np.float32)


def on_disk(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Zeros, float32, in a file in the folder for temporary files (TMPDIR), whose space is taken at once.

    Raises OSError when there is not enough space.

    >>> array = on_disk((2, 3))
    >>> array += 1
    >>> float(array.sum())
    6.0
    """
    size = 4 * int(np.prod(shape))
    if not size:
        return in_memory(shape)
    with tempfile.TemporaryFile(prefix="cellbasin-") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
        return np.frombuffer(mmap.mmap(file.fileno(), size), np.float32).reshape(shape)


def allocator(needed: int, on_disk_then: int, limit: float | None) -> Allocate:
    """Where large arrays go, for work that needs so many bytes.

    limit: GB of memory that may be used; when None, 60 % of what the computer has, or the container or batch job
    around the program. Above it, arrays go to disk, which must have `on_disk_then` bytes free. Raises ValueError when
    it has not.

    >>> allocator(10**6, 10**6, limit=1.0) is in_memory, allocator(10**6, 10**6, limit=0.0001) is on_disk
    (True, True)
    """
    allowed = limit * _GB if limit is not None else _SHARE * memory()
    if needed <= allowed:
        return in_memory
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < on_disk_then:
        raise ValueError(
            f"found {allowed / _GB:.3g} GB of memory to use and {free / _GB:.3g} GB of disk space in {folder}; "
            f"expected {needed / _GB:.3g} GB of memory or {on_disk_then / _GB:.3g} GB of disk space for it: "
            "allow more with the option memory, set TMPDIR to a folder with more space, or cut the volume"
        )
    return on_disk


def memory() -> float:
    """Bytes that the computer has, or the container or batch job around the program; infinite where nobody tells."""
    return min(_physical_memory(), group_memory())


def _physical_memory() -> float:
    """Bytes; infinite where the system does not tell."""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    return float("inf")


def group_memory(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes that Linux allows the container or batch job that the program runs in; infinite where nothing is said.

    groups: the control groups of a process; root: where all are described. Limits of groups hold for those within.
    """
    limits = [float("inf")]
    with contextlib.suppress(OSError):
        for _, kinds, path in (line.split(":", 2) for line in groups.read_text().splitlines()):
            if kinds not in ("", "memory"):
                continue
            top, name = (root / kinds, "memory.limit_in_bytes") if kinds else (root, "memory.max")
            own = top / path.strip("/")
            for group in (own, *own.parents):
                with contextlib.suppress(OSError, ValueError):  # not there, or "max"
                    limits.append(float((group / name).read_text()))
    return min(limits)
