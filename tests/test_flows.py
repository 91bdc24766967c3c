"""labels -> flows: against a slow twin in plain numpy, and the guarantees as properties."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cellbasin.flows import labels_to_flows


def twin(mask):
    """Flows of one connected, compact object in plain numpy."""
    mask = np.pad(mask, 1)
    points = np.argwhere(mask)
    away = ((points - np.median(points, axis=0)) ** 2).sum(1)
    centres = points[away == away.min()]
    if len(centres) > 1 and away.min() > 0.75:  # apart from each other: one of them
        off_mean = ((centres - points.mean(0)) ** 2).sum(1)
        centres = centres[off_mean <= off_mean.min() + 1e-9][:1]
    heat = np.zeros(mask.shape)
    kernel = np.full((3,) * mask.ndim, 1 / 3**mask.ndim)
    for _ in range(2 * int(np.sum(points.max(0) - points.min(0) + 1))):
        heat[tuple(centres.T)] += 1 / len(centres)
        heat = ndimage.convolve(heat, kernel, mode="constant") * mask
    log = np.log1p(heat)
    gradient = np.stack([np.roll(log, -1, d) - np.roll(log, 1, d) for d in range(mask.ndim)])
    norm = np.sqrt((gradient**2).sum(0))
    flow = np.where((norm > 1e-7 * log) & mask, gradient / np.maximum(norm, 1e-300), 0)
    return flow[(slice(None), *[slice(1, -1)] * mask.ndim)]


def ellipsoid(shape, centre, radii):
    grid = np.indices(shape)
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True)) <= 1


def blob(rng, shape, sigma):
    """A random smooth connected object."""
    field = ndimage.gaussian_filter(rng.normal(size=shape), sigma)
    pieces, n = ndimage.label(field > np.quantile(field, 0.6), np.ones((3,) * len(shape)))
    return pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:]) if n else field > 2


@pytest.mark.parametrize(
    ("shape", "centre", "radii"),
    [((24, 31), (11, 15), (9, 13)), ((20, 20), (9.5, 9.5), (8, 8)), ((15, 17, 19), (7, 8, 9), (5, 6, 7)), ((6, 40), (2.5, 19), (2, 18))],
)
def test_equals_the_slow_twin_on_convex_objects(shape, centre, radii):
    mask = ellipsoid(shape, centre, radii)
    np.testing.assert_allclose(labels_to_flows(mask.astype(np.int32)), twin(mask), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([((40, 50), 4.0), ((14, 16, 18), 2.5)]))
def test_equals_the_slow_twin_on_random_shapes_but_for_repaired_pixels(seed, kind):
    mask = blob(np.random.default_rng(seed), *kind)
    flow, slow = labels_to_flows(mask.astype(np.uint8)), twin(mask)
    different = np.abs(flow - slow).max(0) > 1e-6
    assert different.sum() <= 0.03 * mask.sum()
