"""Looks of transmitted light and electrons: DIC, brightfield, particles. Scene in, (1, Y, X) uint8 out."""

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


def as_float(field: NDArray) -> Field:
    """As float32: arithmetic with Python numbers may have widened it."""
    return np.asarray(field, np.float32)


def dirt(rng: Generator, shape: tuple[int, ...], diameter: float) -> Field:
    """Dust far out of focus and specks in focus, both signs: float32 (Y, X)."""
    area = shape[0] * shape[1] / diameter**2
    wide = specks(rng, shape, rng.poisson(0.004 * area), diameter * between(rng, 0.2, 0.7))
    small = specks(rng, shape, rng.poisson(between(rng, 0, 0.1) * area), between(rng, 0.7, 1.5))
    return between(rng, -0.12, 0.06) * wide + between(rng, -0.3, 0.3) * small


def finish(rng: Generator, image: Field, unevenness: float) -> NDArray:
    """Light, then the camera."""
    return light_camera(rng, np.clip(image * illumination(rng, image.shape, unevenness), 0, 1.2)[None])


def granules(rng: Generator, scene: Scene) -> Field:
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
    return as_float(towards), as_float(np.hypot(slope_y, slope_x))


def _gradient(height: Field) -> tuple[Field, Field]:
    """Central differences along y and x, the edge repeated (an axis may be 1 px long): float32 (Y, X) each."""
    padded = np.pad(height, 1, mode="edge")
    slope_y, slope_x = padded[2:, 1:-1] - padded[:-2, 1:-1], padded[1:-1, 2:] - padded[1:-1, :-2]
    return as_float(slope_y / 2), as_float(slope_x / 2)


def dic(rng: Generator, scene: Scene) -> NDArray:
    """Differential interference contrast: relief lit from one side on even grey."""
    shape, diameter = scene.labels.shape, scene.diameter
    body = dome(scene.depth, log_between(rng, 0.2, 0.6)) * scene.spread(brightness(rng, scene.number))
    body = body * (0.12 * diameter) + between(rng, 0, 0.9) * granules(rng, scene)
    body += between(rng, 0, 0.06) * diameter * solid(inner_depth(rng, scene, between(rng, 0.35, 0.6)), 0.4)
    body = blur(as_float(body), between(rng, 0.6, 1.2))
    relief, _ = _slope(rng, body)
    level, strength = between(rng, 0.3, 0.6), log_between(rng, 0.15, 0.8)
    relief = strength * np.tanh(relief) + between(rng, -0.04, 0.04) * solid(scene.depth, 0.1)
    mottle = between(rng, 0, 0.015) * fractal_noise(rng, shape, diameter)
    image = level + relief + mottle + between(rng, 0, 0.6) * dirt(rng, shape, diameter)
    return finish(rng, as_float(image), between(rng, 0, 0.4))


def brightfield(rng: Generator, scene: Scene) -> NDArray:
    """Unstained cells a little out of focus: dark blobs with a bright ring, or the reverse, often faint."""
    shape, diameter = scene.labels.shape, scene.diameter
    body = dome(scene.depth, log_between(rng, 0.15, 0.6)) * scene.spread(brightness(rng, scene.number))
    body += between(rng, 0, 0.4) * granules(rng, scene)
    body = blur(as_float(body), between(rng, 0.5, 1.2))
    defocus = diameter * log_between(rng, 0.04, 0.12)
    ring = blur(body, 0.5 * defocus) - blur(body, defocus * 1.5)
    sign = 1 if rng.random() < 0.7 else -1
    image = -log_between(rng, 0.03, 0.35) * body - sign * log_between(rng, 0.3, 1.6) * ring
    image = between(rng, 0.45, 0.75) + image + dirt(rng, shape, diameter)
    return finish(rng, as_float(image), between(rng, 0, 0.5))


def stained(rng: Generator, scene: Scene) -> NDArray:
    """Dark stained nuclei in pale fibrous tissue or smears: light absorbed by Beer's law."""
    shape, diameter = scene.labels.shape, scene.diameter
    level = brightness(rng, scene.number) * log_between(rng, 0.4, 1.6)
    texture = np.clip(1 + between(rng, 0, 0.4) * fractal_noise(rng, shape, max(1.5, 0.2 * diameter)), 0.2, None)
    stain = solid(scene.depth, log_between(rng, 0.05, 0.3)) * scene.spread(level) * texture
    fibres = 1.2 - 1.5 * np.abs(fractal_noise(rng, shape, diameter * between(rng, 0.6, 3)))
    patches = np.clip(between(rng, -0.5, 1.5) + smooth_noise(rng, shape, diameter * between(rng, 2, 5)), 0, 1)
    matrix = between(rng, 0, 0.4) * patches * np.clip(0.6 + between(rng, 0.2, 0.7) * fibres, 0, None)
    absorbed = blur(as_float(stain + matrix), log_between(rng, 0.5, 1 + 0.04 * diameter))
    image = between(rng, 0.7, 1.0) * np.exp(-absorbed)
    return finish(rng, as_float(image), between(rng, 0, 0.2))


