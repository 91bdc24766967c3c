"""Objects found in every plane alone, linked through z.

Objects of neighbouring planes are matched one to one by their IoU: the most matches, and of these the highest sum. What
is found in two planes but not in the one between is matched over it and interpolated there, where it has room. An
object ends where it has no match, so that two that merely lie above each other at a distance stay two.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellbasin.labels import boxes
from cellbasin.metrics import match


def stitch_planes(planes: Sequence[NDArray[np.int32]], threshold: float = 0.25) -> NDArray[np.int32]:
    """Link the objects of planes (Y, X), each numbered for itself, to objects of the volume.

    planes: at least one, integers, all of one shape; not modified. threshold: least IoU (above 0) of objects that are
    the same. Returns int32 (Z, Y, X), 1..N in the order of their first planes. Raises ValueError for no planes, planes
    of different shapes or with negative labels, or a threshold that is not above 0.

    >>> here, there = np.array([[1, 1, 0, 0]]), np.array([[0, 0, 0, 5]])
    >>> stitch_planes([here, np.zeros_like(here), here, there])[:, 0].tolist()
    [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 2]]
    """
    _check(planes, threshold)
    volume = np.zeros((len(planes), *planes[0].shape), np.int32)
    count = 0
    waiting: NDArray[np.int64] = np.zeros(0, np.int64)  # objects of the plane before the last without a match since
    for z, plane in enumerate(planes):
        rest, ids = plane.astype(np.int32), np.zeros(int(plane.max(initial=0)) + 1, np.int32)
        if z > 0:
            _link(volume[z - 1], rest, ids, threshold)
        if z > 1 and waiting.size:
            before = np.where(np.isin(volume[z - 2], waiting), volume[z - 2], 0)
            pairs = _link(before, rest, ids, threshold)
            for (old, new), window in zip(pairs, _windows(before, plane, pairs), strict=True):
                above = plane[window] == new
                if not _bridge(before[window] == old, above, volume[z - 1][window], int(old)):
                    ids[new], rest[window][above] = 0, new
        fresh = np.unique(rest[rest > 0])
        ids[fresh] = count + 1 + np.arange(len(fresh))
        count += len(fresh)
        volume[z] = ids[plane]
        if z > 0:
            waiting = np.setdiff1d(volume[z - 1], volume[z])
            waiting = waiting[waiting > 0]
    return volume


def _check(planes: Sequence[NDArray], threshold: float) -> None:
    shapes = sorted({plane.shape for plane in planes})
    if len(shapes) != 1 or len(shapes[0]) != 2:
        raise ValueError(f"found planes of shapes {shapes}, expected at least one plane and all of one shape (Y, X)")
    for plane in planes:
        if plane.dtype.kind not in "iu" or plane.min(initial=0) < 0:
            raise ValueError(f"found a plane of {plane.dtype} from {plane.min(initial=0)} on, expected integers from 0")
    if not 0 < threshold <= 1:
        raise ValueError(f"found an IoU threshold of {threshold}, expected a number above 0 and at most 1")


def _link(
    before: NDArray[np.int32], rest: NDArray[np.int32], ids: NDArray[np.int32], threshold: float
) -> NDArray[np.int64]:
    """Give objects of `rest` the numbers of their matches and take them out of it; returns (old, new) pairs."""
    if not before.any() or not rest.any():
        return np.zeros((0, 2), np.int64)
    pairs = match(before, rest, threshold).pairs
    ids[pairs[:, 1]] = pairs[:, 0]
    rest[np.isin(rest, pairs[:, 1])] = 0
    return pairs


def _windows(below: NDArray, above: NDArray, pairs: NDArray[np.int64]) -> list[tuple[slice, slice]]:
    """For each pair of labels of two planes the part of these that holds both, and a pixel around them."""
    if not len(pairs):
        return []
    both = np.stack([boxes(below)[pairs[:, 0] - 1], boxes(above)[pairs[:, 1] - 1]])
    first, last = np.maximum(both[..., 0].min(0) - 1, 0), both[..., 1].max(0) + 1
    return [(slice(y0, y1), slice(x0, x1)) for (y0, x0), (y1, x1) in zip(first.tolist(), last.tolist(), strict=True)]


def _bridge(below: NDArray[np.bool_], above: NDArray[np.bool_], between: NDArray[np.int32], label: int) -> bool:
    """Draw an object into the background of the plane between two, half-way between its outlines in them.

    All are a window around the object. Returns False, and draws nothing, where other objects leave no room for a piece
    that touches both.
    """
    inside = _signed_distance(below) + _signed_distance(above) > 0
    drawn = inside & (between == 0)
    pieces, _ = ndimage.label([below, drawn, above], np.ones((3, 3, 3)))
    joined = bool(np.intersect1d(pieces[0][below], pieces[2][above]).size)
    if joined:
        between[drawn] = label
    return joined


def _signed_distance(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance of pixels to the mask's outline, positive inside; the window's end is outside."""
    padded = np.pad(mask, 1)
    signed = ndimage.distance_transform_edt(padded) - ndimage.distance_transform_edt(~padded)
    return np.asarray(signed[1:-1, 1:-1])
