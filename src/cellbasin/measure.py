"""Measurements of objects: shape, and intensity in every channel, in pixels and in µm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cellbasin.labels import areas, boxes

if TYPE_CHECKING:
    from cellbasin.image import Image  # for the annotation alone


def measure_shapes(labels: NDArray[np.int32], voxel_size: tuple[float, ...] | None = None) -> dict[str, NDArray]:
    """Shape of every object of a 2D label image, one column an entry.

    labels: int32 (Y, X), 1..N, not modified. voxel_size: µm (y, x), adds columns in µm; lengths only where pixels are
    square. Returned, each float64 (N,): equivalent_diameter (of the circle of the same area), perimeter (with holes,
    Crofton's formula in four directions), major_axis, minor_axis and orientation (ellipse of the same second moments;
    radians from the x axis towards y), eccentricity (of that ellipse, 0 for a circle), solidity (area over that of the
    convex hull of the pixels' corners). Raises ValueError for volumes.

    >>> square = np.pad(np.ones((4, 4), np.int32), 1)
    >>> shapes = measure_shapes(square)
    >>> float(shapes["perimeter"][0].round(2)), float(shapes["solidity"][0]), float(shapes["eccentricity"][0])
    (14.06, 1.0, 0.0)
    """
    from cellbasin.measure_kernels import hull_areas, perimeters

    if labels.ndim != 2:
        raise ValueError(f"found labels of shape {labels.shape}, expected (Y, X): shapes of volumes are not measured")
    count = int(labels.max(initial=0))
    labels = np.ascontiguousarray(labels, np.int32)
    area = areas(labels).astype(np.float64)
    present = np.maximum(area, 1)
    box = boxes(labels).reshape(count, 2, 2)
    columns = {
        "equivalent_diameter": np.sqrt(4 / np.pi * area),
        "perimeter": perimeters(labels, count),
        **_ellipses(labels, count, present),
        "solidity": area / np.maximum(hull_areas(labels, box[:, 0, 0], box[:, 0, 1]), 1),
    }
    if voxel_size is not None:
        columns["area_um2"] = area * (voxel_size[0] * voxel_size[1])
        if np.isclose(voxel_size[0], voxel_size[1], rtol=1e-3):
            lengths = ("equivalent_diameter", "perimeter", "major_axis", "minor_axis")
            columns |= {f"{name}_um": columns[name] * voxel_size[0] for name in lengths}
    return columns


def measure_volumes(labels: NDArray[np.int32], voxel_size: tuple[float, ...] | None = None) -> dict[str, NDArray]:
    """Size of every object of a 3D label image in µm; nothing where the voxel size (z, y, x) is not known.

    labels: int32 (Z, Y, X), 1..N, not modified. Returned, each float64 (N,): volume_um3 and equivalent_diameter_um (of
    the ball of the same volume).

    >>> measure_volumes(np.ones((2, 3, 4), np.int32), (2.0, 0.5, 0.5))["volume_um3"]
    array([12.])
    """
    if voxel_size is None:
        return {}
    volume = areas(labels) * float(np.prod(voxel_size))
    return {"volume_um3": volume, "equivalent_diameter_um": np.cbrt(6 / np.pi * volume)}


def measure_intensities(labels: NDArray[np.int32], image: Image) -> dict[str, NDArray]:
    """Mean, standard deviation, least and highest value of every channel in every object.

    labels: int32 ([Z,] Y, X), 1..N; image: the same size, any number of channels; neither is modified. Returned, each
    float64 (N,): mean_0, std_0, min_0, max_0, mean_1, ... in the image's own units; NaN for labels that do not occur.
    Raises ValueError when the sizes differ.

    >>> from cellbasin.image import Image
    >>> image = Image(np.array([[1.0, 3.0, 9.0]]), "YX")
    >>> measure_intensities(np.array([[1, 1, 0]], np.int32), image)["mean_0"]
    array([2.])
    """
    from cellbasin.measure_kernels import extremes

    channels = image.channels_first
    if channels.shape[1:] != labels.shape:
        raise ValueError(f"found labels {labels.shape} and an image of {channels.shape[1:]}, expected one size")
    count = int(labels.max(initial=0))
    flat = np.ascontiguousarray(labels, np.int32).ravel()
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        area = np.bincount(flat, minlength=count + 1)[1:].astype(np.float64)
        columns: dict[str, NDArray] = {}
        for number, channel in enumerate(channels):
            values = np.ascontiguousarray(channel, np.float64).ravel()
            low, high = extremes(flat, values, count)
            # Without a power of two, which changes no digit, squares of numbers near the ends of float64 are lost.
            exponent = _exponent(np.concatenate([low, high]))
            values = np.ldexp(values, -exponent)
            mean = np.bincount(flat, values, minlength=count + 1)[1:] / area
            differences = (values - np.concatenate([[0.0], mean])[flat]) ** 2
            variance = np.bincount(flat, differences, minlength=count + 1)[1:] / area
            columns[f"mean_{number}"] = np.ldexp(mean, exponent)
            columns[f"std_{number}"] = np.ldexp(np.sqrt(variance), exponent)
            columns |= {f"min_{number}": low, f"max_{number}": high}
    return columns


def _exponent(values: NDArray[np.float64]) -> int:
    """The power of two above the largest of the finite values; 0 where there is none."""
    return int(np.frexp(np.abs(values[np.isfinite(values)]).max(initial=0.0))[1])


def _ellipses(labels: NDArray[np.int32], count: int, area: NDArray[np.float64]) -> dict[str, NDArray]:
    """Axes of the ellipses with the second moments of the objects' pixels, as scikit-image has them."""
    flat = labels.ravel()
    rows, columns = (
        np.broadcast_to(grid, labels.shape).ravel().astype(np.float64)
        for grid in np.ogrid[: labels.shape[0], : labels.shape[1]]
    )

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(flat, values, minlength=count + 1)[1:] / area

    centre_y, centre_x = mean(rows), mean(columns)
    dy, dx = rows - np.concatenate([[0.0], centre_y])[flat], columns - np.concatenate([[0.0], centre_x])[flat]
    yy, xx, xy = mean(dy * dy), mean(dx * dx), mean(dy * dx)
    middle, spread = (yy + xx) / 2, np.hypot((yy - xx) / 2, xy)
    longest, shortest = middle + spread, np.maximum(middle - spread, 0)
    return {
        "major_axis": 4 * np.sqrt(longest),
        "minor_axis": 4 * np.sqrt(shortest),
        "orientation": 0.5 * np.arctan2(2 * xy, xx - yy),
        "eccentricity": np.sqrt(np.maximum(1 - shortest / np.maximum(longest, 1e-12), 0)) * (longest > 0),
    }
