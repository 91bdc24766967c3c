"""From flows to labels: every pixel follows the flow, and pixels that end at the same place are one object.

Paper, Methods, "Mask recovery from vector flows" and "Mask quality threshold".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from cellbasin.basins import find_basins
from cellbasin.flows import quick_flows
from cellbasin.labels import areas, fill_small_holes, keep_largest_piece, select, touches_border
from cellbasin.options import FLOW_THRESHOLD, MIN_SIZE, PROBABILITY_THRESHOLD
from cellbasin.parallel import Tell, ignore_progress, subrange

# What the border cuts off is known to the network, not to the shape (validation AP@0.5 .745 → .772 over images).
BORDER_LENIENCY = 2.0
STEPS = 200  # of a pixel's way, at most (paper)


@dataclass(frozen=True, slots=True, eq=False)
class FlowSegmentation:
    """Objects found by following flows.

    labels: int32 (*spatial); 1..N without gaps, each one connected piece. flow_errors: float64 (N,), entry i belongs to
    label i + 1: mean over its pixels of the squared difference between the given flow and that of its shape.
    """

    labels: NDArray[np.int32]
    flow_errors: NDArray[np.float64]


def flows_to_labels(
    flow: NDArray[np.float32],
    probability: NDArray[np.float32],
    *,
    probability_threshold: float = PROBABILITY_THRESHOLD,
    flow_threshold: float | None = FLOW_THRESHOLD,
    min_size: int = MIN_SIZE,
    step: float = 1.0,
    steps: int = STEPS,
) -> NDArray[np.int32]:
    """Return the labels that flows lead to, int32 of probability's shape; see `segment_flows`.

    >>> from cellbasin.flows import labels_to_flows
    >>> labels = np.zeros((20, 40), np.int32)
    >>> labels[2:18, 2:20], labels[2:18, 20:38] = 1, 2
    >>> found = flows_to_labels(labels_to_flows(labels), (labels > 0).astype(np.float32))
    >>> bool((found == labels).all())
    True
    """
    return segment_flows(
        flow,
        probability,
        probability_threshold=probability_threshold,
        flow_threshold=flow_threshold,
        min_size=min_size,
        step=step,
        steps=steps,
    ).labels


def segment_flows(  # noqa: PLR0913
    flow: NDArray[np.float32],
    probability: NDArray[np.float32],
    *,
    probability_threshold: float = PROBABILITY_THRESHOLD,
    flow_threshold: float | None = FLOW_THRESHOLD,
    min_size: int = MIN_SIZE,
    step: float = 1.0,
    steps: int = STEPS,
    own_flows: Callable[[NDArray[np.int32], Tell], NDArray[np.float32]] = quick_flows,
    tell: Tell = ignore_progress,
) -> FlowSegmentation:
    """Find the objects that flows lead to (paper, Methods, "Mask recovery from vector flows").

    Pixels more probable than the threshold take Euler steps along the flow, which is interpolated between the pixels
    inside; a pixel whose direction turns back halves its step, and it stops once it has arrived. Neighbouring places
    where at least three pixels end are one basin, and the pixels that end in one basin are one object. Of each object
    the largest connected piece is kept, holes smaller than `min_size` are filled, and it is dropped if it is smaller
    than `min_size` or if its own flow differs too much from the given one.

    Parameters
    ----------
    flow : (D, *spatial), components in the order (z) y x, about unit vectors inside objects.
    probability : (*spatial) 0..1, of being inside an object.
    probability_threshold : only pixels above it belong to objects.
    flow_threshold : largest mean squared difference from the flow of the object's shape, for objects at the image's
        border, whose centre may lie beyond it, times `BORDER_LENIENCY`; None keeps all objects.
    min_size : pixels of the smallest object.
    step : length of a step in pixels: 1 for objects of 30 pixels, for larger ones diameter / 30.
    steps : largest number of steps.
    own_flows : makes the flow (D, *spatial) of the shapes of labels, with which the given one is compared; tells too.
    tell : called with the part 0..1 that is done; what it raises ends the work.

    Raises
    ------
    ValueError for shapes that do not fit together, values that are not finite, or numbers out of range.

    The result does not depend on the number of threads, and time and memory grow with the number of pixels.

    >>> from cellbasin.flows import labels_to_flows
    >>> labels = np.pad(np.ones((9, 9), np.int32), 3)
    >>> result = segment_flows(labels_to_flows(labels), (labels > 0).astype(np.float32))
    >>> result.flow_errors
    array([0.])
    """
    flow, probability = np.asarray(flow), np.asarray(probability)
    _check(flow, probability, min_size, step, steps)
    limit = np.inf if flow_threshold is None else flow_threshold
    if not (0 <= probability_threshold <= 1 and limit >= 0):
        raise ValueError(
            "expected a probability_threshold from 0 to 1 and a flow_threshold from 0 on, or None; "
            f"found {probability_threshold} and {flow_threshold}"
        )
    if probability.size == 0:
        return FlowSegmentation(np.zeros(probability.shape, np.int32), np.zeros(0))
    flow = np.ascontiguousarray(flow, np.float32)
    probability = np.ascontiguousarray(probability, np.float32)
    first, second = subrange(tell, 0, 0.5), subrange(tell, 0.5, 1)
    labels = find_basins(flow, probability, probability_threshold, step, steps, min_size, tell=first)
    labels = keep_largest_piece(labels)
    labels = fill_small_holes(select(labels, areas(labels) >= max(min_size, 1)), min_size)
    errors = flow_errors(labels, flow, own_flows(labels, second))
    return judge(FlowSegmentation(labels, errors), limit)


def judge(found: FlowSegmentation, limit: float, border_leniency: float = BORDER_LENIENCY) -> FlowSegmentation:
    """Keep the objects whose flow error is not above the limit, at the border a multiple of it."""
    return keep(found, flows_fit(found, limit, border_leniency))


def flows_fit(found: FlowSegmentation, limit: float, border_leniency: float = BORDER_LENIENCY) -> NDArray[np.bool_]:
    """Which objects (N,) have a flow error not above the limit, at the border a multiple of it; infinite: all."""
    if limit == np.inf:
        return np.ones(len(found.flow_errors), bool)
    at_border = touches_border(found.labels, range(found.labels.ndim))
    return found.flow_errors <= limit * np.where(at_border, border_leniency, 1.0)


def keep(found: FlowSegmentation, wanted: NDArray[np.bool_]) -> FlowSegmentation:
    """The wanted objects (N,), renumbered without gaps."""
    return found if wanted.all() else FlowSegmentation(select(found.labels, wanted), found.flow_errors[wanted])


def flow_errors(
    labels: NDArray[np.int32], flow: NDArray[np.float32], own: NDArray[np.float32] | None = None
) -> NDArray[np.float64]:
    """Return how much flows differ from those of the labels' shapes (paper, Methods, "Mask quality threshold").

    Parameters
    ----------
    labels : integers (*spatial), 1..N and 0 for background.
    flow : float (D, *spatial).
    own : float (D, *spatial), flows of the labels' shapes; those of `quick_flows` when None.

    Returns
    -------
    float64 (N,): for label i + 1 the mean over its pixels of the squared length of the difference; 0 for labels
    that do not occur.

    >>> flow_errors(np.array([[1, 1]]), np.array([[[0, 0]], [[1, -1]]], np.float32))
    array([0.])
    """
    if flow.shape != (labels.ndim, *labels.shape):
        raise ValueError(f"flow of shape {flow.shape} does not fit labels of shape {labels.shape}")
    own = quick_flows(labels) if own is None else own
    sums, counts = _squared_differences(
        labels.reshape(-1).astype(labels.dtype.newbyteorder("="), copy=False),
        np.asarray(own, np.float32).reshape(labels.ndim, -1),
        np.asarray(flow, np.float32).reshape(labels.ndim, -1),
        int(labels.max(initial=0)),
    )
    return sums[1:] / np.maximum(counts[1:], 1)


def _check(flow: NDArray, probability: NDArray, min_size: int, step: float, steps: int) -> None:
    if probability.ndim not in (2, 3) or flow.shape != (probability.ndim, *probability.shape):
        raise ValueError(
            f"expected flow (2, Y, X) with probability (Y, X), or (3, Z, Y, X) with (Z, Y, X); "
            f"found {flow.shape} with {probability.shape}"
        )
    if not (min_size >= 0 and np.isfinite(step) and step > 0 and steps >= 1):
        raise ValueError(
            f"expected min_size >= 0, step > 0 and steps >= 1; found min_size {min_size}, step {step}, steps {steps}"
        )


@numba.njit(nogil=True, cache=True)
def _squared_differences(labels, first, second, largest):  # type: ignore[no-untyped-def]
    sums, counts = np.zeros(largest + 1), np.zeros(largest + 1, np.int64)
    for i in range(labels.size):
        label = labels[i]
        if label > 0:
            counts[label] += 1
            for axis in range(first.shape[0]):
                sums[label] += (float(first[axis, i]) - float(second[axis, i])) ** 2
    return sums, counts
