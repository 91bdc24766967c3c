"""Outlines of the objects of a 2D label image as polygons on the corners of pixels, and back to labels.

Coordinates are (y, x) of corners: pixel (0, 0) is the square from (0, 0) to (1, 1), its centre (0.5, 0.5).
Filled by the even-odd rule, the outlines give back exactly the pixels that they were traced from. Outer rings
run along growing x at the top (counter-clockwise where y points up, as GeoJSON wants them), holes the other
way round; the first point is not repeated at the end, and only points where the outline turns are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellbasin.labels import split_pieces

Ring = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Outline:
    """One connected piece of one object.

    Attributes
    ----------
    label : value in the label image.
    outer : (K, 2) int32, corners (y, x) of the outer ring.
    holes : (K, 2) int32 each, rings around what is inside but not part of the object.
    """

    label: int
    outer: Ring
    holes: tuple[Ring, ...] = ()

    @property
    def rings(self) -> tuple[Ring, ...]:
        """The outer ring and the holes."""
        return (self.outer, *self.holes)


def trace_outlines(labels: NDArray) -> list[Outline]:
    """One outline for every object, or every piece of it if it has several that do not even touch at corners.

    Pixels that touch at a corner are connected, as everywhere in this package, so a ring may touch itself
    there; `trace_polygons` gives rings that do not.

    Parameters
    ----------
    labels : (Y, X), integers, 0 is background.

    Returns
    -------
    Outlines in ascending order of labels; time and memory grow with the number of pixels.

    Raises
    ------
    ValueError for other than two axes, or negative labels.
    TypeError for anything but an array of integers.

    >>> trace_outlines(np.array([[0, 7, 7], [0, 7, 7]]))[0].outer.tolist()
    [[0, 3], [2, 3], [2, 1], [0, 1]]
    """
    return _outlines(labels, "corners")


def trace_polygons(labels: NDArray) -> list[Outline]:
    """Outlines whose rings never touch themselves, valid in GeoJSON; arguments as in `trace_outlines`.

    Parts of an object that hang together only at corners are polygons of their own, with the same label.

    >>> [one.label for one in trace_polygons(np.array([[5, 0], [0, 5]]))]
    [5, 5]
    """
    return _outlines(labels, "faces")


def fill_outlines(outlines: Iterable[Outline], shape: Sequence[int]) -> NDArray[np.int32]:
    """Draw outlines as labels, int32 (Y, X): pixels whose centre is inside by the even-odd rule.

    Parameters
    ----------
    outlines : drawn in their order, the later over the earlier; rings may have any real coordinates, and
        what lies outside of the image is cut off.
    shape : rows and columns of the image.

    >>> labels = np.array([[0, 7, 7], [0, 7, 7]])
    >>> fill_outlines(trace_outlines(labels), labels.shape)
    array([[0, 7, 7],
           [0, 7, 7]], dtype=int32)
    """
    out = np.zeros(tuple(shape), np.int32)
    if out.ndim != 2:
        raise ValueError(f"the shape must be (rows, columns), found {tuple(shape)}")
    for outline in outlines:
        rings = [np.asarray(ring, np.float64).reshape(-1, 2) for ring in outline.rings if len(ring)]
        if rings:
            after = [np.roll(ring, -1, axis=0) for ring in rings]
            _fill(np.concatenate(rings), np.concatenate(after), outline.label, out)
    return out


def _outlines(labels: NDArray, through: Literal["corners", "faces"]) -> list[Outline]:
    if np.ndim(labels) != 2:
        raise ValueError(f"outlines need labels with the axes (y, x), found the shape {np.shape(labels)}")
    pieces = split_pieces(labels, through=through)
    points, ends, starts = _trace(pieces, int(through == "corners"))
    touching = _touching_rings(points, ends) if through == "faces" else set()
    rings: list[list[Ring]] = [[] for _ in range(int(pieces.max(initial=0)))]
    values = np.zeros(len(rings), np.int64)
    first = 0
    for number, (end, start) in enumerate(zip(ends.tolist(), starts.tolist(), strict=True)):
        piece = int(pieces.flat[start]) - 1
        values[piece] = labels.flat[start]
        ring = points[first:end]
        rings[piece] += _simple_rings(ring) if number in touching else [ring]
        first = end
    return [Outline(int(values[i]), found[0], tuple(found[1:])) for i, found in enumerate(rings)]


def _touching_rings(points: Ring, ends: NDArray[np.int64]) -> set[int]:
    """Numbers of the rings that pass twice through one corner."""
    if not len(points):
        return set()
    ring = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
    order = np.lexsort((points[:, 1], points[:, 0], ring))
    table = np.column_stack([ring, points])[order]
    return set(table[1:][(table[1:] == table[:-1]).all(axis=1), 0].tolist())


def _simple_rings(ring: Ring) -> list[Ring]:
    """Cut a ring where it touches itself; an outer ring comes first, before the holes that it enclosed."""
    path: list[tuple[int, int]] = []
    place: dict[tuple[int, int], int] = {}
    loops = []
    for point in map(tuple, ring.tolist()):
        if point in place:
            loop = path[place[point] :]
            loops.append(loop)
            del path[place[point] :]
            for passed in loop:
                del place[passed]
        place[point] = len(path)
        path.append(point)
    found = [np.array(loop, np.int32) for loop in [*loops, path]]
    return sorted(found, key=lambda one: _signed_area(one) < 0)


def _signed_area(ring: Ring) -> float:
    y, x = ring.astype(np.int64).T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


@njit(nogil=True, cache=True)
def _trace(pieces: NDArray[np.int32], corners: int) -> tuple[Ring, NDArray[np.int64], NDArray[np.int64]]:
    """Follow the cracks around every piece; every ring has a crack at the top of a pixel, where it is found.

    Returns the corners where rings turn, the end of every ring in these, and the pixel at which it was found.
    The outer ring of a piece is found before its holes. `corners` is 1 where pixels that touch at a corner
    are connected.
    """
    height, width = pieces.shape
    seen = np.zeros((height, width), np.bool_)
    points = np.empty((1024, 2), np.int32)
    ends, starts = [np.int64(0)], [np.int64(0)]
    count = 0
    for y in range(height):
        for x in range(width):
            piece = pieces[y, x]
            if piece == 0 or seen[y, x] or (y > 0 and pieces[y - 1, x] == piece):
                continue
            points, count = _follow(pieces, y, x, corners, seen, points, count)
            ends.append(np.int64(count))
            starts.append(np.int64(y * width + x))
    return points[:count].copy(), np.array(ends)[1:], np.array(starts)[1:]


@njit(nogil=True, cache=True)
def _follow(
    pieces: NDArray[np.int32],
    y: int,
    x: int,
    corners: int,
    seen: NDArray[np.bool_],
    points: Ring,
    count: int,
) -> tuple[Ring, int]:
    """Append one ring to `points` (grown when full), the piece on the right hand, and mark its top cracks.

    `side` 0..3 is the crack along the top, right, bottom or left of the pixel (y, x).
    """
    dy, dx = (0, 1, 0, -1), (1, 0, -1, 0)
    piece = pieces[y, x]
    side = 0
    while True:
        if side == 0:
            if seen[y, x]:
                return points, count
            seen[y, x] = True
        ahead_y, ahead_x = y + dy[side], x + dx[side]
        left_y, left_x = ahead_y + dy[side - 1], ahead_x + dx[side - 1]
        straight = _has(pieces, ahead_y, ahead_x, piece)
        left = _has(pieces, left_y, left_x, piece) and (straight or corners == 1)
        if straight and not left:
            y, x = ahead_y, ahead_x
            continue
        if count == len(points):
            grown = np.empty((2 * count, 2), np.int32)
            grown[:count] = points
            points = grown
        points[count] = y + (side == 1 or side == 2), x + (side == 0 or side == 1)
        count += 1
        if left:
            y, x, side = left_y, left_x, (side + 3) % 4
        else:
            side = (side + 1) % 4


@njit(nogil=True, cache=True)
def _has(pieces: NDArray[np.int32], y: int, x: int, piece: int) -> bool:
    return 0 <= y < pieces.shape[0] and 0 <= x < pieces.shape[1] and pieces[y, x] == piece


@njit(nogil=True, cache=True)
def _fill(start: NDArray[np.float64], end: NDArray[np.float64], label: int, out: NDArray[np.int32]) -> None:
    """Set the pixels inside the edges: each edge flips all pixels to its right in the rows that it passes."""
    height, width = out.shape
    top = min(max(np.floor(start[:, 0].min()), 0), height)
    left = min(max(np.floor(start[:, 1].min()), 0), width)
    bottom = min(max(np.ceil(start[:, 0].max()), top), height)
    right = min(max(np.ceil(start[:, 1].max()), left), width)
    y0, x0 = int(top), int(left)
    flips = np.zeros((int(bottom) - y0, int(right) - x0 + 1), np.bool_)
    for i in range(start.shape[0]):
        low, high = (start[i], end[i]) if start[i, 0] < end[i, 0] else (end[i], start[i])
        first = max(int(np.ceil(max(low[0], -1.0) - 0.5)), y0)
        last = min(int(np.ceil(min(high[0], height + 1.0) - 0.5)), y0 + flips.shape[0])
        for y in range(first, last):
            x = low[1] + (y + 0.5 - low[0]) * (high[1] - low[1]) / (high[0] - low[0])
            column = int(min(max(np.ceil(x - 0.5) - x0, 0.0), flips.shape[1] - 1.0))
            flips[y - y0, column] ^= True
    for y in range(flips.shape[0]):
        inside = False
        for x in range(flips.shape[1] - 1):
            inside ^= flips[y, x]
            if inside:
                out[y0 + y, x0 + x] = label
