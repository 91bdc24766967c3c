"""Label images: renumber, split, clean up and measure them, in 2D and 3D with the same code.

A label image is an integer array (Y, X) or (Z, Y, X) in which 0 is background and every other value is one
object. Objects are connected through corners too (8 neighbours in 2D, 26 in 3D), background only through
faces (4 or 6), so that a closed chain of object pixels always separates inside from outside.

Nothing here changes its input, every label image that is returned is a new int32 array, and time and memory grow
with the number of pixels, not with that of labels. Functions that return one entry per object number them 1..N,
N being the largest label: entry `i` is label `i + 1`, and a label that does not occur has area 0. Call `relabel`
first if the values are large and have gaps.

All raise `TypeError` for anything but an array of integers, and `ValueError` for negative values or other
than two or three axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cellbasin import label_kernels as kernels

Labels = NDArray[np.int32]


def relabel(labels: NDArray) -> Labels:
    """Number the objects 1..N without gaps, in the order of their present values.

    Parameters
    ----------
    labels : (Y, X) or (Z, Y, X), any integer dtype, values as large as it holds.

    Returns
    -------
    int32, same shape.

    Raises
    ------
    ValueError for negative values.
    TypeError for anything but an array of integers.

    >>> relabel(np.array([[0, 900], [7, 7]]))
    array([[0, 2],
           [1, 1]], dtype=int32)
    """
    _check(labels)
    if labels.size == 0:
        return np.zeros(labels.shape, np.int32)
    if int(labels.max()) > 4 * labels.size + 65536:  # a table of all values would be larger than the image
        values, positions = np.unique(labels, return_inverse=True)
        return _numbering(values > 0)[positions.reshape(labels.shape)]
    present = np.concatenate([[False], areas(labels) > 0])
    return _mapped(_volume(labels), _numbering(present)).reshape(labels.shape)


def split_pieces(labels: NDArray, through: Literal["corners", "faces"] = "corners") -> Labels:
    """Give every connected piece of every object a label of its own, 1..N without gaps.

    Pieces are numbered in the order of the labels that they come from, and within one label in the order of
    their first pixels, so labels without gaps and of one piece each stay as they are. `through="faces"`
    splits what hangs together at edges and corners only, too.

    >>> split_pieces(np.array([[2, 0, 2], [0, 0, 0], [1, 1, 0]]))
    array([[2, 0, 3],
           [0, 0, 0],
           [1, 1, 0]], dtype=int32)
    """
    volume = _volume(labels)
    pieces, count = _pieces(volume, through)
    owner, _ = kernels.piece_table(volume, pieces, count)
    lut = np.zeros(count + 1, np.int32)
    lut[1 + np.argsort(owner[1:], kind="stable")] = np.arange(1, count + 1)
    return _mapped(pieces, lut).reshape(labels.shape)


def keep_largest_piece(labels: NDArray) -> Labels:
    """Set all but the largest connected piece of every object to background; label values stay.

    Of pieces of equal size the one whose first pixel comes first stays.

    >>> keep_largest_piece(np.array([[3, 0, 3], [0, 0, 3]]))
    array([[0, 0, 3],
           [0, 0, 3]], dtype=int32)
    """
    volume = _volume(labels)
    pieces, count = _pieces(volume)
    owner, size = kernels.piece_table(volume, pieces, count)
    return _mapped(pieces, kernels.keep_largest(owner, size, _largest(volume))).reshape(labels.shape)


def fill_small_holes(labels: NDArray, max_size: int) -> Labels:
    """Fill background that lies fully inside one object and has fewer than `max_size` pixels.

    Background that touches a second object (a nested one, say) or the border of the image is kept, and so are nested
    objects themselves. Touching is meant through faces: a chain of corners closes a hole.

    >>> ring = np.ones((3, 3), int); ring[1, 1] = 0
    >>> fill_small_holes(ring, max_size=2)[1, 1]
    np.int32(1)
    >>> fill_small_holes(ring, max_size=1)[1, 1]
    np.int32(0)
    """
    volume = _volume(labels)
    pieces, count = _pieces(volume, "faces", background=1)
    owner, size = kernels.hole_table(volume, pieces, count, labels.ndim)
    lut = np.where((owner > 0) & (size < max_size), owner, 0).astype(np.int32)
    return kernels.fill_pieces(volume, pieces, lut).reshape(labels.shape)


def select(labels: Labels, wanted: NDArray[np.bool_]) -> Labels:
    """The wanted objects, bool (N,), numbered 1.. without gaps in their order; the others become background.

    >>> select(np.array([[1, 2, 0, 3]], np.int32), np.array([True, False, True]))
    array([[1, 0, 0, 2]], dtype=int32)
    """
    return _numbering(np.concatenate([[False], wanted]))[labels]


def remove_small(labels: NDArray, min_size: int) -> Labels:
    """Set objects of fewer than `min_size` pixels to background; the other label values stay.

    >>> remove_small(np.array([[1, 0, 2, 2]]), 2)
    array([[0, 0, 2, 2]], dtype=int32)
    """
    return _keep(labels, areas(labels) >= min_size)


def remove_border(labels: NDArray, axes: Sequence[int] = (-2, -1)) -> Labels:
    """Set objects that touch the border of the image to background; the other label values stay.

    Parameters
    ----------
    labels : (Y, X) or (Z, Y, X), integers.
    axes : axes whose two ends count as border: y and x by default, `(0, 1, 2)` for all faces of a volume.

    >>> remove_border(np.array([[0, 0, 0], [1, 0, 0], [0, 0, 0]]))
    array([[0, 0, 0],
           [0, 0, 0],
           [0, 0, 0]], dtype=int32)
    """
    return _keep(labels, ~touches_border(labels, axes))


def check_numbered(labels: NDArray, ignore: int | None = None) -> None:
    """Refuse a mask of one or a few classes where labels are wanted: more than two separate pieces for each value.

    labels: as for `relabel`; ignore: a label that is no object, beside others that are. Raises ValueError.

    >>> check_numbered(np.array([[1, 0, 2, 0, 3]]))
    >>> check_numbered(np.array([[255, 0, 255, 0, 255]]))
    Traceback (most recent call last):
    ValueError: found the value 255 alone in 3 separate pieces; expected a number for each object: number the pieces \
