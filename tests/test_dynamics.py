"""flows -> labels: against a slow twin, round trips of difficult shapes, guarantees under noise."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cellbasin.basins import find_basins
from cellbasin.dynamics import flow_errors, flows_to_labels, segment_flows
from cellbasin.flows import labels_to_flows
from cellbasin.labels import keep_largest_piece, median_diameter, relabel, remove_small, touches_border


def inside(labels):
    return (labels > 0).astype(np.float32)


def round_trip(labels, **options):
    return segment_flows(labels_to_flows(labels), inside(labels), **options)


def same_objects(found, labels):
    """Whether two label images differ in nothing but the numbers."""
    pairs = np.unique(np.stack([found.ravel(), labels.ravel()]), axis=1)
    unique = len(pairs[0]) == len(np.unique(pairs[0])) == len(np.unique(pairs[1]))
    return unique and bool(np.all((pairs[0] == 0) == (pairs[1] == 0)))


def overlap_ap(labels, found, threshold):
    """AP of the paper: matches at an IoU above one half are one-to-one by themselves."""
    n, k = int(labels.max()), int(found.max())
    table = np.bincount(labels.ravel().astype(np.int64) * (k + 1) + found.ravel(), minlength=(n + 1) * (k + 1))
    table = table.reshape(n + 1, k + 1)
    union = table.sum(1, keepdims=True) + table.sum(0, keepdims=True) - table
    hits = ((table / np.maximum(union, 1))[1:, 1:] > threshold - 1e-9).any(1).sum()
    return hits / (n + k - hits) if n + k else 1.0


def ellipses(seed, shape, radius, part=0.9):
    """Touching ellipses (ellipsoids) on a jittered grid, each one piece of at least 15 pixels."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    grid = np.indices(shape).astype(float)
    steps = [np.arange(radius, n, 1.9 * radius) for n in shape]
    for number, place in enumerate(product(*steps), 1):
        if rng.random() > part:
            continue
        turn = np.linalg.qr(rng.normal(size=(len(shape), len(shape))))[0]
        offset = grid - (np.array(place) + rng.normal(size=len(shape)) * radius / 8).reshape(-1, *[1] * len(shape))
        turned = np.tensordot(turn, offset, 1) / (radius * rng.uniform(0.7, 1.1, len(shape))).reshape(
            -1, *[1] * len(shape)
        )
        labels[((turned**2).sum(0) < 1) & (labels == 0)] = number
    return relabel(remove_small(keep_largest_piece(labels), 15))


def with_noise(labels, spread, seed):
    """True flows, a little short, with smooth noise."""
    rng = np.random.default_rng(seed)
    noise = np.stack([ndimage.gaussian_filter(rng.normal(size=labels.shape), 2.5) for _ in range(labels.ndim)])
    return (0.9 * (labels_to_flows(labels) + noise * (spread / noise.std()))).astype(np.float32)


def assert_guarantees(labels, min_size):
    assert labels.dtype == np.int32
    count = int(labels.max())
    assert np.array_equal(np.unique(labels[labels > 0]), np.arange(1, count + 1))
    neighbours = np.ones((3,) * labels.ndim)
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        mask = np.pad(labels[box] == number, 1)
        assert mask.sum() >= min_size
        assert ndimage.label(mask, neighbours)[1] == 1
        holes, found = ndimage.label(~mask)
        crop = np.pad(labels[box], 1)
        for hole in range(2, found + 1):
            assert (holes == hole).sum() >= min_size or crop[holes == hole].any()


# ---- the slow twin


def sample(flow, mask, place):
    low = np.floor(place).astype(int)
    total, weights = np.zeros(len(place)), 0.0
    for corner in product((0, 1), repeat=len(place)):
        at = tuple(low + corner)
        if all(i < n for i, n in zip(at, mask.shape, strict=True)) and mask[at]:
            weight = np.prod([f if c else 1 - f for c, f in zip(corner, place - low, strict=True)])
            total, weights = total + weight * flow[(slice(None), *at)], weights + weight
    return total / weights if weights > 0 else total


def twin_stage(flow, mask, start, step, steps):
    here = flow[(slice(None), *start)].astype(float)
    if (here**2).sum() >= 0.97**2:
        nearest = tuple(int(v) for v in start + np.rint(here))
        if nearest != start and all(0 <= i < n for i, n in zip(nearest, mask.shape, strict=True)) and mask[nearest]:
            return nearest
    place, before, length = np.array(start, float), np.zeros(mask.ndim), step
    for _ in range(steps):
        way = sample(flow, mask, place)
        length *= 0.5 if way @ before < 0 else 1
        if way @ way * length**2 < (step / steps) ** 2:
            break
        before = way
        place = np.clip(place + length * way, 0, np.array(mask.shape) - 1)
        if ((place - start) ** 2).sum() >= (3 * step) ** 2:
            break
    return tuple(int(v + 0.5) for v in place)


