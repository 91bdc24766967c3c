"""Looks of fluorescence: nuclei, cytoplasm with nuclei, membranes, tissue. Scene in, (C, Y, X) uint16 out."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from cellbasin.generator.noise import (
    Field,
    between,
    blur,
    fractal_noise,
    illumination,
    log_between,
    photon_camera,
    smooth_noise,
    specks,
)
from cellbasin.generator.paint import Scene, inner_depth


def solid(depth: Field, softness: float) -> Field:
    """1 inside, falling to 0 at depth 1 over the outer `softness` of the radius.

    >>> solid(np.array([0.0, 0.75, 2.0], np.float32), 0.5).tolist()
    [1.0, 0.5, 0.0]
    """
    return np.clip((1 - depth) / np.float32(max(softness, 1e-3)), 0, 1)


def brightness(rng: Generator, number: int) -> NDArray[np.float64]:
    """How bright each of `number` cells is: log-normal, more or less so from image to image; (number,).

    >>> brightness(np.random.default_rng(0), 3).shape
    (3,)
    """
    return np.exp(between(rng, 0.05, 0.55) * np.clip(rng.standard_normal(number), -2, 2.5))


def glow(rng: Generator, signal: Field, diameter: float) -> Field:
    """What a wide-field microscope adds to the focal plane `signal`: blur, haze, background, ghosts."""
    sharp = blur(signal, log_between(rng, 0.5, 1.0 + 0.05 * diameter))
    haze = between(rng, 0, 0.4) * blur(signal, diameter * between(rng, 0.4, 2))
    area = signal.size / (20 * diameter**2)
    ghosts = specks(rng, signal.shape, rng.poisson(between(rng, 0, 0.5) * area), diameter * between(rng, 0.3, 0.7))
    wave = 1 + 0.3 * smooth_noise(rng, signal.shape, diameter * between(rng, 3, 10))
    dark = log_between(rng, 0.01, 0.4) * np.maximum(wave, 0.1)
    light = illumination(rng, signal.shape, between(rng, 0, 0.5))
    return np.asarray((sharp + haze + between(rng, 0, 0.25) * ghosts + dark) * light, np.float32)


def debris(rng: Generator, shape: tuple[int, ...], diameter: float) -> Field:
    """Small bright dirt that is no cell: float32 (Y, X)."""
    amount = rng.poisson(between(rng, 0, 1.5) * shape[0] * shape[1] / (15 * diameter) ** 2)
    return between(rng, 0.2, 2.5) * specks(rng, shape, amount, between(rng, 0.6, max(0.8, 0.05 * diameter)))


def chromatin(rng: Generator, shape: tuple[int, ...], diameter: float) -> Field:
    """The texture of nuclei, about 1: grain, and dark nucleoli or bright foci; float32 (Y, X)."""
    texture = 1 + between(rng, 0, 0.35) * fractal_noise(rng, shape, max(1.5, diameter * log_between(rng, 0.06, 0.4)))
    spots = smooth_noise(rng, shape, max(1.5, diameter * between(rng, 0.08, 0.2)))
    hit = np.clip((spots - np.float32(between(rng, 1.1, 2.2))) * 3, 0, 1)
    return np.clip(texture + between(rng, -0.6, 0.9) * hit, 0.15, None)


def nuclei(rng: Generator, scene: Scene) -> NDArray:
    """Stained nuclei, some touching, some much brighter (dividing), with debris: (1, Y, X) uint16."""
    shape, diameter = scene.labels.shape, scene.diameter
    level = brightness(rng, scene.number)
    level[rng.random(scene.number) < between(rng, 0, 0.06)] *= between(rng, 1.5, 3)
    body = solid(scene.depth, log_between(rng, 0.08, 0.7)) ** between(rng, 0.6, 1.2)
    signal = body * scene.spread(level) * chromatin(rng, shape, diameter) + debris(rng, shape, diameter)
    return photon_camera(rng, glow(rng, signal, diameter)[None])


def _nuclear_channel(rng: Generator, scene: Scene, inside: Field) -> Field:
    """The image of the nuclei whose depth is `inside`, in focus: float32 (Y, X)."""
    body = solid(inside, log_between(rng, 0.1, 0.6))
    return body * scene.spread(brightness(rng, scene.number)) * chromatin(rng, scene.labels.shape, scene.diameter / 2)


def cytoplasm(rng: Generator, scene: Scene) -> NDArray:
    """Whole cells (channel 0) and their nuclei (channel 1): (2, Y, X) uint16."""
    shape, diameter = scene.labels.shape, scene.diameter
    inside = inner_depth(rng, scene, between(rng, 0.45, 0.72))
    fall = scene.spread(rng.uniform(0.3, 2.5, scene.number) * between(rng, 0.5, 1.2))
    near = np.minimum(scene.depth, 1.2)
    body = solid(scene.depth, log_between(rng, 0.05, 0.35)) * np.exp(-fall * near**2)
    ruffle = between(rng, -0.3, 0.5) * np.exp(-(((near - 0.85) / 0.12) ** 2)) * (scene.labels > 0)
    fibres = 1 - np.abs(smooth_noise(rng, shape, max(2.0, 0.15 * diameter)))
    texture = 1 + between(rng, 0, 0.35) * fractal_noise(rng, shape, diameter * between(rng, 0.1, 0.5))
    texture += between(rng, 0, 0.3) * fibres
    hole = 1 - between(rng, -0.3, 0.75) * solid(inside, 0.3)
    cells = (body + np.maximum(ruffle, -body)) * np.maximum(texture, 0.1) * hole
    cells = cells * scene.spread(brightness(rng, scene.number)) * between(rng, 1, 1.6) + debris(rng, shape, diameter)
    stain = _nuclear_channel(rng, scene, inside)
    bleed = between(rng, 0, 0.12)
    both = glow(rng, cells + bleed * stain, diameter), glow(rng, stain + bleed * cells, diameter)
    return photon_camera(rng, np.stack(both))


def _lines(rng: Generator, scene: Scene, thinnest: float, thickest: float) -> Field:
    """Walls between cells, about 1 on the line, uneven along it: float32 (Y, X)."""
    width = max(0.7, scene.diameter * log_between(rng, thinnest, thickest))
    uneven = 1 + between(rng, 0.1, 0.5) * fractal_noise(rng, scene.labels.shape, max(2.0, 0.2 * scene.diameter))
    edge = np.minimum(scene.wall, np.where(scene.labels > 0, (1.6 - np.minimum(scene.depth, 1.6)) * scene.diameter, 99))
    return np.exp(-((edge / np.float32(width)) ** 2)) * np.clip(uneven, 0.1, 2)


def membrane(rng: Generator, scene: Scene) -> NDArray:
    """Packed cells with stained borders, dull inside or with a bright middle: (1, Y, X) uint16."""
    shape, diameter = scene.labels.shape, scene.diameter
    inside = inner_depth(rng, scene, between(rng, 0.4, 0.6))
    middle = between(rng, 0, 1.2) * (rng.random() < 0.4) * np.exp(-(np.minimum(inside, 3) ** 2))
    fill = log_between(rng, 0.02, 0.4) * np.maximum(1 + 0.5 * fractal_noise(rng, shape, 0.3 * diameter), 0)
    grain = between(rng, 0, 0.5) * np.maximum(smooth_noise(rng, shape, max(1.3, 0.06 * diameter)) - 1, 0)
    signal = _lines(rng, scene, 0.02, 0.08) + (fill + middle + grain) * scene.spread(brightness(rng, scene.number))
    large = np.exp(between(rng, 0, 0.5) * smooth_noise(rng, shape, 5 * diameter))
    return photon_camera(rng, glow(rng, (signal * large).astype(np.float32), diameter)[None])


def endothelium(rng: Generator, scene: Scene) -> NDArray:
    """Packed bright cells with dark, blurred borders, like a cornea's endothelium: (1, Y, X) uint16."""
    shape, diameter = scene.labels.shape, scene.diameter
    walls = between(rng, 0.4, 0.9) * _lines(rng, scene, 0.05, 0.12)
    cloud = 1 + between(rng, 0.05, 0.3) * fractal_noise(rng, shape, diameter * between(rng, 0.3, 1.5))
    signal = np.clip(scene.spread(brightness(rng, scene.number) ** 0.4, 0.3) * cloud - walls, 0.02, None)
    light = illumination(rng, shape, between(rng, 0.3, 1.3))
    soft = blur(signal.astype(np.float32), diameter * between(rng, 0.03, 0.07))
    return photon_camera(rng, ((soft + between(rng, 0.1, 0.6)) * light)[None])