def transmission(rng: Generator, scene: Scene) -> NDArray:
    """Particles in a transmission electron microscope: dark on light grey, each with its own darkness."""
    shape, diameter = scene.labels.shape, scene.diameter
    thick = dome(scene.depth, log_between(rng, 0.03, 0.6)) * scene.spread(brightness(rng, scene.number))
    thick *= 1 - between(rng, 0.2, 0.9) * np.exp(-((scene.wall / np.float32(0.9)) ** 2))  # light between touching ones
    texture = 1 + between(rng, 0, 0.25) * fractal_noise(rng, shape, diameter)
    light = np.exp(-log_between(rng, 0.4, 2.5) * np.maximum(thick * texture, 0))
    film = 1 + between(rng, 0, 0.06) * fractal_noise(rng, shape, diameter)
    fringe = blur(as_float(light), 0.7)
    fringe = fringe + between(rng, 0, 0.6) * (fringe - blur(fringe, 2))
    return finish(rng, as_float(between(rng, 0.6, 0.9) * film * fringe), between(rng, 0, 0.3))


def _lit(rng: Generator, height: Field) -> Field:
    """Shading of a surface of the given height (px) by a lamp from one side, about 0: float32 (Y, X)."""
    slope, steepness = _slope(rng, height)
    return as_float(slope / np.sqrt(1 + steepness**2))


def powder(rng: Generator, scene: Scene) -> NDArray:
    """Balls in a scanning electron microscope: bright rims, shading and cracks on a dark ground."""
    shape, diameter = scene.labels.shape, scene.diameter
    near, inside = np.minimum(scene.depth, 1), scene.labels > 0
    cracks = np.exp(-np.abs(smooth_noise(rng, shape, max(2.0, diameter * between(rng, 0.1, 0.3)))) * 4)
    rough = between(rng, 0, 0.2) * fractal_noise(rng, shape, max(2.0, diameter * between(rng, 0.1, 0.4)))
    surface = 0.45 + between(rng, 0.1, 0.6) * near ** between(rng, 3, 8) + rough - between(rng, 0, 0.3) * cracks
    height = dome(scene.depth, 0.5) * (diameter / 2)
    surface = surface + between(rng, 0, 0.3) * _lit(rng, as_float(height))
    shadow = 1 - between(rng, 0.2, 0.7) * blur(inside.astype(np.float32), 0.3 * diameter)
    ground = log_between(rng, 0.05, 0.35) * shadow * (1 + 0.2 * fractal_noise(rng, shape, diameter))
    image = np.where(inside, np.maximum(surface, 0.02) * scene.spread(brightness(rng, scene.number) ** 0.6), ground)
    return finish(rng, blur(as_float(image), between(rng, 0.4, 1)), between(rng, 0, 0.3))


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
    return finish(rng, blur(as_float(image), between(rng, 0.4, 1.4)), between(rng, 0, 0.2))


def stones(rng: Generator, scene: Scene) -> NDArray:
    """Packed stones photographed from above: rough, lit from one side, dark gaps between them."""
    shape, diameter = scene.labels.shape, scene.diameter
    gap = np.minimum(scene.wall, np.where(scene.labels > 0, (1.3 - np.minimum(scene.depth, 1.3)) * diameter, 0))
    height = np.sqrt(np.minimum(gap, diameter / 3)) * np.sqrt(diameter) * between(rng, 0.2, 0.6)
    height = height + between(rng, 0.01, 0.06) * diameter * fractal_noise(rng, shape, 0.35 * diameter, octaves=4)
    rough = between(rng, 0.05, 0.25) * fractal_noise(rng, shape, max(2.0, 0.15 * diameter))
    tone = scene.spread(brightness(rng, scene.number), between(rng, 0.2, 1.6)) * between(rng, 0.3, 0.6)
    shade = 1 - between(rng, 0.5, 0.95) * np.exp(-((gap / (diameter * between(rng, 0.03, 0.08))) ** 2))
    lit = 1 + rough + between(rng, 0.3, 0.9) * _lit(rng, as_float(height))
    image = np.where(scene.labels > 0, tone * np.maximum(lit, 0.05) * shade, tone * (0.6 + rough))
    return finish(rng, blur(as_float(image), between(rng, 0.4, 0.9)), between(rng, 0, 0.3))


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
    return finish(rng, blur(as_float(image), between(rng, 0.6, 1.5)), between(rng, 0, 0.3))


def dark_rods(rng: Generator, scene: Scene) -> NDArray:
    """Bacteria in phase contrast: dark rods with a bright halo."""
    body = dome(scene.depth, between(rng, 0.3, 0.8)) * scene.spread(brightness(rng, scene.number) ** 0.4)
    body = blur(as_float(body), between(rng, 0.5, 1.2))
    halo = blur(body, scene.diameter * between(rng, 0.15, 0.6))
    image = between(rng, 0.4, 0.7) - between(rng, 0.2, 0.5) * (body - between(rng, 0.2, 0.9) * halo)
    image = image + between(rng, 0, 0.02) * fractal_noise(rng, image.shape, 3) + 0.3 * dirt(rng, image.shape, 30.0)
    return finish(rng, as_float(image), between(rng, 0, 0.3))
