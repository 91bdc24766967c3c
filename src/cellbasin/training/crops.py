"""One training crop: a random affine look at an annotated image, its intensities varied, its flows turned with it.

Paper, "Image augmentations for training". The flows were computed once (`dataset.py`); here they are only looked up,
with interpolation among pixels of the same object, so that contacts between cells stay sharp, and turned by the
inverse of the affine map's rotation. Objects that the crop's edge cuts get new flows, of the part that is seen: at an
image's border the network must lead to a centre that can be found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.random import Generator
from scipy import ndimage

from cellbasin.flows import labels_to_flows
from cellbasin.intensity import HIGH, LOW, differ
from cellbasin.training.prepared import FLOW_UNIT, Level, TrainingImage
from cellbasin.training.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Crop:
    """image: float32 (2, size, size); target: float32 (4, size, size): flow y, flow x, inside (0/1), weight (0: not
    annotated)."""

    image: np.ndarray
    target: np.ndarray


def draw_crop(source: TrainingImage, size: int, recipe: Recipe, rng: Generator) -> Crop:
    """Draw one random crop of `size` x `size` pixels from an annotated image."""
    wide = rng.random() < recipe.wide
    low, high = recipe.wide_scale if wide else recipe.scale
    jitter = np.exp(rng.uniform(np.log(low), np.log(high))) if wide else rng.uniform(low, high)
    zoom = jitter * recipe.diameter / source.diameter  # output pixels per pixel of the finest level
    level, zoom = _choose_level(source, zoom, coarser=rng.random() < recipe.coarse)
    matrix, turn = _affine(level, source, size, zoom, recipe, rng)
    mix, low_high = _channel_mix(source, recipe, rng)
    image = np.empty((2, size, size), np.float32)
    target = np.empty((4, size, size), np.float32)
    seen = _look(level.image, level.labels, level.flow, mix, matrix, turn, image, target)
    renew_cut_flows(seen, target)
    if recipe.contacts != 1:
        target[3][near_contacts(seen)] *= recipe.contacts
    apart = np.exp(rng.uniform(np.log(1.5), np.log(6))) if rng.random() < recipe.planes else 1.0
    for c in range(2):
        if mix[c].any():
            if apart > 1:
                _blur(image[c], (rng.uniform(0.3, 0.8) * apart, 0))
            vary_intensity(image[c], float(low_high[c, 0]), float(low_high[c, 1]), recipe, rng)
    if apart > 1:
        draw_planes_apart(image, apart)
    return Crop(image, target)


def _choose_level(source: TrainingImage, zoom: float, *, coarser: bool) -> tuple[Level, float]:
    """The coarsest level that need not be shrunk by more than 1.5 (no aliasing); `coarser` imitates low resolution."""
    index = 0
    while index + 1 < len(source.levels) and (zoom * 2**index < 0.67 or (coarser and zoom * 2**index < 1.5)):
        index += 1
    return source.levels[index], zoom * 2**index


def _affine(
    level: Level, source: TrainingImage, size: int, zoom: float, recipe: Recipe, rng: Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Matrix (2, 3) from output pixels to level pixels, and the orthogonal part (2, 2) that turns vectors back."""
    angle = rng.uniform(0, 2 * np.pi)
    mirror = 1.0 if rng.random() < 0.5 else -1.0
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag([1.0, mirror])
    height, width = level.labels.shape
    if len(source.centres) and rng.random() < recipe.on_object:
        area = source.areas if rng.random() < 0.5 else np.ones_like(source.areas)
        chosen = rng.choice(len(source.centres), p=area / area.sum())
        centre = source.centres[chosen] * (height, width) + rng.uniform(-0.33, 0.33, 2) * size / zoom
    else:
        # Anywhere such that the crop lies inside the image as far as it fits (paper: (l - 224) / 2).
        room = np.maximum(np.array([height, width]) - size / zoom, 0)
        centre = np.array([height, width]) / 2 + rng.uniform(-0.5, 0.5, 2) * room
    linear = turn / zoom
    matrix = np.empty((2, 3))
    matrix[:, :2] = linear
    matrix[:, 2] = centre - linear @ np.full(2, (size - 1) / 2)
    return matrix, turn