def twin(flow, mask, step=1.0, steps=200):
    """Basins in plain Python, one number a basin."""
    following = {p: twin_stage(flow, mask, p, step, steps) for p in map(tuple, np.argwhere(mask).tolist())}
    counts, ends = np.zeros(mask.shape, int), {}
    for p in following:
        path = [p]
        while mask[path[-1]] and path[-1] not in path[:-1]:
            path.append(following[path[-1]])
        if mask[path[-1]]:
            ends[p] = min(path[path.index(path[-1]) :])
            counts[ends[p]] += 1
    neighbours = np.ones((3,) * mask.ndim)
    dense, _ = ndimage.label(counts >= 3, neighbours)
    result = np.zeros(mask.shape, int)
    for p, end in ends.items():
        around = tuple(slice(max(i - 1, 0), i + 2) for i in end)
        best = np.argmax(np.where(dense[around] > 0, counts[around], 0))
        result[p] = dense[end] or dense[around].flat[best]
    return result


@pytest.mark.parametrize(
    ("seed", "shape", "radius", "spread"), [(1, (48, 50), 9, 0), (2, (48, 50), 9, 0.4), (3, (14, 15, 16), 5, 0.3)]
)
def test_equals_the_slow_twin(seed, shape, radius, spread):
    labels = ellipses(seed, shape, radius)
    flow = with_noise(labels, spread, seed) if spread else labels_to_flows(labels)
    found = find_basins(flow, inside(labels), 0.5, 1.0, 200, 15)
    slow = twin(flow, labels > 0)
    assert overlap_ap(relabel(slow), relabel(found), 0.9) > 0.95
    assert np.mean((slow > 0) == (found > 0)) > 0.999


# ---- round trips: labels -> flows -> labels


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(4, 14))
def test_touching_ellipses_come_back(seed, radius):
    labels = ellipses(seed, (120, 130), radius)
    result = round_trip(labels)
    assert overlap_ap(labels, result.labels, 0.9) == 1
    assert_guarantees(result.labels, 15)
    assert len(result.flow_errors) == result.labels.max() and result.flow_errors.max(initial=0) < 0.1


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6), st.floats(4, 8))
def test_touching_ellipsoids_come_back(seed, radius):
    labels = ellipses(seed, (30, 34, 38), radius)
    result = round_trip(labels)
    assert overlap_ap(labels, result.labels, 0.9) == 1
    assert_guarantees(result.labels, 15)


def bar(shape, middle, angle, length, width):
    yy, xx = np.indices(shape)
    along = (yy - middle[0]) * np.sin(angle) + (xx - middle[1]) * np.cos(angle)
    across = (xx - middle[1]) * np.sin(angle) - (yy - middle[0]) * np.cos(angle)
    return (abs(along) <= length / 2) & (abs(across) <= width / 2)


def difficult():
    yy, xx = np.indices((160, 160))
    radius = np.hypot(yy - 80, xx - 81.3)
    nested = np.zeros((160, 160), np.int32)
    nested[radius < 70], nested[radius < 40], nested[radius < 15] = 1, 2, 3
    rings = np.where((radius < 70) & (radius > 55), 1, 0) + np.where((radius < 54) & (radius > 48), 2, 0)
    rings = rings + np.where(radius < 20, 3, 0)
    wide = bar((440, 440), (220, 220), 0.4, 400, 10).astype(np.int32)
    thin = bar((220, 220), (100, 110), 1.1, 160, 4).astype(np.int32)
    arms = [
        bar((300, 300), (150 + 60 * np.sin(a), 150 + 60 * np.cos(a)), a, 120, w)
        for a, w in ((0.3, 7), (1.9, 4), (4.0, 5))
    ]
    star = np.any(arms, axis=0).astype(np.int32)
    star[bar((300, 300), (60, 150), 0, 200, 12)] = 2
    disks = np.zeros((650, 1300), np.int32)
    yy, xx = np.indices(disks.shape)
    disks[(yy - 325) ** 2 + (xx - 320) ** 2 < 300**2] = 1
    disks[((yy - 325) ** 2 + (xx - 930) ** 2 < 310**2) & (disks == 0)] = 2
    touching = np.zeros((44, 200), np.int32)
    touching[2:42] = 1 + np.arange(40)[:, None] // 4
    return {
        "nested": (nested, 2.0),
        "rings": (rings, 1.0),
        "40:1": (wide, 1.0),
        "40:1 thin": (thin, 1.0),
        "branched": (star, 1.0),
        "600 px": (disks, 20.0),
        "600 px in small steps": (disks, 1.0),
        "bars side by side": (touching, 1.0),
    }


