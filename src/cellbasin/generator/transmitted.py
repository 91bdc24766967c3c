"""Looks of transmitted light and electrons: phase, DIC, particles. Scene in, (1, Y, X) uint8 out."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from cellbasin.generator.fluorescence import brightness, solid
from cellbasin.generator.noise import (
    Field,
    between,
    blur,
    fractal_noise,
    illumination,
    light_camera,
    log_between,
    smooth_noise,
    specks,
)
from cellbasin.generator.paint import Scene, inner_depth


def dome(depth: Field, power: float) -> Field:
    """Height of a cell: 1 at the centre, 0 at the edge; power 0.5 is a ball, lower ones are flatter.

    >>> dome(np.array([0.0, 1.0, 2.0], np.float32), 0.5).tolist()
    [1.0, 0.0, 0.0]
    """
    return np.maximum(1 - np.minimum(depth, 1) ** 2, 0) ** np.float32(power)


def _float(field: NDArray) -> Field:
    """As float32: arithmetic with Python numbers may have widened it."""
    return np.asarray(field, np.float32)


def _dirt(rng: Generator, shape: tuple[int, ...], diameter: float) -> Field:
    """Dust far out of focus and specks in focus, both signs: float32 (Y, X)."""
    area = shape[0] * shape[1] / diameter**2
    wide = specks(rng, shape, rng.poisson(0.004 * area), diameter * between(rng, 0.2, 0.7))
    small = specks(rng, shape, rng.poisson(between(rng, 0, 0.1) * area), between(rng, 0.7, 1.5))
    return between(rng, -0.12, 0.06) * wide + between(rng, -0.3, 0.3) * small


def _finish(rng: Generator, image: Field, unevenness: float) -> NDArray:
    """Light, then the camera."""
    return light_camera(rng, np.clip(image * illumination(rng, image.shape, unevenness), 0, 1.2)[None])


def _granules(rng: Generator, scene: Scene) -> Field:
    """Grains and organelles inside cells, more of them near the middle: float32 (Y, X), about 0."""
    shape, diameter = scene.labels.shape, scene.diameter
    fine = smooth_noise(rng, shape, max(1.3, diameter * between(rng, 0.03, 0.08)))
    coarse = smooth_noise(rng, shape, max(2.0, diameter * between(rng, 0.1, 0.25)))
    mixed = fine * np.clip(0.5 + 0.8 * coarse, 0, 2)
    return mixed * np.exp(-2 * np.minimum(scene.depth, 2) ** 2) * (scene.labels > 0)


def _slope(rng: Generator, height: Field) -> tuple[Field, Field]:
    """Slope of `height` towards a random side, and the steepest one: float32 (Y, X) each, px per px."""
    slope_y, slope_x = _gradient(height)
    angle = between(rng, 0, 2 * np.pi)
    towards = np.float32(np.sin(angle)) * slope_y + np.float32(np.cos(angle)) * slope_x
    return _float(towards), _float(np.hypot(slope_y, slope_x))


def _gradient(height: Field) -> tuple[Field, Field]:
    """Central differences along y and x, the edge repeated (an axis may be 1 px long): float32 (Y, X) each."""
    padded = np.pad(height, 1, mode="edge")
    slope_y, slope_x = padded[2:, 1:-1] - padded[:-2, 1:-1], padded[1:-1, 2:] - padded[1:-1, :-2]
    return _float(slope_y / 2), _float(slope_x / 2)


def phase(rng: Generator, scene: Scene) -> NDArray:
    """Phase contrast: grey cells with grains, dark rims and bright halos, some rounded up and bright."""
    return _phase(rng, scene, np.zeros(scene.labels.shape, np.float32))


def culture(rng: Generator, scene: Scene) -> NDArray:
    """Phase contrast of a neural culture: cells among thin processes and dead bits that belong to no cell."""
    thin, thick = between(rng, 0.4, 0.9 + 0.02 * scene.diameter), scene.diameter * between(rng, 0.02, 0.06)
    clutter = between(rng, 0.1, 0.9) * _processes(rng, scene, between(rng, 0, 5), thin)
    clutter += between(rng, 0.1, 0.9) * _processes(rng, scene, between(rng, -1, 2), thick)
    return _phase(rng, scene, _float(clutter + log_between(rng, 0.5, 3) * _dead(rng, scene)))


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
    """Dead cells and bits, round and smaller than cells, alone and in heaps, some hollow, in halos: float32 (Y, X), -0.7..1."""
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
    body = blur(_float(body), between(rng, 0.4, 1.0))
    # The phase ring removes the low frequencies of what it shows: cells are darker than what surrounds them.
    low = blur(body, diameter * log_between(rng, 0.08, 0.35))
    image = -between(rng, 0.05, 0.5) * (body - between(rng, 0.7, 1) * low)
    mask = blur(_float(np.maximum(solid(scene.depth, 0.15) * thick, clutter)), 0.5)
    rim = blur(mask, diameter * log_between(rng, 0.03, 0.1))
    image = image + log_between(rng, 0.4, 2.5) * np.clip(rim - mask, -0.3, 1.0)
    image = image + log_between(rng, 0.06, 0.5) * blur(_granules(rng, scene), 0.6) * np.sqrt(thick)
    if rng.random() < 0.7:  # thick cells retard light by more than half a wave: there the contrast turns round
        lift = between(rng, 0.2, 0.8) * dome(scene.depth, 0.4)
        image = np.where(scene.spread(round_up) > 0, image + lift, image)
    grain = between(rng, 0, 0.02) * fractal_noise(rng, shape, 3)
    image = between(rng, 0.35, 0.6) + log_between(rng, 0.4, 1.6) * image + grain + 0.5 * _dirt(rng, shape, diameter)
    return _finish(rng, _float(image), between(rng, 0, 0.25))


def dic(rng: Generator, scene: Scene) -> NDArray:
    """Differential interference contrast: relief lit from one side on even grey."""
    shape, diameter = scene.labels.shape, scene.diameter
    body = dome(scene.depth, log_between(rng, 0.2, 0.6)) * scene.spread(brightness(rng, scene.number))
    body = body * (0.12 * diameter) + between(rng, 0, 0.9) * _granules(rng, scene)
    body += between(rng, 0, 0.06) * diameter * solid(inner_depth(rng, scene, between(rng, 0.35, 0.6)), 0.4)
    body = blur(_float(body), between(rng, 0.6, 1.2))
    relief, _ = _slope(rng, body)
    level, strength = between(rng, 0.3, 0.6), log_between(rng, 0.15, 0.8)
    relief = strength * np.tanh(relief) + between(rng, -0.04, 0.04) * solid(scene.depth, 0.1)
    mottle = between(rng, 0, 0.015) * fractal_noise(rng, shape, diameter)
    image = level + relief + mottle + between(rng, 0, 0.6) * _dirt(rng, shape, diameter)
    return _finish(rng, _float(image), between(rng, 0, 0.4))


def brightfield(rng: Generator, scene: Scene) -> NDArray:
    """Unstained cells a little out of focus: dark blobs with a bright ring, or the reverse, often faint."""
    shape, diameter = scene.labels.shape, scene.diameter
    body = dome(scene.depth, log_between(rng, 0.15, 0.6)) * scene.spread(brightness(rng, scene.number))
    body += between(rng, 0, 0.4) * _granules(rng, scene)
    body = blur(_float(body), between(rng, 0.5, 1.2))
    defocus = diameter * log_between(rng, 0.04, 0.12)
    ring = blur(body, 0.5 * defocus) - blur(body, defocus * 1.5)
    sign = 1 if rng.random() < 0.7 else -1
    image = -log_between(rng, 0.03, 0.35) * body - sign * log_between(rng, 0.3, 1.6) * ring
    image = between(rng, 0.45, 0.75) + image + _dirt(rng, shape, diameter)
    return _finish(rng, _float(image), between(rng, 0, 0.5))


def stained(rng: Generator, scene: Scene) -> NDArray:
    """Dark stained nuclei in pale fibrous tissue or smears: light absorbed by Beer's law."""
    shape, diameter = scene.labels.shape, scene.diameter
    level = brightness(rng, scene.number) * log_between(rng, 0.4, 1.6)
    texture = np.clip(1 + between(rng, 0, 0.4) * fractal_noise(rng, shape, max(1.5, 0.2 * diameter)), 0.2, None)
    stain = solid(scene.depth, log_between(rng, 0.05, 0.3)) * scene.spread(level) * texture
    fibres = 1.2 - 1.5 * np.abs(fractal_noise(rng, shape, diameter * between(rng, 0.6, 3)))
    patches = np.clip(between(rng, -0.5, 1.5) + smooth_noise(rng, shape, diameter * between(rng, 2, 5)), 0, 1)
    matrix = between(rng, 0, 0.4) * patches * np.clip(0.6 + between(rng, 0.2, 0.7) * fibres, 0, None)
    absorbed = blur(_float(stain + matrix), log_between(rng, 0.5, 1 + 0.04 * diameter))
    image = between(rng, 0.7, 1.0) * np.exp(-absorbed)
    return _finish(rng, _float(image), between(rng, 0, 0.2))


