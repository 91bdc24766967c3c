"""Random fields, blur and cameras for the generator: float32 arrays of any dimension in, the same out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

Field = NDArray[np.float32]
# Variance that cubic B-spline interpolation leaves of white noise, per axis: the squared spline's integral.
_SPLINE_VARIANCE = 151 / 315
_LARGEST_DIRECT_SIGMA = 3.0


def between(rng: Generator, low: float, high: float) -> float:
    """One number drawn uniformly from low..high.

    >>> 1 <= between(np.random.default_rng(0), 1, 2) <= 2
    True
    """
    return float(rng.uniform(low, high))


def log_between(rng: Generator, low: float, high: float) -> float:
    """One number drawn log-uniformly from low..high, both positive.

    >>> 1 <= log_between(np.random.default_rng(0), 1, 100) <= 100
    True
    """
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _spline_axis(grid: Field, axis: int, length: int, step: float, start: float) -> Field:
    """`grid` read at `start + i / step` (grid cells, i = 0..length-1) along one axis, by cubic B-spline."""
    position = start + np.arange(length) / step
    left = np.floor(position).astype(np.intp)
    t = (position - left).astype(np.float32)
    weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    shape = [1] * grid.ndim
    shape[axis] = length
    total = np.zeros((1,), np.float32)
    for k, weight in enumerate(weights):
        index = np.clip(left + k - 1, 0, grid.shape[axis] - 1)
        total = np.asarray(total + np.take(grid, index, axis=axis) * (weight / 6).reshape(shape), np.float32)
    return total


def smooth_noise(rng: Generator, shape: Sequence[int], scale: float | Sequence[float]) -> Field:
    """Smooth noise: float32 of `shape`, mean about 0, standard deviation about 1.

    `scale` is the distance in pixels (one number, or one per axis) over which values stay alike.

    >>> smooth_noise(np.random.default_rng(0), (20, 30), 8).shape
    (20, 30)
    """
    scales = [scale] * len(shape) if isinstance(scale, int | float) else list(scale)
    steps = [max(1.0, float(one)) for one in scales]
    coarse = [int(np.ceil(n / step)) + 4 for n, step in zip(shape, steps, strict=True)]
    field: Field = rng.standard_normal(coarse, np.float32)
    field *= np.float32(_SPLINE_VARIANCE ** (-len(coarse) / 2))
    for axis, (length, step) in enumerate(zip(shape, steps, strict=True)):
        field = _spline_axis(field, axis, length, step, 1 + rng.random())
    return field


def fractal_noise(rng: Generator, shape: Sequence[int], scale: float, octaves: int = 3) -> Field:
    """Smooth noise at `scale`, `scale`/2, ... (`octaves` of them, each 0.6 as strong), deviation about 1.

    >>> fractal_noise(np.random.default_rng(0), (20, 30), 8).dtype
    dtype('float32')
    """
    strengths = 0.6 ** np.arange(octaves)
    total = np.zeros(tuple(shape), np.float32)
    for k, strength in enumerate(strengths):
        total += np.float32(strength) * smooth_noise(rng, shape, scale / 2**k)
    return np.asarray(total / np.float32(np.linalg.norm(strengths)), np.float32)


def plane_waves(rng: Generator, points: NDArray[np.float64], wavelength: float, waves: int = 8) -> NDArray[np.float64]:
    """Smooth noise at `points` (N, D) alone: a sum of waves of about `wavelength` px; (N,), deviation 1.

    >>> plane_waves(np.random.default_rng(0), np.zeros((3, 2)), 50).shape
    (3,)
    """
    directions = rng.standard_normal((waves, points.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    frequency = 2 * np.pi / (wavelength * rng.uniform(0.6, 1.6, (waves, 1)))
    phase = rng.uniform(0, 2 * np.pi, waves)
    return np.asarray(np.cos(points @ (directions * frequency).T + phase).sum(1) * np.sqrt(2 / waves))


def blur(field: Field, sigma: float) -> Field:
    """Gaussian blur in a time that does not grow with `sigma` (px): wide ones are made at low resolution.

    >>> float(blur(np.ones((9, 9), np.float32), 20).round(3).min())
    1.0
    """
    if sigma <= _LARGEST_DIRECT_SIGMA:
        return np.asarray(ndimage.gaussian_filter(field, sigma, mode="nearest", truncate=3.0), np.float32)
    step = max(2, int(sigma / 2))
    coarse = field
    for axis, n in enumerate(field.shape):
        padding = [(0, 0)] * field.ndim
        padding[axis] = (0, -n % step)
        padded = np.pad(coarse, padding, mode="edge")
        split = (*padded.shape[:axis], padded.shape[axis] // step, step, *padded.shape[axis + 1 :])
        coarse = padded.reshape(split).mean(axis + 1, dtype=np.float32)
    # The spline and the block average blur too: variances step^2 / 3 and step^2 / 12.
    rest = np.sqrt(max(0.0, sigma**2 / step**2 - 1 / 3 - 1 / 12))
    coarse = np.asarray(ndimage.gaussian_filter(coarse, rest, mode="nearest", truncate=3.0), np.float32)
    for axis, n in enumerate(field.shape):
        coarse = _spline_axis(coarse, axis, n, step, 0.5 / step - 0.5)
    return coarse


def specks(rng: Generator, shape: Sequence[int], number: int, sigma: float) -> Field:
    """`number` blurred spots (debris, dust, cells far out of focus), brightest about 1: float32 of `shape`.

    >>> float(specks(np.random.default_rng(0), (40, 40), 0, 2).max())
    0.0
    """
    field = np.zeros(tuple(shape), np.float32)
    if number <= 0 or field.size == 0:
        return field
    np.add.at(field.ravel(), rng.integers(field.size, size=number), rng.uniform(0.2, 1, number).astype(np.float32))
    field = np.maximum(blur(field, sigma), 0)
    return np.asarray(field / max(float(field.max()), 1e-9), np.float32)


def illumination(rng: Generator, shape: Sequence[int], strength: float) -> Field:
    """Uneven light: a slope, a vignette and slow waves; float32 of `shape`, about 1, at least 0.1.

    >>> float(illumination(np.random.default_rng(0), (20, 30), 0.0).std())
    0.0
    """
    light = np.ones(tuple(shape), np.float32)
    for axis, n in enumerate(shape):
        t = np.linspace(-1, 1, n, dtype=np.float32) - np.float32(between(rng, -0.5, 0.5))
        line = between(rng, -0.5, 0.5) * t - between(rng, 0, 0.4) * t**2
        line_shape = [1] * len(shape)
        line_shape[axis] = n
        light = light + np.float32(strength) * line.astype(np.float32).reshape(line_shape)
    wave = smooth_noise(rng, shape, max(8.0, max(shape) * between(rng, 0.2, 0.6)))
    return np.asarray(np.maximum(light + np.float32(0.15 * strength) * wave, 0.1), np.float32)


def photon_camera(rng: Generator, signal: Field) -> NDArray[np.uint16]:
    """A fluorescence camera: photons (Poisson), read noise, offset, few or many bits; (C, ...) uint16.

    `signal` is 0 where it is dark and about 1 where it is bright; every channel gets its own exposure.

    >>> photon_camera(np.random.default_rng(0), np.ones((1, 4, 4), np.float32)).dtype
    dtype('uint16')
    """
    image = np.empty(signal.shape, np.uint16)
    for channel, light in zip(image, signal, strict=True):
        photons = log_between(rng, 25, 2000)
        counts = rng.poisson(np.clip(light, 0, 50).astype(np.float64) * photons).astype(np.float32)
        counts += np.float32(log_between(rng, 0.3, 4)) * rng.standard_normal(light.shape, np.float32)
        full = log_between(rng, 40, 30000)
        offset = between(rng, 0.0, 0.15) * full
        np.copyto(channel, np.clip(np.round(offset + counts * (full / photons)), 0, 65535), casting="unsafe")
    return image


def light_camera(rng: Generator, signal: Field) -> NDArray[np.uint8]:
    """A camera for transmitted light or electrons: Gaussian noise, exposure, 8 bits; (C, ...) float to uint8.

    `signal` is about 0 for black and 1 for white.

    >>> light_camera(np.random.default_rng(0), np.full((1, 4, 4), 0.5, np.float32)).dtype
    dtype('uint8')
    """
    noise = rng.standard_normal(signal.shape, np.float32)
    softness = between(rng, -0.5, 0.8)
    if softness > 0.2:  # cameras that sharpen or compress leave noise of more than one pixel
        noise = np.stack([blur(one, softness) for one in noise]) * np.float32(1 + 2 * softness**2)
    strength = log_between(rng, 0.003, 0.05)
    noisy = signal + np.float32(strength) * noise * np.sqrt(np.clip(signal, 0.05, 2) * 2)
    return np.clip(np.round(noisy * between(rng, 170, 255)), 0, 255).astype(np.uint8)