@pytest.mark.parametrize(("name", "case"), difficult().items(), ids=difficult().keys())
def test_difficult_shapes_come_back(name, case):
    labels, step = case
    result = round_trip(labels, step=step)
    assert overlap_ap(labels, result.labels, 0.9) == 1
    assert_guarantees(result.labels, 15)


def test_tiny_objects_come_back():
    labels = np.zeros((30, 30), np.int32)
    labels[2, 2], labels[5:7, 5:7], labels[10:13, 10:15], labels[20, 4:9] = 1, 2, 3, 4
    assert same_objects(round_trip(labels, min_size=1).labels, labels)
    assert same_objects(round_trip(labels, min_size=0).labels, labels)
    kept = round_trip(labels).labels
    assert same_objects(kept, np.where(labels == 3, 1, 0))


def test_large_labels_in_the_corner_of_an_image_come_back():
    labels = np.zeros((50, 60), np.int32)
    labels[:20, :25], labels[30:, :25], labels[:20, 25:], labels[30:, 40:] = 1, 2, 3, 4
    assert same_objects(round_trip(labels).labels, labels)


def test_spheres_in_3d_come_back():
    labels = np.zeros((40, 44, 48), np.int32)
    grid = np.indices(labels.shape)
    for number, centre in enumerate(product((10, 30), (11, 33), (12, 36)), 1):
        labels[sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) < 100] = number
    assert same_objects(round_trip(labels).labels, labels)


@pytest.mark.data
@pytest.mark.slow
def test_real_annotations_come_back(data_root):
    from PIL import Image

    sources = sorted(path for path in data_root.iterdir() if path.is_dir())
    for source in sources:
        masks = sorted(source.glob("*/*_masks.png"))
        for path in masks[:: max(1, len(masks) // 3)]:
            truth = np.asarray(Image.open(path)).astype(np.int32)
            truth[truth == 65535] = 0
            truth = relabel(remove_small(keep_largest_piece(truth), 15))
            diameter = median_diameter(truth) if truth.any() else 30.0
            found = round_trip(truth, step=max(1.0, diameter / 30)).labels
            assert overlap_ap(truth, found, 0.9) == 1, path.name


# ---- imperfect predictions


@pytest.mark.parametrize(("radius", "least"), [(13, 0.55), (7, 0.8)])
def test_noisy_flows_keep_the_guarantees_and_most_objects(radius, least):
    labels = ellipses(7, (256, 256), radius)
    flow = with_noise(labels, 0.6, 7)
    result = segment_flows(flow, inside(labels), flow_threshold=None)
    assert_guarantees(result.labels, 15)
    assert overlap_ap(labels, result.labels, 0.5) > least
    assert_guarantees(segment_flows(flow, inside(labels)).labels, 15)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(40, 41), (9, 14, 15)]), st.sampled_from([0, 1, 6, 15]))
def test_any_flows_keep_the_guarantees(seed, shape, min_size):
    rng = np.random.default_rng(seed)
    flow = np.stack([ndimage.gaussian_filter(rng.normal(size=shape), 2) for _ in shape])
    flow = (flow / flow.std() * rng.uniform(0.1, 1.5)).astype(np.float32)
    probability = ndimage.gaussian_filter(rng.random(shape), 1).astype(np.float32)
    result = segment_flows(flow, probability, flow_threshold=None, min_size=min_size, step=rng.uniform(0.5, 4))
    assert_guarantees(result.labels, min_size)
    assert not result.labels[probability <= 0.5].any() or min_size > 1
    strict = segment_flows(flow, probability, flow_threshold=0.8, min_size=min_size)
    assert_guarantees(strict.labels, min_size)
    assert np.all(strict.flow_errors <= np.where(touches_border(strict.labels, range(len(shape))), 1.6, 0.8))
    np.testing.assert_allclose(flow_errors(strict.labels, flow), strict.flow_errors)


def test_errors_are_mean_squared_differences():
    labels = ellipses(4, (60, 60), 8)
    flow = with_noise(labels, 0.5, 4)
    difference = ((labels_to_flows(labels).astype(float) - flow) ** 2).sum(0)
    expected = ndimage.mean(difference, labels, np.arange(1, labels.max() + 1))
    np.testing.assert_allclose(flow_errors(labels, flow), expected, rtol=1e-6)
    np.testing.assert_allclose(flow_errors(labels.astype(">i4"), flow.astype(">f4")), expected, rtol=1e-6)
    np.testing.assert_allclose(flow_errors(labels, flow.astype(np.float16)), expected, rtol=1e-2)


