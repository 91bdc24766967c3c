"""Sample data: images, a volume and a time series that the generator draws when they are asked for; no files."""

from __future__ import annotations

from typing import Any

import numpy as np

from cellbasin.generator import generate, generate_volume

from .results import LayerData

_STEPS, _DRIFT = 6, 12  # of the time series: frames, and pixels that the field moves from one to the next


def nuclei() -> list[LayerData]:
    """Fluorescent nuclei."""
    sample = generate("nuclei", (384, 384), diameter=28, seed=11)
    return [(sample.image[0], {"name": "nuclei", "axis_labels": ("y", "x")}, "image")]


def cells_and_nuclei() -> list[LayerData]:
    """Whole cells and their nuclei, a layer each."""
    sample = generate("cytoplasm", (384, 384), diameter=36, seed=5)
    shown: dict[str, Any] = {"blending": "additive", "axis_labels": ("y", "x")}
    return [
        (sample.image[0], {"name": "cytoplasm", "colormap": "green", **shown}, "image"),
        (sample.image[1], {"name": "nuclei of the cells", "colormap": "blue", **shown}, "image"),
    ]


def phase() -> list[LayerData]:
    """Cells in phase contrast."""
    sample = generate("phase", (384, 384), diameter=40, seed=2)
    return [(sample.image[0], {"name": "phase contrast", "axis_labels": ("y", "x")}, "image")]


def tissue() -> list[LayerData]:
    """Tissue whose two channels are one layer."""
    sample = generate("tissue", (384, 384), diameter=30, seed=7)
    return [(sample.image, {"name": "tissue", "axis_labels": ("c", "y", "x")}, "image")]


def volume() -> list[LayerData]:
    """Nuclei in a volume whose planes are further apart than its pixels."""
    sample = generate_volume((24, 128, 128), diameter=20, anisotropy=2, seed=3)
    told = {"scale": (1.0, 0.5, 0.5), "units": ("micrometer",) * 3, "axis_labels": ("z", "y", "x")}
    return [(sample.image[0], {"name": "nuclei in 3D", **told}, "image")]


def series() -> list[LayerData]:
    """A field of nuclei that drifts."""
    side = 256
    field = generate("nuclei", (side + _STEPS * _DRIFT,) * 2, diameter=26, seed=10).image[0]
    frames = np.stack([field[k : k + side, k : k + side] for k in range(0, _STEPS * _DRIFT, _DRIFT)])
    return [(frames, {"name": "drifting nuclei", "axis_labels": ("t", "y", "x")}, "image")]
