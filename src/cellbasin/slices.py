"""The network's maps of a volume: those of its XY, XZ and YZ slices, averaged (paper, Methods, "3D model").

All slices are looked at as if voxels were cubes: planes that lie further apart than pixels are drawn apart. Where
objects are larger than the network's diameter, neighbouring slices are averaged instead of looked at one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from cellbasin.network_outputs import FLOW_SCALE, sigmoid
from cellbasin.options import Options
from cellbasin.parallel import Tell, parallel_map
from cellbasin.prediction import Maps, Predictor, unit_length
from cellbasin.resize import linear_taps
from cellbasin.scratch import Allocate, in_memory

_LONGEST_TILE = 320  # pixels; a slice that is not longer is one tile
_GROUP = 16  # slices at a time: whole cache lines where they are columns of the volume
GROUP_BYTES = 1 << 26
"""Slices are looked at together up to this."""

PIXEL_BYTES = 36
"""Of a resized slice and its maps while they are made."""
_THIN = 10.0  # pixels of the network: a third of an object; of a thinner volume only XY slices show anything


def cube_shape(shape: Sequence[int], anisotropy: float) -> tuple[int, int, int]:
    """Shape (Z, Y, X) of a volume whose planes are drawn apart until its voxels are cubes.

    >>> cube_shape((10, 40, 50), 2.5)
    (25, 40, 50)
    """
    return max(1, round(shape[0] * anisotropy)), shape[1], shape[2]


def predict_volume(
    predictor: Predictor,
    pixels: np.ndarray,
    diameter: float,
    anisotropy: float,
    options: Options,
    tell: Tell,
    allocate: Allocate = in_memory,
) -> Maps:
    """The averaged maps, of cubes (see `cube_shape`), of a volume whose objects have this diameter.

    pixels: float32 (2, Z, Y, X), normalised; diameter: px of y and x; anisotropy: distance of two planes in px of y and
    x; tell: called with the part 0..1 that is done; allocate: makes the maps. Each component of the flow is the mean of
    the two directions of slices that show it, the probability that of all three, weighted by
    `options.direction_weights`.
    """
    cubes = cube_shape(pixels.shape[1:], anisotropy)
    total = Maps(
        allocate((3, *cubes)),
        allocate(cubes),
        np.zeros(predictor.card.architecture.channels[-1], np.float32),
    )
    scale = predictor.card.diameter / diameter
    weights = weights_in_use(options, cubes[0] * scale)
    counts = [_slice_count(pixels.shape[1 + k], cubes[k], scale) if weights[k] else 0 for k in range(3)]
    done, everything = 0, sum(counts)

    def tell_part(part: float, slices: int) -> None:
        tell((done + part * slices) / everything)

    for axis in (k for k in range(3) if counts[k]):
        plane = (cubes[1 if axis == 0 else 0], cubes[1 if axis == 2 else 2])
        tiling = predictor.tiling(plane, diameter, options, _LONGEST_TILE)
        for first, images in _slices(pixels, axis, counts[axis], group_size(tiling.shape)):
            tell_group = partial(tell_part, slices=len(images))
            scaled = predictor.conventions.resize(images, tiling.shape)
            maps, style = predictor.run_stack(scaled, tiling, options.batch, tell_group)
            maps = predictor.conventions.resize(maps, plane)
            maps[:, :2] *= np.float32(1 / FLOW_SCALE)
            sigmoid(maps[:, 2])
            _add(maps, first, counts[axis], axis, weights, total)
            total.style[:] += style * np.float32(len(images) / everything)
            done += len(images)
    return replace(total, style=unit_length(total.style))


def weights_in_use(options: Options, depth: float) -> np.ndarray:
    """Weights (3,) of slices across z, y and x; `depth` of the volume in pixels of the network.

    >>> weights_in_use(Options(), 5.0), weights_in_use(Options(), 50.0)
    (array([1., 0., 0.]), array([1., 1., 1.]))
    """
    if depth < _THIN:
        return np.array([1.0, 0.0, 0.0])
    xy, xz, yz = options.direction_weights
    return np.array([xy, xz, yz])


def _slice_count(stored: int, cubes: int, scale: float) -> int:
    """Slices along an axis: no more than are stored, nor than objects of the network's diameter need."""
    return min(stored, max(1, round(cubes * scale)))


def group_size(shape: Sequence[int]) -> int:
    """Slices, each resized to a shape (Y, X), that are looked at together: 16, or as many as fit.

    >>> group_size((512, 512)), group_size((4096, 4096))
    (7, 1)
    """
    return max(1, min(_GROUP, int(GROUP_BYTES / (PIXEL_BYTES * shape[0] * shape[1]))))


def _slices(pixels: np.ndarray, axis: int, count: int, size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Groups of so many slices (N, 2, ...) across an axis, each with the number of its first."""
    start, weight = linear_taps(pixels.shape[1 + axis], count)
    for first in range(0, count, size):
        group = []
        for n in range(first, min(first + size, count)):
            rows = [pixels.take(int(start[n]) + tap, 1 + axis) * w for tap, w in enumerate(weight[:, n]) if w]
            group.append(sum(rows[1:], rows[0]))
        yield first, np.stack(group)


def _add(maps: np.ndarray, first: int, count: int, axis: int, weights: np.ndarray, total: Maps) -> None:
    """Add the maps (N, 3, ...) of slices from number `first` on; between slices they are interpolated."""
    components = [other for other in range(3) if other != axis]
    start, weight = linear_taps(count, total.probability.shape[axis])
    begin = start.astype(np.int64)
    reached = np.flatnonzero((begin < first + len(maps)) & (begin + len(weight) > first))
    rows = slice(int(reached[0]), int(reached[-1]) + 1)
    place = (slice(None),) * axis + (rows,)

    def add(k: int) -> None:
        target = total.flow[components[k]] if k < 2 else total.probability
        seen = weights.sum() - (weights[components[k]] if k < 2 else 0.0)
        share = np.float32(weights[axis] / seen)
        between = np.zeros((rows.stop - rows.start, *maps.shape[2:]), np.float32)
        for row, number in zip(between, range(rows.start, rows.stop), strict=True):
            for tap, w in enumerate(weight[:, number]):
                n = int(begin[number]) + tap - first
                if w and 0 <= n < len(maps):
                    row += w * share * maps[n, k]
        target[place] += np.moveaxis(between, 0, axis)

    parallel_map(add, range(3))
