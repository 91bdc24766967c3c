"""Objects of a volume from flows that were averaged over its XY, XZ and YZ slices.

Such flows are not those that heat in the whole object would give, not even for a sphere: near its top, slices across z
show a small disc whose flow lies in the plane. So that an object can be judged, the flows of its own slices are
averaged in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellbasin.basins import find_basins
from cellbasin.dynamics import BORDER_LENIENCY, STEPS, FlowSegmentation, flow_errors, judge
from cellbasin.flows import quick_flows
from cellbasin.labels import areas, fill_small_holes, keep_largest_piece, select
from cellbasin.options import Options
from cellbasin.parallel import Tell, ignore_progress, parallel_map, subrange
from cellbasin.scratch import Allocate, in_memory

_BINS = 64
# Two estimates that differ make a short flow, which no shape has: good objects of noisy volumes reach 0.61 inside and
# 1.05 at the border, bad ones begin at 0.9 (qcanet_8cell, gonuclear_1135, generated volumes).
_LENIENCE = 2.0  # times the threshold for images
_BORDER = 0.75  # times the leniency at the border of images


def composed_flows(
    labels: NDArray[np.int32],
    allocate: Allocate = in_memory,
    weights: Sequence[float] = (1, 1, 1),
    tell: Tell = ignore_progress,
) -> NDArray[np.float32]:
    """Average the 2D flows of the slices of labelled objects, as `slices.py` averages the network's.

    labels: int32 (Z, Y, X). weights: of slices across z, y and x. tell: called with the part that is done. Returns
    float32 (3, Z, Y, X), components z, y, x; at most as long as √1.5.

    >>> ball = np.zeros((3, 3, 3), np.int32)
    >>> ball[1, 1, :] = 1
    >>> composed_flows(ball)[2, 1, 1]
    array([ 1.,  0., -1.], dtype=float32)
    """
    flow = allocate((3, *labels.shape))
    for axis in (axis for axis in range(3) if weights[axis]):
        first, second = (other for other in range(3) if other != axis)
        shares = [weights[axis] / (sum(weights) - weights[component]) for component in (first, second)]
        across = np.moveaxis(labels, axis, 0)
        targets = np.moveaxis(flow[first], axis, 0), np.moveaxis(flow[second], axis, 0)

        def add(
            n: int,
            across: NDArray = across,
            targets: tuple[NDArray, NDArray] = targets,
            shares: list[float] = shares,
        ) -> None:
            if across[n].any():
                own = quick_flows(np.ascontiguousarray(across[n]))
                targets[0][n] += np.float32(shares[0]) * own[0]
                targets[1][n] += np.float32(shares[1]) * own[1]

        parallel_map(add, range(len(across)), subrange(tell, axis / 3, (axis + 1) / 3))
    return flow


def smooth_maps(flow: NDArray[np.float32], probability: NDArray[np.float32], sigma: float) -> None:
    """Blur flow (3, Z, Y, X) and probability (Z, Y, X) in place with a Gaussian of `sigma` voxels.

    Slices are looked at one by one, so their maps differ from one to the next in ways that objects do not.
    """
    if sigma > 0:
        parts = [*flow, probability]
        parallel_map(
            lambda part: ndimage.gaussian_filter(part, sigma, mode="nearest", truncate=3.0, output=part), parts
        )


def segment_composed(
    flow: NDArray[np.float32],
    probability: NDArray[np.float32],
    step: float,
    options: Options,
    border_leniency: float = BORDER_LENIENCY,
    allocate: Allocate = in_memory,
    weights: Sequence[float] = (1, 1, 1),
    tell: Tell = ignore_progress,
) -> FlowSegmentation:
    """Find the objects that averaged flows (3, Z, Y, X) of cubes lead to.

    As `dynamics.segment_flows`, and: objects end where the probability has fallen to `options.surface_level` of what it
    is inside them; those of less than `options.min_volume` of the median volume are dropped; flows are judged by
    `composed_flows` and may differ by twice `options.largest_flow_error()`, at the border by
    three quarters of `border_leniency` times that. step: length of a step in voxels; allocate: makes large arrays;
    weights: of the directions that the flows were averaged over; tell: called with the part that is done.
    """
    smallest, threshold = max(1, options.min_size), options.probability_threshold
    labels = find_basins(flow, probability, threshold, step, STEPS, smallest, allocate, subrange(tell, 0, 0.4))
    labels = keep_largest_piece(labels)
    tell(0.5)
    labels = keep_largest_piece(trim_surfaces(select(labels, areas(labels) >= smallest), probability, options))
    labels = fill_small_holes(select(labels, not_small(labels, options)), smallest)
    own = composed_flows(labels, allocate, weights, subrange(tell, 0.6, 0.9))
    found = FlowSegmentation(labels, flow_errors(labels, flow, own))
    return judge(found, _LENIENCE * options.largest_flow_error(), max(1.0, _BORDER * border_leniency))


def not_small(labels: NDArray[np.int32], options: Options) -> NDArray[np.bool_]:
    """Which objects (N,) have `options.min_size` voxels and `options.min_volume` of the median volume."""
    size = areas(labels)
    wanted = size >= max(1, options.min_size)
    return wanted & (size >= options.min_volume * np.median(size[wanted])) if wanted.any() else wanted


def trim_surfaces(labels: NDArray[np.int32], probability: NDArray[np.float32], options: Options) -> NDArray[np.int32]:
    """Set voxels to background whose probability is below a part of what is usual inside their object.

    At an object's top and bottom, slices across z cannot see where it ends, and the light of a microscope does not end
    there either; so the mean over three directions falls off slowly. What is usual is the 90th percentile.

    >>> probability = np.array([[[0.6, 0.9, 1.0, 1.0, 0.8]]], np.float32)
    >>> trim_surfaces(np.ones((1, 1, 5), np.int32), probability, Options(surface_level=0.7))
    array([[[0, 1, 1, 1, 1]]], dtype=int32)
    """
    usual = _percentile_of_objects(labels.ravel(), probability.ravel(), int(labels.max(initial=0)), 0.9)
    limits = (options.surface_level * usual).astype(np.float32)
    return np.where(probability >= limits[labels], labels, 0)


@numba.njit(nogil=True, cache=True)
def _percentile_of_objects(labels, probability, largest, part):  # type: ignore[no-untyped-def]
    """Percentile (0..1) of each object's probabilities, (largest + 1,), to a 64th."""
    counts = np.zeros((largest + 1, _BINS), np.int64)
    for i in range(labels.size):
        if labels[i] > 0:
            counts[labels[i], min(int(probability[i] * _BINS), _BINS - 1)] += 1
    result = np.zeros(largest + 1)
    for label in range(1, largest + 1):
        total, below = counts[label].sum(), 0
        for k in range(_BINS):
            below += counts[label, k]
            if below >= part * total:
                result[label] = (k + 1) / _BINS
                break
    return result