of a mask first, with Fiji's Analyze Particles (show Count Masks) or cellbasin.labels.split_pieces
    """
    _check(labels)
    if ignore is not None and ((labels != 0) & (labels != ignore)).any():
        labels = np.where(labels == ignore, 0, labels)
    numbered = relabel(labels)
    values = numbered.max(initial=0)
    if values > 1 and labels.ndim > 2:  # what moves is in pieces, where one of the axes is time
        return
    _, pieces = _pieces(_volume(numbered))
    if pieces > 2 * values:
        found = f"the value {labels.max()} alone" if values == 1 else f"{values} values"
        raise ValueError(
            f"found {found} in {pieces} separate pieces; expected a number for each object: "
            "number the pieces of a mask first, with Fiji's Analyze Particles (show Count Masks) or "
            "cellbasin.labels.split_pieces"
        )


def touches_border(labels: NDArray, axes: Sequence[int] = (-2, -1)) -> NDArray[np.bool_]:
    """Which objects touch the border of the image, bool (N,); `axes` as in `remove_border`.

    >>> touches_border(np.array([[0, 0, 0], [1, 2, 0], [0, 0, 0]]))
    array([ True, False])
    """
    volume = _volume(labels)
    found = np.zeros(_largest(volume) + 1, bool)
    if volume.size:
        shaped = volume.reshape(labels.shape)
        for axis in axes:
            for end in (0, -1):
                found[np.take(shaped, end, axis=axis)] = True
    return found[1:]


def areas(labels: NDArray) -> NDArray[np.int64]:
    """Pixels of every object (voxels in 3D), int64 (N,).

    >>> areas(np.array([[0, 1, 1, 3]]))
    array([2, 0, 1])
    """
    volume = _volume(labels)
    return kernels.count_labels(volume.reshape(-1), _largest(volume))[1:]


def diameters(labels: NDArray) -> NDArray[np.float64]:
    """Diameter in pixels of the disk (2D: 2·√(area/π)) or sphere (3D) as large as every object, float64 (N,).

    >>> diameters(np.ones((10, 10), int)).round(2)
    array([11.28])
    """
    area = areas(labels)
    return 2 * np.sqrt(area / np.pi) if labels.ndim == 2 else np.cbrt(6 * area / np.pi)


def median_diameter(labels: NDArray, ignore: int | None = None) -> float:
    """Median of the objects' diameters in pixels (paper, Methods, "Size model"); nan without objects.

    ignore: a label that is no object, such as that of pixels not annotated.

    >>> median_diameter(np.zeros((4, 4), int))
    nan
    """
    found = diameters(relabel(labels if ignore is None else np.where(labels == ignore, 0, labels)))
    return float(np.median(found)) if found.size else float("nan")


def boxes(labels: NDArray) -> NDArray[np.int64]:
    """Bounding box of every object, int64 (N, D, 2): first and one past last pixel along every axis.

    A label that does not occur has the empty box of zeros.

    >>> boxes(np.array([[0, 0, 0], [0, 1, 1]])).tolist()
    [[[1, 2], [1, 3]]]
    """
    volume = _volume(labels)
    found, counts = kernels.find_boxes(volume, _largest(volume))
    found = np.stack([found[:, :3], found[:, 3:] + 1], axis=2)
    found[counts == 0] = 0
    return np.ascontiguousarray(found[1:, 3 - labels.ndim :])


def boundaries(labels: NDArray) -> NDArray[np.bool_]:
    """Object pixels with a face neighbour of another value, bool, same shape; the image's edge is none.

    >>> boundaries(np.array([[1, 1, 0], [1, 1, 2]])).astype(int)
    array([[0, 1, 0],
           [0, 1, 1]])
    """
    return kernels.find_boundaries(_volume(labels)).reshape(labels.shape)


# ------------------------------------------------------------------------------------- arguments and tables


def _check(labels: NDArray) -> None:
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
        found = f"an array of {labels.dtype}" if isinstance(labels, np.ndarray) else type(labels).__name__
        raise TypeError(
            f"labels must be a numpy array of integers, found {found}; "
            "turn a mask of one kind of object into labels with split_pieces(mask.astype(np.uint8))"
        )
    if labels.ndim not in (2, 3):
        raise ValueError(f"labels must have the axes (y, x) or (z, y, x), found the shape {labels.shape}")
    if labels.size and labels.dtype.kind == "i" and labels.min() < 0:
        raise ValueError(f"labels must not be negative, found {labels.min()}; set such pixels to 0 (background)")


def _volume(labels: NDArray) -> Labels:
    """The labels as (Z, Y, X) int32; a view where possible."""
    _check(labels)
    if labels.size and labels.dtype.itemsize >= 4 and labels.max() > np.iinfo(np.int32).max:
        raise ValueError(f"label {labels.max()} does not fit into int32; call relabel(labels) first")
    return np.ascontiguousarray(labels, np.int32).reshape((1,) * (3 - labels.ndim) + labels.shape)


def _largest(volume: Labels) -> int:
    return int(volume.max(initial=0))


def _numbering(wanted: NDArray[np.bool_]) -> Labels:
    """Table from rank of value to new label, 0 for values that are not wanted."""
    return np.where(wanted, np.cumsum(wanted), 0).astype(np.int32)


def _keep(labels: NDArray, wanted: NDArray[np.bool_]) -> Labels:
    lut = np.where(wanted, np.arange(1, len(wanted) + 1), 0)
    return _mapped(_volume(labels), np.concatenate([[0], lut]).astype(np.int32)).reshape(labels.shape)


def _mapped(volume: NDArray, lut: Labels) -> Labels:
    return kernels.map_labels(volume.reshape(-1), lut).reshape(volume.shape)


def _pieces(volume: Labels, through: str = "corners", background: int = 0) -> tuple[NDArray, int]:
    """Number the connected pieces 1..N in the order of their first pixels, of objects or of background."""
    earlier = [step for step in product((-1, 0, 1), repeat=3) if step < (0, 0, 0)]
    if through == "faces":
        earlier = [step for step in earlier if sum(map(abs, step)) == 1]
    earlier = [step for step in earlier if step[0] == 0 or volume.shape[0] > 1]
    steps = np.array(sorted(earlier, key=lambda step: (sum(map(abs, step)), step)), np.int64)
    out = np.empty(volume.shape, np.int32 if volume.size < 2**31 else np.int64)
    return out, int(kernels.find_pieces(volume, steps, background, out.reshape(-1)))
