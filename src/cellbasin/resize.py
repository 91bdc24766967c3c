"""Resizing of images, maps and labels, half-pixel centres, any leading axes.

The paper ("Test time resizing") resizes with plain bilinear interpolation. That skips pixels when it shrinks, so here
the triangle filter is widened by the factor of shrinking (what Pillow calls BILINEAR): noise is averaged, not sampled.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import njit

from cellbasin.parallel import parallel_map

_BLOCK_ROWS = 64


class Taps(NamedTuple):
    """For every output position the first input position (uint64) and the weights (taps, outputs)."""

    start: np.ndarray
    weight: np.ndarray


def resize(array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize the last two axes linearly: bilinear when enlarging, averaging (antialiased) when shrinking.

    Parameters
    ----------
    array : (..., Y, X), any real dtype, finite; float32 without a copy when it is contiguous.
    shape : (Y', X') in pixels.

    Returns
    -------
    (..., Y', X') float32, a new array. Values stay inside the range of the input up to rounding; a constant
    stays constant.

    Raises
    ------
    ValueError when the array has fewer than two axes or an axis of length zero, or `shape` is not two positive
    integers. TypeError when the array is boolean or complex.

    Paper: "Test time resizing".

    >>> resize(np.array([[0, 4], [0, 4]]), (1, 4)).tolist()
    [[0.0, 1.0, 3.0, 4.0]]
    >>> resize(np.ones((2, 512, 512)), (300, 400)).shape
    (2, 300, 400)
    """
    rows, columns = _checked_shape(array, shape)
    return _mixed(array, linear_taps(array.shape[-2], rows), linear_taps(array.shape[-1], columns))


def sample(array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize the last two axes by plain bilinear interpolation, which skips pixels when it shrinks (paper).

    Parameters, result and errors as for `resize`; what Cellpose's networks were trained with.

    >>> sample(np.arange(8.0)[None], (1, 2)).tolist()
    [[1.5, 5.5]]
    """
    rows, columns = _checked_shape(array, shape)
    return _mixed(array, linear_taps(array.shape[-2], rows, 1.0), linear_taps(array.shape[-1], columns, 1.0))


def _mixed(array: np.ndarray, vertical: Taps, horizontal: Taps) -> np.ndarray:
    rows, columns = len(vertical.start), len(horizontal.start)
    if array.dtype.kind not in "uif":
        raise TypeError(f"cannot resize an array of dtype {array.dtype}; expected integers or floats")
    source = np.ascontiguousarray(array, dtype=np.float32).reshape(-1, *array.shape[-2:])
    if source.shape[1:] == (rows, columns):
        return source.reshape(array.shape).copy()
    result = np.empty((len(source), rows, columns), np.float32)

    def block(place: tuple[int, int]) -> None:
        plane, first = place
        part = slice(first, first + _BLOCK_ROWS)
        _resize_rows(source[plane], vertical.start[part], vertical.weight[:, part], *horizontal, result[plane, part])

    parallel_map(block, [(p, r) for p in range(len(source)) for r in range(0, rows, _BLOCK_ROWS)])
    return result.reshape(*array.shape[:-2], rows, columns)


def resize_labels(labels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize the last two axes of a label image by taking the nearest pixel, so that no new label appears.

    Parameters
    ----------
    labels : (..., Y, X), any dtype.
    shape : (Y', X') in pixels.

    Returns
    -------
    (..., Y', X'), the dtype of the input, a new array. Labels smaller than a pixel of the result can vanish.

    Raises
    ------
    ValueError when the array has fewer than two axes or an axis of length zero, or `shape` is not two
    positive integers.

    >>> resize_labels(np.array([[1, 2], [3, 4]]), (2, 4)).tolist()
    [[1, 1, 2, 2], [3, 3, 4, 4]]
    """
    rows, columns = _checked_shape(labels, shape)
    nearest_row, nearest_column = nearest_taps(labels.shape[-2], rows), nearest_taps(labels.shape[-1], columns)
    return labels.take(nearest_row, axis=-2).take(nearest_column, axis=-1)


def _checked_shape(array: np.ndarray, shape: tuple[int, int]) -> tuple[int, int]:
    if array.ndim < 2 or array.size == 0:
        raise ValueError(
            f"cannot resize an array of shape {array.shape}; expected (..., Y, X) with no axis of length 0"
        )
    if len(shape) != 2 or any(int(n) != n or n < 1 for n in shape):
        raise ValueError(f"cannot resize to {shape}; expected two positive whole numbers (Y, X)")
    return int(shape[0]), int(shape[1])


def nearest_taps(length: int, wanted: int) -> np.ndarray:
    """For every output position along an axis the nearest input position.

    >>> nearest_taps(2, 5).tolist()
    [0, 0, 1, 1, 1]
    """
    return (2 * np.arange(wanted) + 1) * length // (2 * wanted)


@lru_cache(maxsize=32)
def linear_taps(length: int, wanted: int, reach: float | None = None) -> Taps:
    """Weights of the triangle filter of `reach` pixels to either side, by default as many as become one, at least 1.

    At the edges the part that lies inside is normalised to 1.
    """
    scale = length / wanted
    reach = max(scale, 1.0) if reach is None else reach
    centre = (np.arange(wanted) + 0.5) * scale - 0.5
    taps = min(int(np.ceil(2 * reach)) + 1, length)
    start = np.clip(np.ceil(centre - reach), 0, length - taps).astype(np.int64)
    position = start + np.arange(taps)[:, None]
    weight = np.maximum(1.0 - np.abs(position - centre) / reach, 0.0)
    while taps > 1 and not weight[-1].any():  # the count above is an upper bound
        taps, weight = taps - 1, weight[:-1]
    weight /= weight.sum(axis=0)
    return Taps(start.astype(np.uint64), np.ascontiguousarray(weight, np.float32))


@njit(nogil=True, cache=True, fastmath={"contract"})
def _resize_rows(
    source: np.ndarray,
    row_start: np.ndarray,
    row_weight: np.ndarray,
    column_start: np.ndarray,
    column_weight: np.ndarray,
    result: np.ndarray,
) -> None:
    """One plane, some rows of the result: mix the input rows into a line, then resample the line along X."""
    line = np.empty(source.shape[1], np.float32)
    for y in range(result.shape[0]):
        line[:] = 0
        for tap in range(row_weight.shape[0]):
            weight = row_weight[tap, y]
            if weight != 0:
                row = source[row_start[y] + np.uint64(tap)]
                for x in range(line.size):
                    line[x] += weight * row[x]
        out = result[y]
        out[:] = 0
        for tap in range(column_weight.shape[0]):
            weights = column_weight[tap]
            for x in range(out.size):
                out[x] += weights[x] * line[column_start[x] + np.uint64(tap)]