def transmission(rng: Generator, scene: Scene) -> NDArray:
    """Particles in a transmission electron microscope: dark on light grey, each with its own darkness."""
    shape, diameter = scene.labels.shape, scene.diameter
    thick = dome(scene.depth, log_between(rng, 0.03, 0.6)) * scene.spread(brightness(rng, scene.number))
    thick *= 1 - between(rng, 0.2, 0.9) * np.exp(-((scene.wall / np.float32(0.9)) ** 2))  # light between touching ones
    texture = 1 + between(rng, 0, 0.25) * fractal_noise(rng, shape, diameter)
    light = np.exp(-log_between(rng, 0.4, 2.5) * np.maximum(thick * texture, 0))
    film = 1 + between(rng, 0, 0.06) * fractal_noise(rng, shape, diameter)
    fringe = blur(_float(light), 0.7)
    fringe = fringe + between(rng, 0, 0.6) * (fringe - blur(fringe, 2))
    return _finish(rng, _float(between(rng, 0.6, 0.9) * film * fringe), between(rng, 0, 0.3))


def _lit(rng: Generator, height: Field) -> Field:
    """Shading of a surface of the given height (px) by a lamp from one side, about 0: float32 (Y, X)."""
    slope, steepness = _slope(rng, height)
    return _float(slope / np.sqrt(1 + steepness**2))


