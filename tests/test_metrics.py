"""Scores against stardist's matching, brute force, and the properties of a fair score."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from stardist import matching as reference
from stardist.data import test_image_nuclei_2d as nuclei_2d

from cellbasin import metrics

THRESHOLDS = (0.1, 0.2, 0.25, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95)


def iou_in_float64(overlap: np.ndarray) -> np.ndarray:
    """StarDist keeps IoU in float32, too coarse for 1e-9; it takes other criteria by name."""
    union = overlap.sum(0, keepdims=True) + overlap.sum(1, keepdims=True) - overlap
    return np.divide(overlap, union, out=np.zeros(overlap.shape), where=union > 0)


@pytest.fixture(scope="module", autouse=True)
def exact_reference():
    reference.matching_criteria["iou64"] = iou_in_float64
    yield
    del reference.matching_criteria["iou64"]


def blobs(seed: int, shape: tuple[int, ...] = (96, 112), count: int = 40) -> np.ndarray:
    """Voronoi cells with rough edges and gaps in their numbers."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, 1, (count, len(shape))) * shape
    points = np.stack(np.indices(shape), -1) + rng.normal(0, 0.7, (*shape, len(shape)))
    distance = np.linalg.norm(points[..., None, :] - centres, axis=-1)
    numbers = rng.choice(np.arange(1, 5 * count), count, replace=False)
    return np.where(distance.min(-1) < 9, numbers[distance.argmin(-1)], 0).astype(np.int32)


def disturbed(labels: np.ndarray, seed: int) -> np.ndarray:
    """Shifted, with some objects merged, split, lost and renumbered."""
    rng = np.random.default_rng(seed)
    out = np.roll(labels, rng.integers(-3, 4, labels.ndim), range(labels.ndim))
    values = np.unique(out[out > 0])
    for value in rng.choice(values, len(values) // 3, replace=False):
        kind = rng.integers(3)
        if kind == 0:
            out[out == value] = 0
        elif kind == 1:
            out[out == value] = rng.choice(values)
        else:
            out[(out == value) & (np.indices(labels.shape)[1] % 16 < 8)] = values.max() + value
    numbers = np.concatenate([[0], 1 + rng.permutation(3 * out.max())[: out.max()]])
    return numbers[out].astype(np.int32)


def assert_same(found: metrics.Match, expected, tolerance: float = 1e-9) -> None:
    assert (found.tp, found.fp, found.fn) == (expected.tp, expected.fp, expected.fn)
    for name in ("precision", "recall", "f1", "mean_matched_score", "mean_true_score", "panoptic_quality"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=tolerance)
    assert found.average_precision == pytest.approx(expected.accuracy, abs=tolerance)


@pytest.mark.parametrize("seed", range(12))
def test_equals_reference_on_images_with_gaps(seed):
    shape = (96, 112) if seed % 3 else (20, 40, 40)
    truth = blobs(seed, shape, 40 if seed % 2 else 90)
    predicted = disturbed(truth, seed) if seed % 4 else blobs(seed + 100, shape)
    for found, threshold in zip(metrics.match(truth, predicted, THRESHOLDS), THRESHOLDS, strict=True):
        expected = reference.matching(truth, predicted, threshold, criterion="iou64", report_matches=True)
        assert_same(found, expected)
        matched = [expected.matched_pairs[i] for i in expected.matched_tps]
        assert sorted(map(tuple, found.pairs.tolist())) == sorted(matched)


@settings(deadline=None, max_examples=300)
@given(st.data(), st.sampled_from(THRESHOLDS))
def test_counts_equal_reference_on_tiny_images(data, threshold):
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=3, max_side=5))
    labels = hnp.arrays(np.int32, shape, elements=st.integers(0, 4))
    truth, predicted = data.draw(labels), data.draw(labels)
    found = metrics.match(truth, predicted, threshold)
    expected = reference.matching(truth, predicted, threshold, criterion="iou64")
    if truth.any() or predicted.any():
        assert (found.tp, found.fp, found.fn) == (expected.tp, expected.fp, expected.fn)
        assert found.average_precision == pytest.approx(expected.accuracy, abs=1e-9)
        if threshold >= 0.5:
            assert_same(found, expected)
    else:
        assert found.average_precision == 1