def renew_cut_flows(seen: np.ndarray, target: np.ndarray) -> None:
    """Give objects that touch the crop's edge the flows of what is seen of them.

    seen: int32 (Y, X) labels; target: float32 (4, Y, X) as in `Crop`, changed in place.
    """
    touching = np.zeros(seen.max() + 1, np.int32)
    for edge in (seen[0], seen[-1], seen[:, 0], seen[:, -1]):
        touching[edge] = edge
    cut = touching[seen]
    if cut.any():
        np.copyto(target[:2], labels_to_flows(cut), where=cut > 0)


def near_contacts(seen: np.ndarray, reach: int = 2) -> np.ndarray:
    """Pixels, bool (Y, X), of objects that are at most `reach` pixels along an axis from a pixel of another object.

    >>> near_contacts(np.array([[1, 1, 1, 2, 0, 3]])).tolist()
    [[False, True, True, True, False, True]]
    """
    near = np.zeros(seen.shape, bool)
    for labels, marked in ((seen, near), (seen.T, near.T)):
        for step in range(1, reach + 1):
            first, second = labels[step:], labels[:-step]
            other = (first != second) & (first > 0) & (second > 0)
            marked[step:] |= other
            marked[:-step] |= other
    return near


def _channel_mix(source: TrainingImage, recipe: Recipe, rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Weights (2, C) that make primary and nuclear of the image's channels, and what becomes 0 and 1 of each: as
    `intensity.normalisation_range` its 1st and 99th percentile, or least and most where these are the same."""
    channels = source.levels[0].image.shape[0]
    mix = np.zeros((2, channels), np.float32)
    if source.layout == "rgb":
        mix[0] = 1 / channels
        if rng.random() < recipe.mix_rgb:
            mix[0] = rng.dirichlet(np.ones(channels))
    elif source.layout == "nucleus-cytoplasm":
        mix[0, 1] = 1.0
        mix[1, 0] = float(rng.random() >= recipe.drop_nucleus)
    else:
        mix[0, 0] = 1.0
        if channels > 1:
            mix[1, 1] = float(rng.random() >= recipe.drop_nucleus)
    values = np.percentile(mix @ source.sample, (0, LOW, HIGH, 100), axis=1).T
    return mix, np.array([(low, high) if differ(low, high) else (least, most) for least, low, high, most in values])


def vary_intensity(image: np.ndarray, low: float, high: float, recipe: Recipe, rng: Generator) -> None:
    """Normalise one channel (Y, X) in place: low..high becomes 0..1, or all 0 where they are the same; then vary gamma,
    contrast, blur and noise."""
    np.subtract(image, low, out=image)
    np.multiply(image, 1 / (high - low) if high > low else 0.0, out=image)
    if rng.random() < recipe.invert:
        np.subtract(1, image, out=image)
    if recipe.gamma:
        _power(image, np.float32(np.exp(rng.normal(0, recipe.gamma))))
    if rng.random() < recipe.blur:
        sigma = np.exp(rng.uniform(np.log(0.5), np.log(2.5), 2)) * (rng.random(2) < 0.75)
        _blur(image, sigma.tolist())
    if rng.random() < recipe.noise:
        strength = np.exp(rng.uniform(np.log(0.01), np.log(0.2)))
        shot = rng.random() < 0.5
        _add_noise(image, rng.standard_normal(image.shape, np.float32), np.float32(strength), shot)
    if recipe.contrast:
        gain, offset = np.exp(rng.normal(0, recipe.contrast)), rng.normal(0, recipe.contrast / 2)
        np.multiply(image, np.float32(gain), out=image)
        np.add(image, np.float32(offset), out=image)


def draw_planes_apart(image: np.ndarray, apart: float) -> None:
    """Make (C, Y, X) in place look like a slice across z: only every so many rows are known, the others interpolated.

    apart: distance in rows of what would be two planes of a volume, at least 1.
    """
    height = image.shape[1]
    known = np.arange(0, height - 1 + apart, apart)
    planes = image[:, np.minimum(known.round().astype(int), height - 1)]
    place = np.arange(height) / apart
    above = np.minimum(place.astype(int), len(known) - 2)
    part = (place - above).astype(np.float32)[:, None]
    image[:] = (1 - part) * planes[:, above] + part * planes[:, above + 1]


@njit(nogil=True, cache=True)
def _power(image: np.ndarray, gamma: np.float32) -> None:
    """x ** gamma for positive x; what is below the first percentile stays as it is."""
    flat = image.ravel()
    for i in range(flat.size):
        if flat[i] > 0:
            flat[i] = flat[i] ** gamma


@njit(nogil=True, cache=True)
def _add_noise(image: np.ndarray, noise: np.ndarray, strength: np.float32, shot: bool) -> None:  # noqa: FBT001
    flat, add = image.ravel(), noise.ravel()
    for i in range(flat.size):
        scale = np.sqrt(max(flat[i], np.float32(0)) + np.float32(0.05)) if shot else np.float32(1)
        flat[i] += strength * scale * add[i]


@njit(nogil=True, cache=True)
def _fold(index: int, length: int) -> int:
    """Reflect an index into 0..length-1."""
    if length == 1:
        return 0
    period = 2 * (length - 1)
    index = abs(index) % period
    return period - index if index >= length else index


@njit(nogil=True, cache=True, fastmath=True)
def _look(image, labels, flow, mix, matrix, turn, out, target):  # type: ignore[no-untyped-def]
    """Fill `out` and `target` (see `Crop`) by bilinear look-ups; outside the image it is mirrored, with weight 0.

    Returns int32 (Y, X): the labels within the image.
    """
    seen = np.zeros(out.shape[1:], np.int32)
    channels, height, width = image.shape
    unit = np.float32(1 / FLOW_UNIT)
    corner = np.empty(4, np.float32)
    ys, xs = np.empty(4, np.int64), np.empty(4, np.int64)
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            y = matrix[0, 0] * i + matrix[0, 1] * j + matrix[0, 2]
            x = matrix[1, 0] * i + matrix[1, 1] * j + matrix[1, 2]
            y0, x0 = int(np.floor(y)), int(np.floor(x))
            fy, fx = np.float32(y - y0), np.float32(x - x0)
            for k in range(4):
                ys[k], xs[k] = _fold(y0 + k // 2, height), _fold(x0 + k % 2, width)
                corner[k] = (fy if k // 2 else 1 - fy) * (fx if k % 2 else 1 - fx)
            first, second = np.float32(0), np.float32(0)
            for c in range(channels):
                value = np.float32(0)
                for k in range(4):
                    value += corner[k] * image[c, ys[k], xs[k]]
                first += mix[0, c] * value
                second += mix[1, c] * value
            out[0, i, j], out[1, i, j] = first, second

            nearest = (2 if fy >= 0.5 else 0) + (1 if fx >= 0.5 else 0)
            label = labels[ys[nearest], xs[nearest]]
            inside = -0.5 <= y < height - 0.5 and -0.5 <= x < width - 0.5
            if inside and label > 0:
                seen[i, j] = label
            target[3, i, j] = 1 if inside and label >= 0 else 0
            target[2, i, j] = 1 if label > 0 else 0
            vy, vx, total = np.float32(0), np.float32(0), np.float32(0)
            if label > 0 and inside:
                for k in range(4):
                    if labels[ys[k], xs[k]] == label:
                        vy += corner[k] * flow[0, ys[k], xs[k]]
                        vx += corner[k] * flow[1, ys[k], xs[k]]
                        total += corner[k]
                vy, vx = vy * unit / total, vx * unit / total
            target[0, i, j] = turn[0, 0] * vy + turn[1, 0] * vx
            target[1, i, j] = turn[0, 1] * vy + turn[1, 1] * vx
    return seen


def _blur(image: np.ndarray, sigma: Sequence[float]) -> None:
    """Gaussian blur of (Y, X) in place; sigma along Y and X, pixels."""
    ndimage.gaussian_filter(image, sigma, mode="mirror", truncate=2.5, output=image)
