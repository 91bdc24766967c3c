"""labels -> flows: against a slow twin in plain numpy, and the guarantees as properties."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cellbasin.flows import centroid_flows, labels_to_flows
from cellbasin.labels import keep_largest_piece


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


def centroid_twin(mask):
    """Flows of one object as Cellpose 3 computes them on a processor, in plain numpy."""
    mask = np.pad(mask, 1)
    points = np.argwhere(mask)
    centre = points[((points - points.mean(0)) ** 2).sum(1).argmin()]
    heat = np.zeros(mask.shape)
    for _ in range(2 * int(np.sum(points.max(0) - points.min(0) + 3))):
        heat[tuple(centre)] += 1
        heat = ndimage.convolve(heat, np.full((3, 3), 1 / 9), mode="constant") * mask
    gradient = np.stack([np.roll(heat, -1, d) - np.roll(heat, 1, d) for d in range(2)])
    flow = np.where(mask, gradient / (1e-60 + np.sqrt((gradient**2).sum(0))), 0)
    return flow[:, 1:-1, 1:-1]


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
    [
        ((24, 31), (11, 15), (9, 13)),
        ((20, 20), (9.5, 9.5), (8, 8)),
        ((15, 17, 19), (7, 8, 9), (5, 6, 7)),
        ((6, 40), (2.5, 19), (2, 18)),
    ],
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


# ---- properties of every shape


def line(shape, start, end, width):
    """A straight bar between two points."""
    grid = np.moveaxis(np.indices(shape), 0, -1) - np.array(start, float)
    along = np.subtract(end, start).astype(float)
    t = np.clip(grid @ along / (along @ along), 0, 1)
    return np.sqrt(((grid - t[..., None] * along) ** 2).sum(-1)) <= width / 2


def pieces_of(mask):
    return ndimage.label(mask, np.ones((3,) * mask.ndim))[0]


def shapes():
    yy, xx = np.indices((70, 70))
    radius = np.hypot(yy - 33, xx - 34)
    branched = (
        line((70, 70), (5, 5), (60, 40), 5)
        | line((70, 70), (30, 20), (20, 65), 3)
        | line((70, 70), (60, 40), (40, 66), 1.5)
    )
    spiral = np.zeros((70, 70), bool)
    for t in np.linspace(1, 14, 3000):
        spiral[int(35 + 2.3 * t * np.sin(t)), int(35 + 2.3 * t * np.cos(t))] = True
    return {
        "ring": (radius < 25) & (radius > 15),
        "thin ring": (radius < 25) & (radius > 23),
        "horseshoe": (radius < 25) & (radius > 15) & (yy < 40),
        "branched": branched,
        "spiral": spiral,
        "elongated": line((70, 70), (2, 3), (66, 60), 2),
        "one pixel": radius < 0.5,
        "two by two": (abs(yy - 20.5) < 1) & (abs(xx - 20.5) < 1),
        "hole": ellipsoid((70, 70), (30, 30), (20, 25)) & ~ellipsoid((70, 70), (28, 33), (4, 3)),
        "ball": ellipsoid((12, 13, 14), (6, 6, 7), (5, 6, 5)),
        "tube": np.stack([(radius < 12) & (radius > 8)] * 5),
    }


SHAPES = {name: pieces_of(mask) for name, mask in shapes().items()}


def ends_of(labels, flow):
    """Where the way from pixel to pixel ends: the first pixel of the last cycle."""
    ends = {}
    for start in map(tuple, np.argwhere(labels).tolist()):
        path, p = {}, start
        while p not in path and p not in ends:
            path[p] = len(path)
            p = tuple(int(n + round(float(flow[(d, *p)]))) for d, n in enumerate(p))
            assert labels[p] == labels[start], f"the way from {start} leaves the object at {p}"
        end = ends[p] if p in ends else min(q for q, n in path.items() if n >= path[p])
        ends.update(dict.fromkeys(path, end))
    return ends


@pytest.mark.parametrize("name", SHAPES)
def test_every_pixel_leads_to_the_centre_of_its_piece(name):
    labels = SHAPES[name]
    flow = labels_to_flows(labels)
    ends = ends_of(labels, flow)
    for piece in range(1, labels.max() + 1):
        own = np.array([end for start, end in ends.items() if labels[start] == piece])
        assert np.abs(own - own[0]).max() <= 1, f"ends of {name}: {np.unique(own, axis=0)}"
    norm = np.sqrt((flow**2).sum(0))
    assert np.all(norm[labels == 0] == 0)
    assert np.all(np.isclose(norm, 1, atol=1e-5) | (norm == 0))
    assert (norm[labels > 0] == 0).sum() <= labels.max() * 2**labels.ndim


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.55, 0.75))
def test_every_pixel_of_ragged_objects_leads_to_one_place(seed, part):
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(40, 40)), 0.8)
    labels = pieces_of(field > np.quantile(field, part))
    ends = ends_of(labels, labels_to_flows(labels))
    for piece in range(1, labels.max() + 1):
        own = np.array([end for start, end in ends.items() if labels[start] == piece])
        assert np.abs(own - own[0]).max() <= 1


@pytest.mark.parametrize("name", ["branched", "spiral", "elongated", "two by two", "hole", "ball"])
def test_flows_turn_and_mirror_with_the_image(name):
    # not a symmetric ring or horseshoe: of its centres, equally near the median and apart, only one can be taken
    labels = SHAPES[name]
    flow = labels_to_flows(labels)
    dims = labels.ndim
    for axis in range(dims):
        mirrored = np.flip(labels_to_flows(np.flip(labels, axis)), axis + 1).copy()
        mirrored[axis] *= -1
        np.testing.assert_allclose(mirrored, flow, atol=1e-6)
    swapped = labels_to_flows(np.ascontiguousarray(labels.swapaxes(-1, -2))).swapaxes(-1, -2)[
        [*range(dims - 2), dims - 1, dims - 2]
    ]
    np.testing.assert_allclose(swapped, flow, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_flows_depend_neither_on_neighbours_nor_on_position(seed):
    rng = np.random.default_rng(seed)
    labels = pieces_of(rng.random((30, 31)) > 0.55)
    flow = labels_to_flows(labels)
    crowded = np.where(labels > 0, labels, 1000 + (np.indices(labels.shape).sum(0) // 7))
    np.testing.assert_array_equal(labels_to_flows(crowded)[:, labels > 0], flow[:, labels > 0])
    moved = labels_to_flows(np.pad(labels, ((5, 2), (0, 9))))
    np.testing.assert_array_equal(moved[:, 5:-2, :-9], flow)


def test_values_and_types_of_labels_do_not_matter():
    labels = SHAPES["hole"]
    flow = labels_to_flows(labels)
    for values in (
        labels.astype(np.uint8),
        labels.astype(np.uint16) * 60000,
        labels.astype(np.int64) * 10**12,
        labels[::-1][::-1],
    ):
        np.testing.assert_array_equal(labels_to_flows(values), flow)
    np.testing.assert_array_equal(labels_to_flows(np.asfortranarray(labels)), flow)


def test_negative_and_disconnected_labels():
    labels = np.zeros((20, 30), np.int64)
    labels[2:8, 2:8], labels[12:18, 2:8], labels[2:8, 12:18], labels[12:18, 12:18] = 3, 3, -2, 7
    before = labels.copy()
    flow = labels_to_flows(labels)
    np.testing.assert_array_equal(labels, before)
    assert not flow[:, labels < 0].any()
    for corner in ((2, 2), (12, 2), (12, 12)):
        part = (slice(corner[0], corner[0] + 6), slice(corner[1], corner[1] + 6))
        np.testing.assert_allclose(flow[(slice(None), *part)], twin(np.ones((6, 6), bool)), atol=1e-6)


@pytest.mark.parametrize(("length", "width"), [(3000, 1), (1500, 3), (2400, 2)])
def test_no_pixel_is_lost_where_heat_underflows(length, width):
    flow = labels_to_flows(np.ones((width, length), np.int32))
    middle = length // 2
    assert np.all(flow[1, :, : middle - 2] > 0.5) and np.all(flow[1, :, middle + 2 :] < -0.5)


def test_a_spiral_needs_more_steps_than_its_extents():
    mask = np.zeros((41, 200), bool)
    for n, row in enumerate(range(0, 41, 2)):
        mask[row] = True
        mask[row + 1 : row + 2, -1 if n % 2 == 0 else 0] = True
    labels = mask.astype(np.int32)
    ends = np.array(list(ends_of(labels, labels_to_flows(labels)).values()))
    assert np.abs(ends - ends[0]).max() <= 1


def test_large_objects():
    mask = ellipsoid((620, 640), (310, 320), (300, 310))
    flow = labels_to_flows(mask.astype(np.int32))
    inward = -((np.indices(mask.shape).astype(float) - np.array([310, 320])[:, None, None]) * flow).sum(0)
    assert np.all(inward[mask & ~ellipsoid(mask.shape, (310, 320), (3, 3))] > 0)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (4, 4), (1, 1), (3, 0, 2)])
def test_images_without_objects(shape):
    flow = labels_to_flows(np.zeros(shape, np.uint16))
    assert flow.shape == (len(shape), *shape) and flow.dtype == np.float32 and not flow.any()


def test_one_plane_of_a_volume_is_a_volume():
    labels = SHAPES["horseshoe"]
    flow = labels_to_flows(labels[None])
    assert flow.shape == (3, 1, *labels.shape)
    assert not flow[0].any()


@pytest.mark.parametrize(
    "bad", [np.zeros((3, 3)), np.zeros((3, 3), bool), [[1, 2]], np.zeros(4, int), np.zeros((2, 2, 2, 2), int)]
)
def test_what_is_not_labels_is_refused(bad):
    with pytest.raises((TypeError, ValueError), match="labels must be"):
        labels_to_flows(bad)


def test_eight_threads_at_once(monkeypatch):
    labels = pieces_of(np.random.default_rng(3).random((120, 130)) > 0.5)
    expected = labels_to_flows(labels)
    with ThreadPoolExecutor(8) as pool:
        for flow in pool.map(lambda _: labels_to_flows(labels), range(24)):
            np.testing.assert_array_equal(flow, expected)
    monkeypatch.setenv("CELLBASIN_THREADS", "1")
    np.testing.assert_array_equal(labels_to_flows(labels), expected)


def test_centroid_flows_equal_the_slow_twin_and_know_no_neighbours():
    rng = np.random.default_rng(5)
    masks = [blob(rng, (40, 50), sigma) for sigma in (2, 3, 4, 6)]
    masks.append(
        ellipsoid((40, 50), (20, 24), (15, 20)) & ~ellipsoid((40, 50), (18, 20), (9, 12))
    )  # its centroid is outside
    for mask in masks:
        np.testing.assert_allclose(centroid_flows(mask.astype(np.int32)), centroid_twin(mask), atol=1e-6)
    halves = masks[-1] * np.where(np.arange(50) < 24, 1, 3).astype(np.int32)
    found = centroid_flows(halves)
    for label in (1, 3):
        np.testing.assert_allclose(found * (halves == label), centroid_twin(halves == label), atol=1e-6)
    with pytest.raises(ValueError, match=r"expected \(Y, X\)"):
        centroid_flows(np.zeros((2, 3, 4), np.int32))
    assert not centroid_flows(np.zeros((3, 4), np.int32)).any()


def test_labels_that_become_positive_in_fewer_bits_are_background_too():
    labels = np.array([[-(2**32) + 5, 2, 2, 2]])
    assert np.array_equal(labels_to_flows(labels), labels_to_flows(np.maximum(labels, 0)))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(130, 300))
def test_less_detail_gives_about_the_same_flows_of_large_objects_and_the_same_of_others(seed, length):
    rng = np.random.default_rng(seed)
    labels = np.zeros((length + 40, length), np.int32)
    yy, xx = np.indices((length, length)) - (length - 1) / 2
    waves = [rng.normal(0, 0.06) * np.cos(n * np.arctan2(yy, xx) + rng.uniform(0, 6)) for n in range(2, 6)]
    labels[:length][np.hypot(yy, xx) < length / 2 * (0.8 + sum(waves))] = 1
    labels[-40:, :100] = 3 * blob(rng, (40, 100), 4)
    exact, quick = labels_to_flows(labels), labels_to_flows(labels, detail=64)
    np.testing.assert_array_equal(quick[:, labels == 3], exact[:, labels == 3])
    assert (abs(np.hypot(*quick[:, labels == 1]) - 1) > 1e-5).sum() <= 4  # the centre
    assert not quick[:, labels == 0].any()
    assert ((quick - exact) ** 2).sum(0)[labels == 1].mean() < 0.05


def test_a_source_in_a_neck_is_where_all_ways_end():
    rows = ["..###.", "...###", ".##.##", "#.....", "##...."]
    labels = np.array([[sign == "#" for sign in row] for row in rows], np.int32)
    ends = np.array(list(ends_of(labels, labels_to_flows(labels)).values()))
    assert np.abs(ends - ends[0]).max() <= 1


def test_a_slit_that_a_coarse_grid_would_close_stays_open():
    yy, xx = np.indices((211, 211)) - 105
    slit = ((np.hypot(yy, xx) < 100) & ~((xx >= 20) & (xx < 23) & (yy < 75))).astype(np.int32)
    turns = np.arctan2(yy, xx) / (2 * np.pi)
    spiral = ((np.hypot(yy, xx) < 100) & ((np.hypot(yy, xx) / 25 - turns) % 1 < 0.85)).astype(np.int32)
    for mask in (slit, spiral):
        labels = keep_largest_piece(mask)
        exact, quick = labels_to_flows(labels), labels_to_flows(labels, detail=64)
        assert ((quick - exact) ** 2).sum(0)[labels > 0].mean() < 0.05


def test_pieces_of_a_large_label_are_objects_of_their_own_with_less_detail_too():
    torn = np.zeros((300, 480), np.int32)
    torn[ellipsoid(torn.shape, (150, 120), (140, 110))] = 7
    torn[ellipsoid(torn.shape, (150, 360), (140, 110))] = 7
    whole = np.where(torn, 1 + np.repeat([0, 1], 240)[None], 0)
    np.testing.assert_array_equal(labels_to_flows(torn, 32), labels_to_flows(whole, 32))


def test_what_is_told_rises_to_one_and_ends_the_work():
    labels = np.pad(np.ones((150, 150), np.int32), ((0, 0), (0, 40)))
    labels[:30, -30:] = 2
    told = []
    labels_to_flows(labels, 64, told.append)
    assert told == sorted(told) and told[-1] == 1 and len(told) > 1
    with pytest.raises(ZeroDivisionError):
        labels_to_flows(labels, 64, lambda part: 1 / 0)


@pytest.mark.parametrize(("shape", "detail"), [((4, 4), 0), ((2, 4, 4), 8)])
def test_detail_is_of_images_and_at_least_a_pixel(shape, detail):
    with pytest.raises(ValueError, match="detail"):
        labels_to_flows(np.ones(shape, int), detail)