def test_known_values_of_shifted_disks():
    grid = np.indices((100, 500))
    disk = (grid[0] - 50) ** 2 + (grid[1][:, :100] - 50)[:, [*range(100)] * 5] ** 2 < 40**2
    truth = np.where(disk, 1 + grid[1] // 100, 0)
    for shift in (0, 5, 10):
        predicted = np.roll(truth, shift, axis=0)
        iou = metrics.overlap(truth, predicted).iou[0]
        low, high = metrics.match(truth, predicted, (0.5 * iou, 2 * iou))
        assert (low.tp, low.fp, low.fn) == (5, 0, 0) and len(low.pairs) == 5
        assert (high.tp, high.fp, high.fn) == (0, 5, 5)
    square = np.zeros((100, 100), np.uint16)
    square[10:20, 10:20] = 1
    assert metrics.match(square, np.roll(square, 5, axis=0)).tp == 0


def test_known_values_of_rotated_nuclei():
    _, truth = nuclei_2d(return_mask=True)
    rotated = ndimage.rotate(truth, 2, order=0, reshape=False)
    found = metrics.match(truth, rotated)
    assert (found.tp, found.fp, found.fn) == (37, 88, 88)
    assert found.precision == pytest.approx(0.296)
    assert found.average_precision == pytest.approx(0.17370892)
    assert found.mean_true_score == pytest.approx(0.19490, abs=1e-5)
    assert found.mean_matched_score == pytest.approx(0.65847, abs=1e-5)
    assert found.panoptic_quality == pytest.approx(0.19490, abs=1e-5)
    assert metrics.match(truth, truth, 1.0).average_precision == 1


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.randoms(use_true_random=False))
def test_label_numbers_never_matter(seed, random):
    truth = blobs(seed % 5, (48, 48), 12)
    predicted = disturbed(truth, seed)
    numbers = [0, *random.sample(range(1, 60000), int(predicted.max()))]
    renamed = np.array(numbers)[predicted]
    for ours, theirs in zip(
        metrics.match(truth, predicted, (0.3, 0.5, 0.9)),
        metrics.match(truth, renamed.astype(np.uint64) * 2**40, (0.3, 0.5, 0.9)),
        strict=True,
    ):
        assert (ours.tp, ours.fp, ours.fn) == (theirs.tp, theirs.fp, theirs.fn)
        assert ours.panoptic_quality == pytest.approx(theirs.panoptic_quality)
    assert metrics.aggregated_jaccard(truth, predicted) == metrics.aggregated_jaccard(truth, renamed)


def test_identical_objects_with_a_gap_score_one():
    truth = np.zeros((9, 9), np.int32)
    truth[1:3, 1:3], truth[4:6, 4:6], truth[7:9, 7:9] = 1, 2, 3
    predicted = np.where(truth == 3, 9, truth)
    np.testing.assert_array_equal(metrics.average_precision(truth, predicted), [1, 1, 1])


@pytest.mark.parametrize("shape", [(8, 8), (0, 8), (3, 0, 3), (1,)])
def test_nothing_found_where_nothing_is_counts_one(shape):
    empty = np.zeros(shape, np.uint16)
    found = metrics.match(empty, empty)
    for name in ("precision", "recall", "f1", "average_precision", "mean_true_score", "panoptic_quality"):
        assert getattr(found, name) == 1
    assert metrics.aggregated_jaccard(empty, empty) == 1
    np.testing.assert_array_equal(metrics.average_precision(empty, empty), 1)


def test_only_one_side_empty_scores_zero():
    empty, some = np.zeros((5, 5), np.int32), np.eye(5, dtype=np.int32)
    for truth, predicted in ((empty, some), (some, empty)):
        found = metrics.match(truth, predicted)
        assert found.average_precision == found.f1 == found.panoptic_quality == found.mean_matched_score == 0
        assert metrics.aggregated_jaccard(truth, predicted) == 0