def powder(rng: Generator, scene: Scene) -> NDArray:
    """Balls in a scanning electron microscope: bright rims, shading and cracks on a dark ground."""
    shape, diameter = scene.labels.shape, scene.diameter
    near, inside = np.minimum(scene.depth, 1), scene.labels > 0
    cracks = np.exp(-np.abs(smooth_noise(rng, shape, max(2.0, diameter * between(rng, 0.1, 0.3)))) * 4)
    rough = between(rng, 0, 0.2) * fractal_noise(rng, shape, max(2.0, diameter * between(rng, 0.1, 0.4)))
    surface = 0.45 + between(rng, 0.1, 0.6) * near ** between(rng, 3, 8) + rough - between(rng, 0, 0.3) * cracks
    height = dome(scene.depth, 0.5) * (diameter / 2)
    surface = surface + between(rng, 0, 0.3) * _lit(rng, _float(height))
    shadow = 1 - between(rng, 0.2, 0.7) * blur(inside.astype(np.float32), 0.3 * diameter)
    ground = log_between(rng, 0.05, 0.35) * shadow * (1 + 0.2 * fractal_noise(rng, shape, diameter))
    image = np.where(inside, np.maximum(surface, 0.02) * scene.spread(brightness(rng, scene.number) ** 0.6), ground)
    return _finish(rng, blur(_float(image), between(rng, 0.4, 1)), between(rng, 0, 0.3))


