"""Looks of phase contrast: cells with halos, and neural cultures. Scene in, (1, Y, X) uint8 out."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from cellbasin.generator.fluorescence import solid
from cellbasin.generator.noise import Field, between, blur, fractal_noise, log_between
from cellbasin.generator.paint import Scene, inner_depth
from cellbasin.generator.transmitted import as_float, dirt, dome, finish, granules


def phase(rng: Generator, scene: Scene) -> NDArray:
    """Phase contrast: grey cells with grains, dark rims and bright halos, some rounded up and bright."""
    return _phase(rng, scene, np.zeros(scene.labels.shape, np.float32))


def culture(rng: Generator, scene: Scene) -> NDArray:
    """Phase contrast of a neural culture: cells among thin processes and dead bits that belong to no cell."""
    thin, thick = between(rng, 0.4, 0.9 + 0.02 * scene.diameter), scene.diameter * between(rng, 0.02, 0.06)
    clutter = between(rng, 0.1, 0.9) * _processes(rng, scene, between(rng, 0, 5), thin)
    clutter += between(rng, 0.1, 0.9) * _processes(rng, scene, between(rng, -1, 2), thick)
    return _phase(rng, scene, as_float(clutter + log_between(rng, 0.5, 3) * _dead(rng, scene)))


def _processes(rng: Generator, scene: Scene, each: float, width: float) -> Field:
    """Winding lines, most of them growing out of cells, fading to their ends: float32 (Y, X), 0..1.

    each: of a cell, on average, none if negative; width: px, the standard deviation across.
    """
    shape, diameter = scene.labels.shape, scene.diameter
    each = max(0.0, each)
    alone = between(rng, 0, 0.06) * each * shape[0] * shape[1] / diameter**2
    cells = np.repeat(scene.cells.centre, rng.poisson(each, len(scene.cells)), axis=0)
    place = np.concatenate([cells, rng.uniform(0, shape, (rng.poisson(alone), 2))])
    heading = rng.uniform(0, 2 * np.pi, len(place))
    bend = rng.gamma(1.0, between(rng, 0.08, 0.6) / np.sqrt(diameter), len(place))  # radians a pixel
    length = diameter * rng.gamma(2.0, between(rng, 0.5, 4), len(place))
    strength = rng.uniform(0.3, 1, len(place))
    lines = np.zeros(shape, np.float32)
    for step in range(int(length.max(initial=0))):
        row, column = place.round().astype(int).T
        seen = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1]) & (length > step)
        shown = strength * np.clip(2 - 2 * step / length, 0, 1)
        np.maximum.at(lines, (row[seen], column[seen]), shown[seen].astype(np.float32))
        heading += bend * rng.standard_normal(len(place))
        place = place + np.stack([np.sin(heading), np.cos(heading)], axis=1)
    return np.minimum(blur(lines, width) * np.float32(2.5 * width), 1)


def _dead(rng: Generator, scene: Scene) -> Field:
    """Dead cells and bits, round, smaller than cells, some hollow or in halos, alone or in heaps: (Y, X), -0.7..1."""
    shape, diameter = scene.labels.shape, scene.diameter
    number = rng.poisson(between(rng, 0, 0.35) * shape[0] * shape[1] / diameter**2)
    place, heaped = rng.uniform(0, shape, (number, 2)), rng.random(number) < between(rng, 0, 0.6)
    heap = rng.uniform(0, shape, (1 + number // 8, 2))[rng.integers(0, 1 + number // 8, number)]
    place = np.where(heaped[:, None], heap + rng.normal(0, 0.4 * diameter, (number, 2)), place)
    radius = diameter * between(rng, 0.12, 0.25) * np.clip(rng.lognormal(-0.2, 0.4, number), 0.2, 1.3)
    hollow, halo = max(0.0, between(rng, -0.5, 1)), max(0.0, between(rng, -0.3, 0.7))
    field = np.zeros(shape, np.float32)
    for middle, r in zip(place, radius, strict=True):
        low = np.maximum(0, np.floor(middle - 2 * r)).astype(int)
        high = np.minimum(shape, np.ceil(middle + 2 * r) + 1).astype(int)
        if np.any(low >= high):
            continue
        rows, columns = np.ogrid[low[0] : high[0], low[1] : high[1]]
        away = np.hypot(rows - middle[0], columns - middle[1]) / r
        bit = np.clip(1.2 - away**2, 0, 1) - hollow * np.exp(-((away / 0.4) ** 2))
        field[low[0] : high[0], low[1] : high[1]] += bit - halo * np.exp(-(((away - 1.4) / 0.3) ** 2))
    return np.clip(field, -0.7, 1)


def _phase(rng: Generator, scene: Scene, clutter: Field) -> NDArray:
    """Phase contrast of cells and of other things; clutter: their thickness, float32 (Y, X), a cell's is about 1;
    negative what is brighter than the ground.
    """
    shape, diameter = scene.labels.shape, scene.diameter
    round_up = scene.compact & (rng.random(scene.number) < between(rng, 0, 0.6))
    thick = scene.spread(np.where(round_up, between(rng, 1.2, 2.5), rng.uniform(0.25, 1, scene.number)))
    inside = solid(inner_depth(rng, scene, between(rng, 0.35, 0.5)), 0.3)
    body = dome(scene.depth, log_between(rng, 0.1, 0.8)) * thick + between(rng, -0.15, 0.25) * inside + clutter
    body = blur(as_float(body), between(rng, 0.4, 1.0))
    # The phase ring removes the low frequencies of what it shows: cells are darker than what surrounds them.
    low = blur(body, diameter * log_between(rng, 0.08, 0.35))
    image = -between(rng, 0.05, 0.5) * (body - between(rng, 0.7, 1) * low)
    mask = blur(as_float(np.maximum(solid(scene.depth, 0.15) * thick, clutter)), 0.5)
    rim = blur(mask, diameter * log_between(rng, 0.03, 0.1))
    image = image + log_between(rng, 0.4, 2.5) * np.clip(rim - mask, -0.3, 1.0)
    image = image + log_between(rng, 0.06, 0.5) * blur(granules(rng, scene), 0.6) * np.sqrt(thick)
    if rng.random() < 0.7:  # thick cells retard light by more than half a wave: there the contrast turns round
        lift = between(rng, 0.2, 0.8) * dome(scene.depth, 0.4)
        image = np.where(scene.spread(round_up) > 0, image + lift, image)
    grain = between(rng, 0, 0.02) * fractal_noise(rng, shape, 3)
    image = between(rng, 0.35, 0.6) + log_between(rng, 0.4, 1.6) * image + grain + 0.5 * dirt(rng, shape, diameter)
    return finish(rng, as_float(image), between(rng, 0, 0.25))