def test_objects_that_contradict_the_flow_are_dropped():
    labels = np.zeros((40, 80), np.int32)
    labels[5:35, 5:35], labels[5:35, 45:75] = 1, 2
    flow = labels_to_flows(labels)
    flow[:, labels == 2] *= 0.1
    assert round(segment_flows(flow, inside(labels), flow_threshold=None).flow_errors[1], 2) == 0.81
    assert same_objects(flows_to_labels(flow, inside(labels)), np.where(labels == 1, 1, 0))


# ---- input


@pytest.mark.parametrize("shape", [(0, 0), (0, 7), (5, 5), (3, 0, 4), (2, 3, 4), (1, 1)])
def test_images_without_objects(shape):
    result = segment_flows(np.zeros((len(shape), *shape), np.float32), np.zeros(shape, np.float32))
    assert result.labels.shape == shape and not result.labels.any() and result.flow_errors.shape == (0,)


def test_a_foreground_without_flow_has_no_crash():
    result = segment_flows(np.zeros((2, 9, 9), np.float32), np.ones((9, 9), np.float32))
    assert not result.labels.any()


def test_layout_and_type_do_not_matter_and_input_stays():
    labels = ellipses(5, (50, 60), 8)
    flow, probability = with_noise(labels, 0.3, 5), inside(labels)
    expected = flows_to_labels(flow, probability)
    copies = flow.copy(), probability.copy()
    for f in (flow.astype(np.float64), np.asfortranarray(flow), np.moveaxis(np.moveaxis(flow, 0, -1).copy(), -1, 0)):
        np.testing.assert_array_equal(flows_to_labels(f, np.asfortranarray(probability)), expected)
    np.testing.assert_array_equal(flow, copies[0])
    np.testing.assert_array_equal(probability, copies[1])


def test_what_does_not_fit_is_refused():
    flow, probability = np.zeros((2, 5, 5), np.float32), np.ones((5, 5), np.float32)
    with pytest.raises(ValueError, match="expected flow"):
        segment_flows(flow, probability[:4])
    with pytest.raises(ValueError, match="expected flow"):
        segment_flows(flow[:1], probability[0])
    for options in ({"step": 0.0}, {"step": np.nan}, {"steps": 0}, {"min_size": -1}):
        with pytest.raises(ValueError, match="expected min_size"):
            segment_flows(flow, probability, **options)
    for options in ({"probability_threshold": np.nan}, {"probability_threshold": -1}, {"flow_threshold": np.nan}):
        with pytest.raises(ValueError, match="expected a probability_threshold"):
            segment_flows(flow, probability, **options)
    with pytest.raises(ValueError, match="expected flow"):
        segment_flows([[[0.0]]], [1.0])
    flow[0, 2, 2] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        segment_flows(flow, probability)
    with pytest.raises(ValueError, match="not finite"):
        segment_flows(np.zeros_like(flow), probability * np.nan)


def test_eight_threads_at_once(monkeypatch):
    labels = ellipses(6, (200, 210), 9)
    flow, probability = with_noise(labels, 0.4, 6), inside(labels)
    expected = segment_flows(flow, probability)
    with ThreadPoolExecutor(8) as pool:
        for result in pool.map(lambda _: segment_flows(flow, probability), range(24)):
            np.testing.assert_array_equal(result.labels, expected.labels)
            np.testing.assert_array_equal(result.flow_errors, expected.flow_errors)
    monkeypatch.setenv("CELLBASIN_THREADS", "1")
    np.testing.assert_array_equal(segment_flows(flow, probability).labels, expected.labels)


@pytest.mark.parametrize(("at_border", "found"), [(True, 1), (False, 0)])
def test_objects_that_the_border_cuts_are_judged_more_leniently(at_border, found):
    """The flows of a disk of which the border leaves the smaller part; the same part inside the image is dropped."""
    y, x = np.mgrid[:60, :60]
    disk = ((y - 30) ** 2 + (x - 30) ** 2 < 20**2).astype(np.int32)
    flow = labels_to_flows(disk)
    flow[0] *= 0.3  # so that pixels reach a basin before they leave
    part = disk.copy()
    part[:24] = 0
    part, flow = (part[24:], flow[:, 24:]) if at_border else (part, flow * part)
    error = flow_errors(part, flow)[0]
    wanted = segment_flows(flow, part.astype(np.float32), flow_threshold=error / 1.5, min_size=1)
    assert len(wanted.flow_errors) == found