def test_most_matches_come_before_the_best_match():
    """Taking the best pair first would leave the second true object alone."""
    truth = np.array([[1] * 4 + [2] * 6])
    predicted = np.array([[3] * 2 + [4] * 8])
    shared = metrics.overlap(truth, predicted)
    assert shared.iou.round(3).tolist() == [0.5, 0.2, 0.75]
    truth = np.array([[1] * 5 + [2] * 3 + [0] * 2])
    predicted = np.array([[3] * 1 + [4] * 7 + [0] * 2])
    assert metrics.match(truth, predicted, 0.19).pairs.tolist() == [[1, 3], [2, 4]]


def test_half_of_an_object_matches_half():
    truth = np.ones((2, 10), np.int32)
    predicted = np.where(np.arange(10) < 5, 1, 2) * np.ones((2, 1), np.int32)
    found = metrics.match(truth, predicted, 0.5)
    assert (found.tp, found.fp, found.fn) == (1, 1, 0)


def test_ignored_pixels():
    truth = np.zeros((10, 12), np.uint16)
    truth[:, 8:] = 65535
    truth[1:5, 1:5] = 1
    predicted = np.zeros((10, 12), np.int32)
    predicted[1:5, 1:5] = 7
    predicted[6:8, 6:10] = 3  # half of it is ignored: does not count
    predicted[0:2, 10:12] = 9  # all of it is
    assert metrics.average_precision(truth, predicted, ignore=65535).tolist() == [1, 1, 1]
    assert metrics.match(truth, predicted).fp == 2 and metrics.match(truth, predicted).fn == 1
    predicted[6:8, 5] = 3  # now less than half: a false positive
    found = metrics.match(truth, predicted, ignore=65535)
    assert (found.tp, found.fp, found.fn) == (1, 1, 0)
    truth[6:8, 5:8] = 2  # and its pixels that are ignored do not lower its IoU
    found = metrics.match(truth, predicted, 1.0, ignore=65535)
    assert (found.tp, found.fp, found.fn) == (2, 0, 0)
    assert found.pairs.tolist() == [[1, 7], [2, 3]]
    assert metrics.aggregated_jaccard(truth, predicted, 65535) == 1
    everything = np.full((4, 4), 65535, np.uint16)
    assert metrics.match(everything, np.ones((4, 4), int), ignore=65535).average_precision == 1


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_ignored_pixels_equal_slow_rule(data):
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=6))
    truth = data.draw(hnp.arrays(np.int32, shape, elements=st.sampled_from([0, 1, 2, 99])))
    predicted = data.draw(hnp.arrays(np.int32, shape, elements=st.integers(0, 3)))
    kept = predicted.copy()
    for value in (1, 2, 3):
        mine = predicted == value
        if mine.any() and np.mean(truth[mine] == 99) >= 0.5:
            kept[mine] = 0
    kept[truth == 99] = 0
    expected = metrics.match(np.where(truth == 99, 0, truth), kept, 0.5)
    found = metrics.match(truth, predicted, 0.5, ignore=99)
    assert (found.tp, found.fp, found.fn) == (expected.tp, expected.fp, expected.fn)
    np.testing.assert_array_equal(found.scores, expected.scores)


@pytest.mark.parametrize("seed", range(6))
def test_aggregated_jaccard_equals_brute_force(seed):
    truth = blobs(seed, (48, 64), 15)
    predicted = disturbed(truth, seed)
    above = below = 0
    used = set()
    for i in np.unique(truth[truth > 0]):

        def iou(j, i=i):
            return np.sum((truth == i) & (predicted == j)) / np.sum((truth == i) | (predicted == j))

        j = max(np.unique(predicted[predicted > 0]), key=iou)
        if iou(j) == 0:
            below += np.sum(truth == i)
            continue
        used.add(j)
        above += np.sum((truth == i) & (predicted == j))
        below += np.sum((truth == i) | (predicted == j))
    below += sum(np.sum(predicted == j) for j in np.unique(predicted[predicted > 0]) if j not in used)
    assert metrics.aggregated_jaccard(truth, predicted) == pytest.approx(above / below, abs=1e-12)


