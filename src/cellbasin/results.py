"""What a segmentation returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cellbasin.label_kernels import position_sums, value_sums
from cellbasin.labels import areas, boxes, select, touches_border


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """Labels, the maps they come from, a table of the objects, and how all of it was made.

    labels: int32 ([Z,] Y, X), 0 = background, 1..N. flow: float32 (D, [Z,] Y, X), about unit vectors inside cells,
    components (z) y x, in volumes as if voxels were cubes. probability: float32 ([Z,] Y, X) of being inside a cell.
    style: float32 (S,). diameter: pixels of y and x, the one used. objects: columns of N entries: label, area (px, in
    volumes voxels), centre_z, centre_y, centre_x, box_z0, box_y0, box_x0, box_z1, box_y1, box_x1 (px, end exclusive; z
    in volumes only), mean_probability, flow_error, touches_border, and where the model was calibrated for it
    confidence: the probability that the object's IoU with a true one is at least 0.5 (`confidence.py`; images and
    volumes of one plane only).
    provenance: program, version, models (name, sha256 and precision), engine, precision, options, image, seconds, and
    more; of an image or a volume of one plane novelty: how far its style is from those learned from, and whether that
    is unlike them (`novelty.py`); of a volume anisotropy and anisotropy_source.

    >>> labels, flow = np.ones((4, 5), np.int32), np.zeros((2, 4, 5), np.float32)
    >>> objects = {"label": np.array([1])}
    >>> found = Segmentation(labels, flow, np.ones((4, 5), np.float32), np.zeros(256), 5.0, objects, {})
    >>> len(found)
    1
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

    def only(self, wanted: np.ndarray) -> Segmentation:
        """The wanted objects, bool (N,), renumbered 1.. without gaps; maps and provenance stay.

        Raises ValueError for anything but one yes or no for each object.

        >>> from cellbasin import load_model
        >>> from cellbasin.generator import generate
        >>> found = load_model().segment(generate("nuclei", (96, 96), seed=1).image[0], diameter=30)
        >>> inside = found.only(~found.objects["touches_border"])
        >>> bool(inside.objects["touches_border"].any()), len(inside) == int(inside.labels.max())
        (False, True)
        """
        wanted = np.asarray(wanted)
        if wanted.shape != (len(self),) or wanted.dtype != bool:
            raise ValueError(
                f"found wanted of shape {wanted.shape} and dtype {wanted.dtype}; expected ({len(self)},) and bool, one "
                "yes or no for each object"
            )
        objects = {name: column[wanted] for name, column in self.objects.items()}
        objects["label"] = np.arange(1, wanted.sum() + 1, dtype=np.int32)
        return replace(self, labels=select(self.labels, wanted), objects=objects)


def object_table(labels: np.ndarray, probability: np.ndarray, flow_error: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of `Segmentation.objects` for labels ([Z,] Y, X) numbered 1..N and one flow error each (N,)."""
    places, count = place_table(labels), len(flow_error)
    at_border = places.pop("touches_border")
    return places | {
        "mean_probability": value_sums(labels.ravel(), probability.ravel(), count)[1:] / np.maximum(places["area"], 1),
        "flow_error": flow_error.astype(np.float64),
        "touches_border": at_border,
    }


def place_table(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of `Segmentation.objects` that labels ([Z,] Y, X) numbered 1..N tell by themselves."""
    axes, area = "zyx"[-labels.ndim :], areas(labels).astype(np.int64)
    count = len(area)
    box = boxes(labels).reshape(count, labels.ndim, 2)
    ends = [f"box_{axis}{end}" for end in (0, 1) for axis in axes]
    table: dict[str, np.ndarray] = {"label": np.arange(1, count + 1, dtype=np.int32), "area": area}
    sums = position_sums(labels.reshape((1,) * (3 - labels.ndim) + labels.shape), count)[1:].T
    table |= {f"centre_{axis}": sums["zyx".index(axis)] / np.maximum(area, 1) for axis in axes}
    table |= dict(zip(ends, box.transpose(2, 1, 0).reshape(2 * labels.ndim, count), strict=True))
    # The only plane of a volume has no border along z: it is an image.
    return table | {"touches_border": touches_border(labels, range(int(labels.shape[:-2] == (1,)), labels.ndim))}
