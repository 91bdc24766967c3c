"""Label operations against scipy.ndimage and scikit-image, and properties that must always hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage import measure, segmentation

from cellbasin import labels as lb

shapes_2d = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)
shapes_3d = hnp.array_shapes(min_dims=3, max_dims=3, max_side=5)
small = hnp.arrays(np.int32, shapes_2d | shapes_3d, elements=st.integers(0, 3))


def noise_labels(shape: tuple[int, ...], seed: int, top: int = 4) -> np.ndarray:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.2)
    return np.digitize(smooth, np.linspace(0.0, smooth.max() * 0.8, top)).astype(np.int32)


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return len(set(pairs[0])) == pairs.shape[1] == len(set(pairs[1]))


@settings(deadline=None, max_examples=150)
@given(small)
def test_split_pieces_is_skimage_label(labels):
    found = lb.split_pieces(labels)
    assert found.dtype == np.int32
    assert same_partition(found, measure.label(labels, background=0, connectivity=labels.ndim))
    assert set(np.unique(found)) - {0} == set(range(1, found.max() + 1))
    owner = [labels[found == i][0] for i in range(1, found.max() + 1)]
    assert owner == sorted(owner)
    np.testing.assert_array_equal(lb.split_pieces(found), found)


@settings(deadline=None, max_examples=80)
@given(small)
def test_split_pieces_through_faces(labels):
    expected = measure.label(labels, background=0, connectivity=1)
    assert same_partition(lb.split_pieces(labels, through="faces"), expected)


@pytest.mark.parametrize("shape", [(150, 170), (30, 40, 50)])
def test_split_pieces_of_larger_images(shape):
    labels = noise_labels(shape, 0)
    assert same_partition(lb.split_pieces(labels), measure.label(labels, background=0, connectivity=len(shape)))


def test_long_spiral_is_one_piece():
    spiral = np.zeros((101, 101), np.int32)
    y = x = 0
    dy, dx, run = 0, 1, 100
    spiral[0, 0] = 1
    for turn in range(80):
        for _ in range(run):
            y, x = y + dy, x + dx
            spiral[y, x] = 1
        dy, dx = dx, -dy
        run -= 2 if turn % 2 and turn > 1 else 0
        if run <= 1:
            break
    np.testing.assert_array_equal(lb.split_pieces(spiral), spiral)
    np.testing.assert_array_equal(lb.keep_largest_piece(spiral), spiral)


@settings(deadline=None, max_examples=100)
@given(small)
def test_keep_largest_piece(labels):
    before = labels.copy()
    found = lb.keep_largest_piece(labels)
    np.testing.assert_array_equal(labels, before)
    for value in np.unique(labels[labels > 0]):
        pieces, _ = ndimage.label(labels == value, np.ones((3,) * labels.ndim))
        sizes = np.bincount(pieces.ravel())[1:]
        np.testing.assert_array_equal(found == value, pieces == 1 + np.argmax(sizes))
    assert not found[labels == 0].any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int64, np.uint64])
def test_relabel_has_no_gaps_and_keeps_the_order(dtype):
    rng = np.random.default_rng(1)
    labels = rng.choice([0, 3, 50, 120, 121], (40, 50)).astype(dtype)
    found = lb.relabel(labels)
    np.testing.assert_array_equal(found, segmentation.relabel_sequential(labels)[0])
    assert found.dtype == np.int32


def test_relabel_of_huge_values():
    labels = np.array([[0, 2**63 + 5], [2**40, 7]], np.uint64)
    np.testing.assert_array_equal(lb.relabel(labels), [[0, 3], [2, 1]])


def brute_force_fill(labels: np.ndarray, max_size: int) -> np.ndarray:
    out = labels.copy()
    holes, count = ndimage.label(labels == 0)
    for hole in range(1, count + 1):
        inside = holes == hole
        around = np.unique(labels[ndimage.binary_dilation(inside) & ~inside])
        on_border = any(np.take(inside, end, axis).any() for axis in range(labels.ndim) for end in (0, -1))
        if len(around) == 1 and not on_border and inside.sum() < max_size:
            out[inside] = around[0]
    return out


@settings(deadline=None, max_examples=200)
@given(small, st.integers(0, 12))
def test_fill_small_holes_equals_brute_force(labels, max_size):
    np.testing.assert_array_equal(lb.fill_small_holes(labels, max_size), brute_force_fill(labels, max_size))


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=3, max_side=8)))
def test_fill_of_one_object_is_scipy_fill_holes(mask):
    filled = lb.fill_small_holes(mask.astype(np.int32), 10**9)
    np.testing.assert_array_equal(filled > 0, ndimage.binary_fill_holes(mask))


def test_nested_objects_stay():
    labels = np.zeros((20, 20), np.int32)
    labels[2:18, 2:18] = 1
    labels[5:15, 5:15] = 0
    labels[8:11, 8:11] = 2
    np.testing.assert_array_equal(lb.fill_small_holes(labels, 1000), labels)
    labels[9, 9] = 0
    assert lb.fill_small_holes(labels, 1000)[9, 9] == 2


def test_fill_in_volumes_needs_a_closed_cavity():
    volume = np.ones((3, 5, 5), np.int32)
    volume[1, 2, 2] = 0
    assert lb.fill_small_holes(volume, 2).all()
    volume[0, 2, 2] = 0  # opens it to the border
    np.testing.assert_array_equal(lb.fill_small_holes(volume, 5), volume)


@settings(deadline=None, max_examples=100)
@given(small)
def test_measures_equal_scipy(labels):
    top = labels.max()
    np.testing.assert_array_equal(lb.areas(labels), np.bincount(labels.ravel(), minlength=top + 1)[1:])
    boxes = lb.boxes(labels)
    assert boxes.shape == (top, labels.ndim, 2)
    for box, expected in zip(boxes, ndimage.find_objects(labels), strict=True):
        if expected is None:
            assert not box.any()
        else:
            assert [(s.start, s.stop) for s in expected] == [tuple(b) for b in box]
    axes = tuple(range(labels.ndim))
    for i, touching in enumerate(lb.touches_border(labels, axes)):
        ends = [np.take(labels == i + 1, end, axis).any() for axis in axes for end in (0, -1)]
        assert touching == any(ends)
    np.testing.assert_array_equal(
        lb.boundaries(labels), segmentation.find_boundaries(labels, connectivity=1, mode="inner")
    )


def test_remove_small_and_border():
    labels = noise_labels((80, 90), 3)
    labels = lb.split_pieces(labels)
    found = lb.remove_small(labels, 20)
    area = np.bincount(labels.ravel())
    np.testing.assert_array_equal(found, np.where(area[labels] >= 20, labels, 0))
    np.testing.assert_array_equal(lb.relabel(lb.remove_border(labels)), lb.relabel(segmentation.clear_border(labels)))


def test_border_of_volumes_is_y_and_x_unless_asked():
    volume = np.zeros((3, 9, 9), np.int32)
    volume[0:2, 3:5, 3:5] = 1
    volume[1, 0:2, 5:7] = 2
    assert lb.touches_border(volume).tolist() == [False, True]
    assert lb.touches_border(volume, (0, 1, 2)).tolist() == [True, True]
    assert np.unique(lb.remove_border(volume)).tolist() == [0, 1]
    assert not lb.remove_border(volume, axes=(0, 1, 2)).any()


def test_diameters_of_disk_and_ball():
    grid = np.indices((41, 41)) - 20
    disk = ((grid**2).sum(0) <= 225).astype(np.int32)
    assert lb.median_diameter(disk) == pytest.approx(30, rel=0.01)
    grid = np.indices((41, 41, 41)) - 20
    ball = ((grid**2).sum(0) <= 225).astype(np.int32)
    assert lb.median_diameter(ball) == pytest.approx(30, rel=0.01)
    gaps = np.zeros((9, 9), np.int32)
    gaps[0, 0], gaps[5:7, 5:7] = 1, 40
    assert lb.median_diameter(gaps) == pytest.approx(np.median(2 * np.sqrt(np.array([1, 4]) / np.pi)))


def test_ignored_pixels_are_no_object_of_the_median():
    labels = np.zeros((12, 12), np.uint16)
    labels[1:8, 1:8] = 4
    labels[9:, :] = 65535
    assert lb.median_diameter(labels, ignore=65535) == pytest.approx(2 * np.sqrt(49 / np.pi))


@settings(deadline=None, max_examples=60)
@given(small, st.lists(st.booleans(), min_size=3, max_size=3))
def test_select_keeps_the_wanted_in_their_order(labels, wanted):
    found = lb.select(labels, np.array(wanted))
    kept = [number for number, chosen in enumerate(wanted, 1) if chosen]
    np.testing.assert_array_equal(found, sum((n * (labels == k) for n, k in enumerate(kept, 1)), np.zeros_like(labels)))
    assert found.dtype == np.int32


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 4, 4), (1, 1), (1, 1, 1), (1, 7), (7, 1)])
def test_empty_and_tiny_images(shape):
    labels = np.zeros(shape, np.uint16)
    for function in (lb.relabel, lb.split_pieces, lb.keep_largest_piece, lb.remove_border):
        assert function(labels).shape == shape
    assert lb.fill_small_holes(labels, 9).shape == shape
    assert lb.areas(labels).shape == (0,) and lb.boxes(labels).shape == (0, len(shape), 2)
    assert np.isnan(lb.median_diameter(labels))
    ones = np.ones(shape, np.uint16)
    np.testing.assert_array_equal(lb.split_pieces(ones), ones)


def test_errors_say_what_was_found():
    with pytest.raises(ValueError, match="negative, found -3"):
        lb.relabel(np.array([[-3, 1]]))
    with pytest.raises(TypeError, match="float64"):
        lb.areas(np.zeros((3, 3)))
    with pytest.raises(TypeError, match="bool"):
        lb.split_pieces(np.zeros((3, 3), bool))
    with pytest.raises(TypeError, match="list"):
        lb.split_pieces([[1]])
    with pytest.raises(ValueError, match=r"shape \(2, 2, 2, 2\)"):
        lb.boxes(np.zeros((2, 2, 2, 2), int))
    with pytest.raises(ValueError, match="relabel"):
        lb.areas(np.array([[2**40]]))


@given(hnp.arrays(bool, shapes_2d | shapes_3d), st.sampled_from([(np.uint8, 255), (np.uint16, 65535), (np.int32, 1)]))
def test_yes_no_masks_are_not_taken_for_labels(mask, kind):
    dtype, value = kind
    pieces = ndimage.label(mask, np.ones((3,) * mask.ndim))[0]
    lb.check_numbered(pieces)
    if pieces.max() > 2:
        with pytest.raises(ValueError, match=f"value {value} alone in {pieces.max()} separate pieces"):
            lb.check_numbered(mask.astype(dtype) * dtype(value))
    else:
        lb.check_numbered(mask.astype(dtype) * dtype(value))


def test_masks_of_classes_are_not_taken_for_labels():
    classes = np.zeros((40, 40), np.uint16)
    classes[::8, ::8] = 1
    classes[4::8, 4::8] = 2
    with pytest.raises(ValueError, match="2 values in 50 separate pieces"):
        lb.check_numbered(classes)
    with pytest.raises(ValueError, match="value 1 alone in 25 separate pieces"):
        lb.check_numbered(np.where(classes == 2, 65535, classes), 65535)
    lb.check_numbered(np.where(classes == 2, 65535, lb.split_pieces((classes == 1).astype(np.uint8))), 65535)
    lb.check_numbered(np.stack([classes, classes.T, 0 * classes]))  # objects that move


def test_the_median_diameter_of_labels_of_any_number():
    labels = np.zeros((20, 20), np.int64)
    labels[2:12, 2:12] = 2**40
    assert lb.median_diameter(labels) == pytest.approx(11.28, abs=0.01)


def test_inputs_of_any_layout_stay_untouched():
    labels = np.asfortranarray(noise_labels((30, 31), 5).astype(np.uint16))[::2, ::-1]
    labels.flags.writeable = False
    same = np.ascontiguousarray(labels)
    for function in (lb.relabel, lb.split_pieces, lb.keep_largest_piece, lb.boxes, lb.boundaries):
        np.testing.assert_array_equal(function(labels), function(same))
    assert lb.relabel(same.astype(np.int32)) is not same


@pytest.mark.data
def test_real_labels_survive(load_pair):
    labels = load_pair("dsb2018", "test", 0).labels
    whole = lb.relabel(lb.keep_largest_piece(labels))
    np.testing.assert_array_equal(lb.split_pieces(whole), whole)
    assert lb.areas(whole).min() > 0
