"""Compiled loops of `measure.py`: every one visits each pixel a fixed number of times."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

_DIAGONAL = 0.5**0.5  # distance of neighbouring diagonals


@njit(cache=True, nogil=True)
def perimeters(labels, count):  # type: ignore[no-untyped-def]
    """Perimeter (N,) of every label: Crofton's formula with lines in four directions."""
    height, width = labels.shape
    crossed = np.zeros(count)
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label <= 0:
                continue
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    ny, nx = y + dy, x + dx
                    if not (0 <= ny < height and 0 <= nx < width and labels[ny, nx] == label):
                        crossed[label - 1] += _DIAGONAL if dy != 0 and dx != 0 else 1.0
    return crossed * (np.pi / 8)


@njit(cache=True, nogil=True)
def extremes(labels, values, count):  # type: ignore[no-untyped-def]
    """Least and highest value of every label, (N,) each; NaN for labels that do not occur, or with NaN among theirs."""
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    unknown = np.ones(count, np.bool_)
    for i in range(len(labels)):
        k = labels[i] - 1
        if k >= 0:
            value = values[i]
            unknown[k] = False
            low[k] = value if value != value or value < low[k] else low[k]
            high[k] = value if value != value or value > high[k] else high[k]
    low[unknown], high[unknown] = np.nan, np.nan
    return low, high


@njit(cache=True, nogil=True)
def _turn(ay, ax, by, bx, cy, cx):  # type: ignore[no-untyped-def]
    return (by - ay) * (cx - ax) - (bx - ax) * (cy - ay)


@njit(cache=True, nogil=True)
def _chain(ys, xs, count, sign):  # type: ignore[no-untyped-def]
    """One side of a convex hull of points sorted by y, in place; returns how many are left."""
    kept = 0
    for i in range(count):
        y, x = ys[i], xs[i]
        while kept >= 2 and sign * _turn(ys[kept - 2], xs[kept - 2], ys[kept - 1], xs[kept - 1], y, x) >= 0:
            kept -= 1
        ys[kept], xs[kept] = y, x
        kept += 1
    return kept


@njit(cache=True, nogil=True)
def _row_ends(labels, tops, starts, rows):  # type: ignore[no-untyped-def]
    """First and last column + 1 of every object in every row of its box."""
    left, right = np.full(rows, labels.shape[1]), np.zeros(rows, np.int64)
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            k = labels[y, x] - 1
            if k >= 0:
                row = starts[k] + y - tops[k]
                left[row] = min(left[row], x)
                right[row] = max(right[row], x + 1)
    return left, right


@njit(cache=True, nogil=True)
def _hull_areas(left, right, starts):  # type: ignore[no-untyped-def]
    found = np.zeros(len(starts) - 1)
    for k in range(len(starts) - 1):
        height = starts[k + 1] - starts[k]
        sides = np.empty((2, 2, 2 * height))
        counts = np.zeros(2, np.int64)
        for row in range(height):
            a, b = left[starts[k] + row], right[starts[k] + row]
            if b <= a:  # an object of several pieces has empty rows
                continue
            for edge in range(2):
                for side in range(2):
                    sides[side, 0, counts[side]] = row + edge
                    sides[side, 1, counts[side]] = b if side else a
                    counts[side] += 1
        for side in range(2):
            sign = 1.0 if side else -1.0
            counts[side] = _chain(sides[side, 0], sides[side, 1], counts[side], sign)
            total = 0.0
            for i in range(counts[side] - 1):
                step = sides[side, 0, i + 1] - sides[side, 0, i]
                total += step * (sides[side, 1, i + 1] + sides[side, 1, i]) / 2
            found[k] += total if side else -total
    return found


def hull_areas(labels: NDArray[np.int32], tops: NDArray[np.int64], bottoms: NDArray[np.int64]) -> NDArray[np.float64]:
    """Area (N,) of the convex hull of the corners of every label's pixels; tops, bottoms: its rows, end exclusive."""
    heights = np.maximum(bottoms - tops, 0)
    starts = np.concatenate([[0], np.cumsum(heights)]).astype(np.int64)
    left, right = _row_ends(labels, np.asarray(tops, np.int64), starts, int(starts[-1]))
    return _hull_areas(left, right, starts)
