"""What a segmentation returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """Labels, the maps they come from, a table of the objects, and how all of it was made.

    labels: int32 (Y, X), 0 = background, 1..N. flow: float32 (2, Y, X), about unit vectors inside cells, (y, x).
    probability: float32 (Y, X) of being inside a cell. style: float32 (S,). diameter: pixels, the one used.
    objects: columns of N entries: label, area (px), centre_y, centre_x, box_y0, box_x0, box_y1, box_x1 (end exclusive),
    mean_probability, flow_error, touches_border, and where the model was calibrated for it confidence: the probability
    that the object's IoU with a true one is at least 0.5 (`confidence.py`). provenance: program, version, model,
    sha256, engine, precision, options, seconds.
    """

    labels: np.ndarray
    flow: np.ndarray
    probability: np.ndarray
    style: np.ndarray
    diameter: float
    objects: Mapping[str, np.ndarray]
    provenance: Mapping[str, Any]

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.objects["label"])


def object_table(labels: np.ndarray, probability: np.ndarray, flow_error: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of `Segmentation.objects` for labels (Y, X) numbered 1..N and one flow error each (N,)."""
    from cellbasin.labels import areas, boxes, touches_border

    count = len(flow_error)
    flat = labels.ravel()
    area = areas(labels).astype(np.int64)
    size = np.maximum(area, 1)
    sums = np.bincount(flat, probability.ravel(), minlength=count + 1)[1:]
    rows, columns = (_position_sums(labels, axis, count) for axis in (0, 1))
    box = boxes(labels).reshape(count, 2, 2)
    return {
        "label": np.arange(1, count + 1, dtype=np.int32),
        "area": area,
        "centre_y": rows / size,
        "centre_x": columns / size,
        "box_y0": box[:, 0, 0],
        "box_x0": box[:, 1, 0],
        "box_y1": box[:, 0, 1],
        "box_x1": box[:, 1, 1],
        "mean_probability": sums / size,
        "flow_error": flow_error.astype(np.float64),
        "touches_border": touches_border(labels),
    }


def _position_sums(labels: np.ndarray, axis: int, count: int) -> np.ndarray:
    shape = [1, 1]
    shape[axis] = -1
    position = np.broadcast_to(np.arange(labels.shape[axis], dtype=np.float64).reshape(shape), labels.shape)
    return np.bincount(labels.ravel(), position.ravel(), minlength=count + 1)[1:]
