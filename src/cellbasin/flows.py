"""Flows of labelled objects: from every pixel a unit vector along the way to its object's centre.

Heat that is fed in at an object's centre and leaks out at its border makes a landscape whose uphill direction leads
every pixel, around corners if need be, to the centre. The network learns to predict these directions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cellbasin.centroid_heat import centroid_flows as heat_of_centroids
from cellbasin.heat import object_flows
from cellbasin.label_kernels import find_boxes
from cellbasin.labels import relabel, split_pieces
from cellbasin.parallel import parallel_map, thread_count

_TABLE_LIMIT = 1 << 22  # label values up to here index a table directly; with larger ones all are renumbered first


def labels_to_flows(labels: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return the flows of labelled objects (paper, Methods, "Vector gradient representation of masks").

    Every connected piece of a label is an object of its own and is computed alone: its flow depends neither on
    its neighbours nor on its position. The centre is the object's pixel nearest to its median position; pixels of
    the median's grid cell that are equally near share the source. Where the heat is too faint or its gradient
    would lead out of the object or into a trap (processes one pixel wide), the flow leads to the best neighbour,
    so that the way from every pixel ends at the centre.

    Parameters
    ----------
    labels : integers of shape ([Z,] Y, X); 0 and negative values are background.

    Returns
    -------
    float32 of shape (D, *labels.shape), components in the order (z) y x, unit vectors inside objects (zero at
    a centre that is a fixed point), zero outside.

    Raises
    ------
    TypeError when labels are not integers.
    ValueError when labels are neither 2D nor 3D.

    >>> labels_to_flows(np.array([[0, 5, 5, 5, 0]]))[1]
    array([[ 0.,  1.,  0., -1.,  0.]], dtype=float32)
    """
    compact = _compact(labels)
    flow = np.zeros((labels.ndim, *labels.shape), np.float32)
    torn = _fill_flows(compact, flow)
    if torn.any():
        _fill_flows(split_pieces(np.where(torn[np.maximum(compact, 0)], compact, 0)), flow)
    return flow


def centroid_flows(labels: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the flows that Cellpose 3 computes of found objects on a processor, to judge its networks' as it does.

    labels: (Y, X), 1..N and 0 for background. Returns float32 (2, Y, X): along the heat's own gradient to the pixel
    nearest to the object's centroid, zero outside; see `labels_to_flows` for how ours differ. Raises ValueError for
    labels of other dimensions.

    >>> centroid_flows(np.array([[0, 5, 5, 5, 0]], np.int32))[1]
    array([[ 0.,  1.,  0., -1.,  0.]], dtype=float32)
    """
    if labels.ndim != 2:
        raise ValueError(f"found labels of shape {labels.shape}; expected (Y, X)")
    flow = np.zeros((2, *labels.shape), np.float32)
    _fill_flows(np.ascontiguousarray(labels), flow, heat_of_centroids)
    return flow


def _fill_flows(
    labels: NDArray[np.int32], flow: NDArray[np.float32], kernel: Callable[..., NDArray[np.bool_]] = object_flows
) -> NDArray[np.bool_]:
    """Write the flows of the labels that are one piece and tell which are not, bool (largest label + 1,)."""
    shape3 = (1,) * (3 - labels.ndim) + labels.shape
    volume, out = labels.reshape(shape3), flow.reshape((labels.ndim, *shape3))
    boxes, counts = find_boxes(volume, int(labels.max(initial=0)))
    groups = _groups(boxes, np.flatnonzero(counts))

    def fill(group: NDArray[np.int64]) -> NDArray[np.int64]:
        return group[kernel(volume, group, boxes[group], counts[group], out)]

    torn = np.zeros(len(counts), bool)
    for found in parallel_map(fill, groups):
        torn[found] = True
    return torn


def _compact(labels: NDArray[np.integer]) -> NDArray[np.int32]:
    """Check labels and return them, contiguous and with small numbers."""
    if not isinstance(labels, np.ndarray) or not np.issubdtype(labels.dtype, np.integer):
        found = getattr(labels, "dtype", type(labels).__name__)
        raise TypeError(
            f"labels must be an array of integers, found {found}; convert them, e.g. labels.astype('int32')"
        )
    if labels.ndim not in (2, 3):
        raise ValueError(f"labels must be 2D (Y, X) or 3D (Z, Y, X), found shape {labels.shape}")
    if labels.max(initial=0) <= _TABLE_LIMIT and labels.min(initial=0) >= np.iinfo(np.int32).min:
        return np.ascontiguousarray(labels, np.int32)
    return relabel(np.maximum(labels, 0))


def _groups(boxes: NDArray[np.int64], wanted: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Cut objects into groups of about equal work, the largest objects first."""
    extents = boxes[wanted, 3:] - boxes[wanted, :3] + 1
    work = extents.prod(1) * (extents.sum(1) + 20)
    order = np.argsort(-work, kind="stable")
    total = np.cumsum(work[order])
    if not total.size:
        return []
    parts = (total - 1) * (16 * thread_count()) // total[-1]
    return np.split(wanted[order], np.flatnonzero(np.diff(parts)) + 1)
