"""What a reader of one file format hands over, and the limit on what a file may unpack to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import ReadError

MAX_DECODED_BYTES = 2 * 1024**3
"""A file may always unpack to this many bytes: 2 GiB."""

MAX_EXPANSION = 100
"""Above `MAX_DECODED_BYTES` a file may unpack to this many times its own size; real images stay far below."""


@dataclass(frozen=True, eq=False)
class Raw:
    """Pixels as the file stores them, with the axes and voxel size that it states.

    Attributes
    ----------
    array : as stored, in the byte order of this machine.
    axes : a letter per axis, or None when the file does not say or says something that is no axis of ours.
    voxel_sizes : µm along the axes (by letter) of which the file states it.
    """

    array: np.ndarray
    axes: str | None = None
    voxel_sizes: dict[str, float] | None = None


def check_decoded_size(path: Path, shape: Sequence[int], itemsize: int, stored: int | None = None) -> None:
    """Refuse an image without pixels, and a small file that would unpack to gigabytes.

    stored: bytes on disk, of what is no single file.

    Raises
    ------
    ReadError
    """
    needed = math.prod(shape) * itemsize
    if needed == 0:
        raise ReadError(f"{path}: found an image of shape {tuple(shape)}; expected at least one pixel")
    stored = path.stat().st_size if stored is None else stored
    if needed > max(MAX_DECODED_BYTES, MAX_EXPANSION * stored):
        raise ReadError(
            f"{path}: found a file that unpacks to {needed / 1e9:.1f} GB; expected at most "
            f"{MAX_DECODED_BYTES / 1e9:.1f} GB or {MAX_EXPANSION} times its size: save it with less "
            f"compression if it is real"
        )