def tissue(rng: Generator, scene: Scene) -> NDArray:
    """Crowded tissue: patchy cytoplasm and borders (channel 0), nuclei (channel 1): (2, Y, X) uint16."""
    shape, diameter = scene.labels.shape, scene.diameter
    inside = inner_depth(rng, scene, between(rng, 0.6, 0.85))
    patches = np.exp(between(rng, 0.3, 0.9) * fractal_noise(rng, shape, diameter * between(rng, 1.5, 5)))
    ring = np.exp(-(((np.minimum(scene.depth, 2) - 0.9) / 0.25) ** 2)) * (scene.labels > 0)
    rough = np.clip(1 + between(rng, 0.2, 0.6) * fractal_noise(rng, shape, max(1.5, 0.2 * diameter)), 0.05, None)
    level = scene.spread(brightness(rng, scene.number) ** 1.5, between(rng, 0, 0.3))
    walls = ring + between(rng, 0, 1) * _lines(rng, scene, 0.03, 0.1)
    cells = (walls + between(rng, 0.1, 0.7) * (scene.labels > 0)) * rough * level * patches
    stain = _nuclear_channel(rng, scene, inside)
    both = [glow(rng, one.astype(np.float32), diameter) for one in (cells, stain)]
    return photon_camera(rng, np.stack(both))


def bright_rods(rng: Generator, scene: Scene) -> NDArray:
    """Bacteria that glow, evenly or from the membrane: (1, Y, X) uint16."""
    rim = between(rng, -0.4, 0.6)
    body = solid(scene.depth, between(rng, 0.3, 1)) * (1 - rim + 2 * rim * np.minimum(scene.depth, 1) ** 2)
    signal = np.maximum(body, 0) * scene.spread(brightness(rng, scene.number))
    return photon_camera(rng, glow(rng, signal.astype(np.float32), scene.diameter)[None])
