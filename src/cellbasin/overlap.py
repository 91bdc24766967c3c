"""Pixels that the objects of two label images share, as a sparse table: what every score starts from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellbasin.labels import relabel


@dataclass(frozen=True, eq=False)
class Overlap:
    """Pixels that true and predicted objects share, as a sparse table of K pairs.

    Attributes
    ----------
    true_labels : (T,) int64, label values of the true objects, ascending.
    predicted_labels : (P,) int64, of the predicted objects that count.
    true_areas : (T,) int64, pixels of the true objects.
    predicted_areas : (P,) int64, pixels of the predicted objects outside of what is ignored.
    true_index : (K,) int64, position in `true_labels` of every pair.
    predicted_index : (K,) int64, position in `predicted_labels` of every pair.
    pixels : (K,) int64, pixels in common, at least 1.
    """

    true_labels: NDArray[np.int64]
    predicted_labels: NDArray[np.int64]
    true_areas: NDArray[np.int64]
    predicted_areas: NDArray[np.int64]
    true_index: NDArray[np.int64]
    predicted_index: NDArray[np.int64]
    pixels: NDArray[np.int64]

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of every pair, (K,) float64 in 0..1; of all other pairs it is 0."""
        areas = self.true_areas[self.true_index] + self.predicted_areas[self.predicted_index]
        return self.pixels / (areas - self.pixels)


def overlap(truth: NDArray, predicted: NDArray, ignore: int | None = None) -> Overlap:
    """Count the pixels that true and predicted objects have in common; arguments as in `metrics.match`.

    >>> overlap(np.array([[1, 1, 8]]), np.array([[2, 2, 2]])).iou
    array([0.66666667, 0.33333333])
    """
    if np.shape(truth) != np.shape(predicted):
        raise ValueError(
            f"truth and predicted must have the same shape, found {np.shape(truth)} and {np.shape(predicted)}"
        )
    _check_integers(truth, "truth")
    _check_integers(predicted, "predicted")
    true_labels, true_flat = _numbered(truth if ignore is None else np.where(truth == ignore, 0, truth))
    predicted_labels, predicted_flat = _numbered(predicted)
    if ignore is not None:
        predicted_labels, predicted_flat = _without_ignored(
            predicted_labels, predicted_flat, np.reshape(truth == ignore, -1)
        )
    keys, counts = _runs(true_flat, predicted_flat, len(predicted_labels) + 1)
    pairs, positions = np.unique(keys, return_inverse=True)
    return Overlap(
        true_labels,
        predicted_labels,
        np.bincount(true_flat, minlength=len(true_labels) + 1)[1:],
        np.bincount(predicted_flat, minlength=len(predicted_labels) + 1)[1:],
        pairs // (len(predicted_labels) + 1) - 1,
        pairs % (len(predicted_labels) + 1) - 1,
        np.bincount(positions, counts, minlength=len(pairs)).astype(np.int64),
    )


def _check_integers(labels: NDArray, name: str) -> None:
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
        found = f"an array of {labels.dtype}" if isinstance(labels, np.ndarray) else type(labels).__name__
        raise TypeError(f"{name} must be a numpy array of integers, found {found}")


def _numbered(labels: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Label values of the objects, ascending, and the pixels as numbers 1..N of these, flat."""
    numbers = relabel(labels.reshape(1, -1)).reshape(-1)
    values = np.zeros(int(numbers.max(initial=0)) + 1, np.int64)
    values[numbers] = labels.reshape(-1)
    return values[1:], numbers


def _without_ignored(
    values: NDArray[np.int64], numbers: NDArray[np.int32], ignored: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Drop predicted objects with half or more of their pixels ignored, and the others' ignored pixels."""
    whole = np.bincount(numbers, minlength=len(values) + 1)
    lost = np.bincount(numbers[ignored], minlength=len(values) + 1)
    kept = 2 * lost < whole
    kept[0] = False
    lut = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    return values[kept[1:]], np.where(ignored, np.int32(0), lut[numbers])


@njit(nogil=True, cache=True)
def _runs(
    true: NDArray[np.int32], predicted: NDArray[np.int32], width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Key (true · width + predicted) and length of every run of pixels inside the same two objects."""
    count = 0
    last = 0
    for i in range(true.size):
        key = np.int64(true[i]) * width + predicted[i] if true[i] > 0 and predicted[i] > 0 else 0
        if key != last and key != 0:
            count += 1
        last = key
    keys, lengths = np.zeros(count, np.int64), np.zeros(count, np.int64)
    count, last = 0, 0
    for i in range(true.size):
        key = np.int64(true[i]) * width + predicted[i] if true[i] > 0 and predicted[i] > 0 else 0
        if key != last and key != 0:
            keys[count] = key
            count += 1
        if key != 0:
            lengths[count - 1] += 1
        last = key
    return keys, lengths
