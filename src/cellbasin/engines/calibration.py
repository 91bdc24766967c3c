"""int8 ranges: measured after training on training crops, kept in the card of the weights file."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from cellbasin.engines.graph import build_graph, probe_graph
from cellbasin.engines.protocol import check_tiles
from cellbasin.parallel import Tell, ignore_progress, thread_count
from cellbasin.weights import Weights

COVERED = 0.99999  # of all values of an activation lie inside its range
TOLERANCE = 1e-5  # of the maps' variance may be the error of one int8 convolution; bf16 as a whole has about that
SMALLEST = 1e-6  # range, for activations that are always 0
JUDGED = 16  # crops on which each convolution's error is measured


def calibrate(
    weights: Weights,
    crops: NDArray[np.float32],
    *,
    tolerance: float = TOLERANCE,
    tell: Tell = ignore_progress,
) -> dict[str, float]:
    """The ranges for `Card.ranges`: {convolution: upper end of its input} for each convolution that int8 suits.

    crops: (N, inputs, Y, X) float32, a few hundred normalised crops as in training. A convolution whose int8 form
    alone, on some of the crops, changes flows or logit by more than `tolerance` of their variance is left out and
    stays in bf16 or float32; these are the first ones, whose inputs have long tails. tell is told the part done.
    Takes a minute or two. Raises ValueError for crops of another shape or dtype, or none.
    """
    check_tiles(crops, weights.card.architecture)
    if not len(crops):
        raise ValueError("found no crops to calibrate on: expected a few hundred")
    ranges = _measure(weights, crops, tell)
    judged = crops[:: max(1, len(crops) // JUDGED)]
    expected = _maps(weights, {}, judged)
    kept: dict[str, float] = {}
    for n, (name, high) in enumerate(ranges.items()):
        error = _error(_maps(weights, {name: high}, judged), expected)
        if error <= tolerance:
            kept[name] = high
        tell(0.5 + 0.5 * (n + 1) / len(ranges))
    return kept


def _measure(weights: Weights, crops: NDArray[np.float32], tell: Tell) -> dict[str, float]:
    """Ranges that cover nearly all values of each activation.

    The upper half of a float32's bits without the sign is the bin of its histogram: logarithmic, 0.8 % fine.
    """
    model, names = probe_graph(weights)
    request = _compile(model).create_infer_request()
    counts = np.zeros((len(names), 1 << 15), np.int64)
    for n, crop in enumerate(crops):
        request.infer({0: crop[None]})
        for k in range(len(names)):
            bits = request.get_output_tensor(2 + k).data.ravel().view(np.uint32)
            counts[k] += np.bincount((bits >> 16) & 0x7FFF, minlength=1 << 15)
        tell(0.5 * (n + 1) / len(crops))
    uppers = (np.arange(1, (1 << 15) + 1, dtype=np.uint32) << 16).view(np.float32)
    covered = np.cumsum(counts, axis=1) >= COVERED * counts.sum(axis=1, keepdims=True)
    return {name: max(float(uppers[row.argmax()]), SMALLEST) for name, row in zip(names, covered, strict=True)}


def _maps(weights: Weights, ranges: Mapping[str, float], crops: NDArray[np.float32]) -> NDArray[np.float32]:
    request = _compile(build_graph(weights, ranges)).create_infer_request()
    maps = []
    for crop in crops:
        request.infer({0: crop[None]})
        maps.append(request.get_output_tensor(0).data[0].copy())
    return np.stack(maps)


def _compile(model: ov.Model) -> ov.CompiledModel:
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": thread_count()}
    return ov.Core().compile_model(model, "CPU", options)


def _error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """The larger of the relative errors (variances) of flow and logit."""
    squared = (found - expected) ** 2
    parts = (slice(0, -1), slice(-1, None))
    return max(float(squared[:, part].mean() / max(expected[:, part].var(), 1e-12)) for part in parts)