def test_overlap_counts_every_shared_pixel():
    truth, predicted = blobs(1), disturbed(blobs(1), 4)
    shared = metrics.overlap(truth, predicted)
    for k in range(0, len(shared.pixels), 7):
        mine = truth == shared.true_labels[shared.true_index[k]]
        yours = predicted == shared.predicted_labels[shared.predicted_index[k]]
        assert shared.pixels[k] == np.sum(mine & yours)
        assert shared.iou[k] == np.sum(mine & yours) / np.sum(mine | yours)
    assert shared.pixels.sum() == np.sum((truth > 0) & (predicted > 0))


def test_many_touching_objects_are_cheap_at_low_thresholds():
    """One chain of 16,000 overlapping objects: a dense cost table would take two gigabytes."""
    y, x = np.indices((1000, 1024))
    truth = (y // 8) * 128 + x // 8 + 1
    predicted = ((y + 3) // 8) * 129 + (x + 4) // 8 + 1
    metrics.match(truth[:64, :64], predicted[:64, :64], 0.1)
    start = time.perf_counter()
    found = metrics.match(truth, predicted, (0.1, 0.5))
    assert time.perf_counter() - start < 20
    assert found[0].tp >= 0.95 * len(np.unique(truth))


def test_means_over_images_and_over_sources():
    image = np.array([[1, 0, 2, 2]], np.int32)
    pairs = [(image, image)] * 6 + [(image, np.zeros_like(image))] * 2
    values = [metrics.average_precision(truth, found, (0.5, 0.9)) for truth, found in pairs]
    scores = metrics.summarise(values, ["a"] * 6 + ["b"] * 2, (0.5, 0.9))
    assert scores.average_precision.shape == (8, 2)
    assert scores.over_images[0].mean == 0.75
    assert scores.over_images[0].low < 0.75 < scores.over_images[0].high
    assert scores.over_sources[0] == metrics.Interval(1.0, 1.0, 1.0)  # b has fewer than five images
    assert {name: value.tolist() for name, value in scores.by_source.items()} == {"a": [1, 1], "b": [0, 0]}
    assert np.isnan(metrics.summarise(values[:2], ["a"] * 2, (0.5, 0.9)).over_sources[0].mean)
    with pytest.raises(ValueError, match="at least one image"):
        metrics.summarise([], [])


def test_bootstrap_covers_the_mean_and_repeats():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(60):
        values = rng.normal(0.5, 0.1, 40)
        interval = metrics.bootstrap_interval(values, repeats=300)
        assert interval == metrics.bootstrap_interval(values, repeats=300)
        hits += interval.low <= 0.5 <= interval.high
    assert 50 <= hits <= 60
    values, sources = np.array([0.0] * 5 + [1.0] * 20), ["few"] * 5 + ["many"] * 20
    assert metrics.bootstrap_interval(values, sources).mean == 0.5
    assert metrics.bootstrap_interval(values).mean == 0.8


def test_errors_say_what_was_found():
    some = np.ones((3, 3), int)
    with pytest.raises(ValueError, match=r"\(3, 3\) and \(2, 3\)"):
        metrics.match(some, some[:2])
    with pytest.raises(TypeError, match=r"predicted .* float64"):
        metrics.match(some, some * 1.0)
    with pytest.raises(ValueError, match="negative"):
        metrics.match(some, -some)
    with pytest.raises(ValueError, match="above 0, found 0"):
        metrics.match(some, some, 0)


@pytest.mark.data
def test_truth_against_itself_is_perfect(load_pair):
    for source in ("endothelium", "dsb2018", "junctions"):
        labels = load_pair(source, "test", 0).labels
        assert metrics.average_precision(labels, labels, ignore=65535).tolist() == [1, 1, 1]


def test_one_threshold_may_be_a_number_of_any_kind():
    truth, predicted = np.array([[1, 1, 0, 5, 5]]), np.array([[3, 3, 0, 0, 9]])
    for one in (0.75, np.float32(0.75), np.array(0.75)):
        assert metrics.match(truth, predicted, one).tp == 1
        assert metrics.average_precision(truth, predicted, one).tolist() == [1 / 3]
    assert [found.tp for found in metrics.match(truth, predicted, np.array([0.5, 0.75]))] == [2, 1]
