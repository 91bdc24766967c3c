"""Small annotated volumes: bright ellipsoids, and cells with a nucleus inside; blurred, most of all along z."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from cellbasin.generator.fluorescence import brightness, solid
from cellbasin.generator.layout import place, relax
from cellbasin.generator.noise import Field, between, blur, fractal_noise, photon_camera
from cellbasin.generator.paint import Labels, tidy
from cellbasin.generator.sample import Sample, check_size

_NUCLEUS = 0.55  # diameter of a cell's nucleus, by the cell's


def _draw(
    rng: Generator, shape: tuple[int, int, int], centre: NDArray, size: NDArray, step: NDArray
) -> tuple[Labels, Field]:
    """Ellipsoids of diameters `size` (N,) at `centre` (N, 3), both in px; `step` (3,): px per voxel."""
    labels, depth = np.zeros(shape, np.int32), np.full(shape, 9.0, np.float32)
    for k, (middle, across) in enumerate(zip(centre, size, strict=True)):
        axes = np.exp(rng.normal(0, 0.15, 3))
        axes *= across / 2 / np.prod(axes) ** (1 / 3)
        turn = np.linalg.qr(rng.standard_normal((3, 3)))[0] / axes[None]
        low = np.maximum(0, np.floor((middle - axes.max()) / step)).astype(int)
        high = np.minimum(shape, np.ceil((middle + axes.max()) / step) + 1).astype(int)
        if np.any(low >= high):
            continue
        window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        grid = np.stack(np.meshgrid(*[np.arange(a, b) for a, b in zip(low, high, strict=True)], indexing="ij"), axis=-1)
        own = np.linalg.norm((grid * step - middle) @ turn, axis=-1).astype(np.float32)
        nearer = (own < 1) & (own < depth[window])
        depth[window][nearer] = own[nearer]
        labels[window][nearer] = k + 1
    return labels, depth


def generate_volume(
    shape: tuple[int, int, int] = (32, 128, 128),
    *,
    diameter: float = 18.0,
    count: int | None = None,
    density: float = 0.2,
    anisotropy: float = 1.0,
    seed: int = 0,
    what: Literal["nuclei", "cells"] = "nuclei",
) -> Sample:
    """Draw one annotated volume of fluorescent nuclei or whole cells; the same arguments give the same voxels.

    shape: (Z, Y, X) · diameter: median volume-equivalent diameter, px of y and x · count: how many nuclei ·
    density: part of the volume, 0..1, if there is no count · anisotropy: distance of two planes, in px of y
    and x · seed: 0 or more · what: "nuclei", or "cells" with channels for cytoplasm and nucleus.

    Returns a Sample of kind "volume": image (1 or 2, Z, Y, X) uint16, labels int32 (Z, Y, X), 26-connected.
    Raises ValueError for a bad shape, diameter, density or anisotropy, something else than nuclei or cells, or more
    objects than fit.

    >>> sample = generate_volume((12, 40, 40), diameter=12, seed=1)
    >>> sample.image.shape, sample.axes, bool(sample.labels.max() > 0)
    ((1, 12, 40, 40), 'CZYX', True)
    """
    check_size(shape, 3, diameter)
    if not 0 < anisotropy < np.inf or not 0 <= density <= 1:
        raise ValueError(f"anisotropy={anisotropy}, density={density}: expected a positive number, and 0 to 1")
    if what not in ("nuclei", "cells"):
        raise ValueError(f"what={what!r}: expected nuclei or cells")
    rng = np.random.default_rng([seed, 2000])
    step = np.array([anisotropy, 1.0, 1.0])
    extent = np.asarray(shape) * step
    room = np.prod(extent + 0.5 * diameter) / (np.pi / 6 * diameter**3)
    number = int(np.ceil(density * room)) if count is None else count
    if not 0 <= number <= max(1, room):
        raise ValueError(f"count={number}: expected 0 to {max(1, int(room))} nuclei of diameter {diameter:g} px")
    centre = place(rng, extent.tolist(), number, 0.25 * diameter, between(rng, 0, 1), diameter)
    size = diameter * np.exp(0.12 * np.clip(rng.standard_normal(number), -2, 2))
    bounds = np.stack([np.full(3, -0.25 * diameter), extent + 0.25 * diameter])
    centre, _ = relax(centre, None, np.zeros(number), 0.48 * size, bounds)
    drawn, depth = _draw(rng, shape, centre, size, step)
    labels, old = tidy(drawn)
    parts = [solid(depth, between(rng, 0.03, 0.15))]
    if what == "cells":
        nucleus = solid(depth / np.float32(_NUCLEUS), between(rng, 0.03, 0.15))
        parts = [parts[0] * (1 - 0.5 * nucleus), nucleus]
    names = ("nuclei",) if what == "nuclei" else ("cytoplasm", "nuclei")
    image = np.stack([_lit(rng, part, labels, len(old), diameter, anisotropy) for part in parts])
    return Sample(photon_camera(rng, image), labels, "volume", float(diameter), "CZYX", names, seed)


def _lit(rng: Generator, body: Field, labels: Labels, number: int, diameter: float, anisotropy: float) -> Field:
    """What a confocal microscope shows of glowing bodies (Z, Y, X): texture, blur (thrice as wide along z), haze."""
    level = np.r_[0.0, brightness(rng, number)].astype(np.float32)[labels]
    texture = np.clip(1 + between(rng, 0, 0.3) * fractal_noise(rng, labels.shape, 0.3 * diameter), 0.2, None)
    sigma = between(rng, 0.5, 1)
    signal = ndimage.gaussian_filter(body * level * texture, (3 * sigma / anisotropy, sigma, sigma), mode="nearest")
    haze = between(rng, 0, 0.25) * blur(signal, 0.5 * diameter) + between(rng, 0.02, 0.2)
    return np.asarray(signal + haze, np.float32)