def grains(rng: Generator, scene: Scene) -> NDArray:
    """Even grains on a rough grey ground, bright or dark, with charged edges: an etched surface."""
    shape, diameter = scene.labels.shape, scene.diameter
    rough = between(rng, 0.03, 0.2) * fractal_noise(rng, shape, diameter * between(rng, 0.2, 0.8), octaves=4)
    streaks = between(rng, 0, 0.06) * smooth_noise(rng, shape, rng.permutation([2.0, diameter]).tolist())
    inside = solid(scene.depth, between(rng, 0.05, 0.2))
    inside *= 1 - between(rng, 0.3, 0.9) * np.exp(-((scene.wall / np.float32(1.2)) ** 2))  # a seam where grains touch
    level = scene.spread(brightness(rng, scene.number) ** 0.3) * between(rng, 0.25, 0.5)
    sign = 1 if rng.random() < 0.75 else -1
    edge = between(rng, 0, 0.2) * np.exp(-(((np.minimum(scene.depth, 2) - 0.9) / 0.15) ** 2)) * (scene.labels > 0)
    image = between(rng, 0.3, 0.55) + (rough + streaks) * (1 - 0.7 * inside) + sign * (level * inside + edge)
    return _finish(rng, blur(_float(image), between(rng, 0.4, 1.4)), between(rng, 0, 0.2))


def stones(rng: Generator, scene: Scene) -> NDArray:
    """Packed stones photographed from above: rough, lit from one side, dark gaps between them."""
    shape, diameter = scene.labels.shape, scene.diameter
    gap = np.minimum(scene.wall, np.where(scene.labels > 0, (1.3 - np.minimum(scene.depth, 1.3)) * diameter, 0))
    height = np.sqrt(np.minimum(gap, diameter / 3)) * np.sqrt(diameter) * between(rng, 0.2, 0.6)
    height = height + between(rng, 0.01, 0.06) * diameter * fractal_noise(rng, shape, 0.35 * diameter, octaves=4)
    rough = between(rng, 0.05, 0.25) * fractal_noise(rng, shape, max(2.0, 0.15 * diameter))
    tone = scene.spread(brightness(rng, scene.number), between(rng, 0.2, 1.6)) * between(rng, 0.3, 0.6)
    shade = 1 - between(rng, 0.5, 0.95) * np.exp(-((gap / (diameter * between(rng, 0.03, 0.08))) ** 2))
    lit = 1 + rough + between(rng, 0.3, 0.9) * _lit(rng, _float(height))
    image = np.where(scene.labels > 0, tone * np.maximum(lit, 0.05) * shade, tone * (0.6 + rough))
    return _finish(rng, blur(_float(image), between(rng, 0.4, 0.9)), between(rng, 0, 0.3))


def rings(rng: Generator, scene: Scene) -> NDArray:
    """Axons cut across, in an electron microscope: dark cores within bright walls on a grey ground."""
    shape, diameter = scene.labels.shape, scene.diameter
    core = scene.labels > 0
    wall = (scene.depth < 1) & ~core
    rough = fractal_noise(rng, shape, max(2.0, diameter * between(rng, 0.15, 0.6)), octaves=4)
    image = between(rng, 0.15, 0.45) * (1 + between(rng, 0.1, 0.5) * rough)
    image = np.where(wall, between(rng, 0.6, 0.9) * (1 + 0.12 * rough), image)
    inner = scene.spread(between(rng, 0.1, 0.35) * brightness(rng, scene.number)) * (1 + between(rng, 0, 0.4) * rough)
    image = np.where(core, inner, image)
    return _finish(rng, blur(_float(image), between(rng, 0.6, 1.5)), between(rng, 0, 0.3))


def dark_rods(rng: Generator, scene: Scene) -> NDArray:
    """Bacteria in phase contrast: dark rods with a bright halo."""
    body = dome(scene.depth, between(rng, 0.3, 0.8)) * scene.spread(brightness(rng, scene.number) ** 0.4)
    body = blur(_float(body), between(rng, 0.5, 1.2))
    halo = blur(body, scene.diameter * between(rng, 0.15, 0.6))
    image = between(rng, 0.4, 0.7) - between(rng, 0.2, 0.5) * (body - between(rng, 0.2, 0.9) * halo)
    image = image + between(rng, 0, 0.02) * fractal_noise(rng, image.shape, 3) + 0.3 * _dirt(rng, image.shape, 30.0)
    return _finish(rng, _float(image), between(rng, 0, 0.3))
