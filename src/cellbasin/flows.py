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
from cellbasin.parallel import Tell, ignore_progress, parallel_map, subrange, thread_count
from cellbasin.resize import resize

_DETAIL = 64  # pixels; networks see objects of 30, and what they find is compared at that scale, not at a finer one
_AGREEMENT = 0.05  # mean squared difference of two grids' flows, below which the finer one is fine enough
_TABLE_LIMIT = 1 << 22  # label values up to here index a table directly; with larger ones all are renumbered first


def labels_to_flows(
    labels: NDArray[np.integer], detail: int | None = None, tell: Tell = ignore_progress
) -> NDArray[np.float32]:
    """Return the flows of labelled objects (paper, Methods, "Vector gradient representation of masks").

    Every connected piece of a label is an object of its own and is computed alone: its flow depends neither on
    its neighbours nor on its position. The centre is the object's pixel nearest to its median position; pixels of
    the median's grid cell that are equally near share the source. Where the heat is too faint or its gradient
    would lead out of the object or into a trap (processes one pixel wide), the flow leads to the best neighbour,
    so that the way from every pixel ends at the centre.

    Parameters
    ----------
    labels : integers of shape ([Z,] Y, X); 0 and negative values are background.
    detail : pixels, of labels of an image (Y, X). An object at least twice as long is computed on a grid as coarse as
        leaves it that length, finer where gaps would close, and its flow interpolated: what takes 100 s for a disc of
        1500 pixels takes half a second, and differs by some degrees. None: never.
    tell : called with the part 0..1 that is done; what it raises ends the work.

    Returns
    -------
    float32 of shape (D, *labels.shape), components in the order (z) y x, unit vectors inside objects (zero at
    a centre that is a fixed point), zero outside.

    Raises
    ------
    TypeError when labels are not integers.
    ValueError when labels are neither 2D nor 3D, for a detail below 1 or of a volume.

    >>> labels_to_flows(np.array([[0, 5, 5, 5, 0]]))[1]
    array([[ 0.,  1.,  0., -1.,  0.]], dtype=float32)
    """
    compact = _compact(labels)
    if detail is not None and (labels.ndim != 2 or detail < 1):
        raise ValueError(f"expected a detail of at least 1 pixel for labels (Y, X), found {detail} for {labels.shape}")
    flow = np.zeros((labels.ndim, *labels.shape), np.float32)
    torn = _fill_flows(compact, flow, detail=detail, tell=tell)
    if torn.any():
        _fill_flows(split_pieces(np.where(torn[np.maximum(compact, 0)], compact, 0)), flow, detail=detail)
    return flow


def quick_flows(labels: NDArray[np.integer], tell: Tell = ignore_progress) -> NDArray[np.float32]:
    """Return flows to judge found objects by: as `labels_to_flows`, in images without more detail than a network sees.

    >>> float(quick_flows(np.ones((1, 400), np.int32))[1, 0, 0])
    1.0
    """
    return labels_to_flows(labels, _DETAIL if labels.ndim == 2 else None, tell)


def centroid_flows(labels: NDArray[np.int32], tell: Tell = ignore_progress) -> NDArray[np.float32]:
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
    _fill_flows(np.ascontiguousarray(labels), flow, heat_of_centroids, tell=tell)
    return flow


def _fill_flows(
    labels: NDArray[np.int32],
    flow: NDArray[np.float32],
    kernel: Callable[..., NDArray[np.bool_]] = object_flows,
    detail: int | None = None,
    tell: Tell = ignore_progress,
) -> NDArray[np.bool_]:
    """Write the flows of the labels that are one piece and tell which are not, bool (largest label + 1,)."""
    shape3 = (1,) * (3 - labels.ndim) + labels.shape
    volume, out = labels.reshape(shape3), flow.reshape((labels.ndim, *shape3))
    boxes, counts = find_boxes(volume, int(labels.max(initial=0)))
    cells = (boxes[:, 3:] - boxes[:, :3] + 1).max(1) // detail if detail else np.ones(len(counts), np.int64)

    def fill(group: NDArray[np.int64]) -> NDArray[np.int64]:
        return group[kernel(volume, group, boxes[group], counts[group], out)]

    def fill_coarsely(label: int) -> bool:
        place = tuple(slice(first, last + 1) for first, last in boxes[label].reshape(2, 3).T[1:])
        return _fill_coarse_flow(labels[place] == label, int(cells[label]), flow[(slice(None), *place)])

    torn = np.zeros(len(counts), bool)
    large = np.flatnonzero((counts > 0) & (cells >= 2))
    half = 0.5 if large.size else 0.0
    torn[large] = parallel_map(fill_coarsely, large.tolist(), subrange(tell, 0, half))
    others = _groups(boxes, np.flatnonzero((counts > 0) & (cells < 2)))
    for found in parallel_map(fill, others, subrange(tell, half, 1)):
        torn[found] = True
    return torn


def _fill_coarse_flow(inside: NDArray[np.bool_], cell: int, flow: NDArray[np.float32]) -> bool:
    """Write the flow (2, Y, X) of one object that was computed on a grid of square cells, unless it is torn: then True.

    Coarse cells close gaps and fill holes, and the ways to the centre may lead elsewhere then: cells are halved until
    that hardly changes the flow.
    """
    if split_pieces(inside.astype(np.int32)).max() > 1:
        return True
    found = _grid_flow(inside, cell)
    while cell > 1:
        coarse, cell = found, cell // 2
        found = _grid_flow(inside, cell)
        if ((found - coarse) ** 2).sum(0)[inside].mean() < _AGREEMENT:
            break
    np.copyto(flow, found, where=inside)
    return False


def _grid_flow(inside: NDArray[np.bool_], cell: int) -> NDArray[np.float32]:
    """The flow (2, Y, X) of an object on a grid of cells, each inside with any of its pixels: thin ones stay whole."""
    coarse = _coarse(inside, cell)
    fine = resize(labels_to_flows(coarse), (coarse.shape[0] * cell, coarse.shape[1] * cell))
    fine = fine[:, : inside.shape[0], : inside.shape[1]]
    return np.asarray(fine / np.maximum(np.hypot(*fine), np.finfo(np.float32).tiny), np.float32)


def _coarse(inside: NDArray[np.bool_], cell: int) -> NDArray[np.int32]:
    """1 where any pixel of a square cell is inside, else 0."""
    padded = np.pad(inside, [(0, -length % cell) for length in inside.shape])
    rows, columns = (length // cell for length in padded.shape)
    return np.asarray(padded.reshape(rows, cell, columns, cell).any((1, 3)), np.int32)


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
