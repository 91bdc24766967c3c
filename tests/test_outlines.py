"""Outlines: tracing and filling give back the same labels; rings are what readers of polygons expect."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage import measure

from cellbasin import outlines as ol

small = hnp.arrays(
    np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.sampled_from([0, 1, 2, 7])
)


def signed_area(ring: np.ndarray) -> float:
    y, x = ring.astype(float).T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) / 2)


def slow_fill(found: list[ol.Outline], shape: tuple[int, int]) -> np.ndarray:
    """Even-odd rule with scikit-image's test of points, one ring at a time."""
    centres = np.stack(np.indices(shape), -1).reshape(-1, 2) + 0.5
    out = np.zeros(shape, np.int32)
    for one in found:
        inside = np.zeros(len(centres), bool)
        for ring in one.rings:
            inside ^= measure.points_in_poly(centres, ring)
        out[inside.reshape(shape)] = one.label
    return out


@settings(deadline=None, max_examples=200)
@given(small)
@pytest.mark.parametrize("trace", [ol.trace_outlines, ol.trace_polygons])
def test_filling_gives_the_labels_back(trace, labels):
    found = trace(labels)
    np.testing.assert_array_equal(slow_fill(found, labels.shape), labels)
    np.testing.assert_array_equal(ol.fill_outlines(found, labels.shape), labels)
    assert [one.label for one in found] == sorted(one.label for one in found)
    for one in found:
        assert all(ring.dtype == np.int32 and ring.shape[1] == 2 for ring in one.rings)
        assert signed_area(one.outer) > 0 and all(signed_area(hole) < 0 for hole in one.holes)


@settings(deadline=None, max_examples=200)
@given(small)
@pytest.mark.parametrize("trace", [ol.trace_outlines, ol.trace_polygons])
def test_one_outline_per_piece_and_one_ring_per_hole(trace, labels):
    through_corners = trace is ol.trace_outlines
    found = trace(labels)
    pieces = measure.label(labels, background=0, connectivity=2 if through_corners else 1)
    assert len(found) == pieces.max()
    for one in found:
        mask = np.pad(ol.fill_outlines([one], labels.shape) > 0, 1)
        _, holes = ndimage.label(~mask)  # background through faces
        if through_corners:
            assert len(one.holes) == holes - 1
        assert sum(signed_area(ring) for ring in one.rings) == mask.sum()


@settings(deadline=None, max_examples=200)
@given(small)
def test_rings_turn_at_every_point_and_polygons_never_touch_themselves(labels):
    for one in [*ol.trace_outlines(labels), *ol.trace_polygons(labels)]:
        for ring in one.rings:
            steps = np.roll(ring, -1, axis=0) - ring
            assert (np.count_nonzero(steps, axis=1) == 1).all()
            turned = (steps != 0) != (np.roll(steps, -1, axis=0) != 0)
            assert turned.all()
    for one in ol.trace_polygons(labels):
        for ring in one.rings:
            assert len({tuple(point) for point in ring.tolist()}) == len(ring)


def test_one_pixel():
    labels = np.zeros((3, 4), np.uint8)
    labels[1, 2] = 9
    (found,) = ol.trace_outlines(labels)
    assert found.label == 9 and found.holes == ()
    assert sorted(found.outer.tolist()) == [[1, 2], [1, 3], [2, 2], [2, 3]]


def test_nested_objects_and_holes():
    labels = np.zeros((12, 12), np.int32)
    labels[1:11, 1:11] = 1
    labels[3:9, 3:9] = 0
    labels[5:7, 5:7] = 2
    outer, inner = ol.trace_outlines(labels)
    assert len(outer.holes) == 1 and len(inner.holes) == 0
    assert signed_area(outer.outer) == 100 and signed_area(outer.holes[0]) == -36
    np.testing.assert_array_equal(ol.fill_outlines([inner, outer], labels.shape), labels)


def test_objects_that_hang_together_at_a_corner():
    labels = np.array([[1, 0, 0], [0, 1, 1], [0, 1, 1]])
    (whole,) = ol.trace_outlines(labels)
    assert len(whole.outer) == 8
    assert [len(one.outer) for one in ol.trace_polygons(labels)] == [4, 4]
    closed = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]])  # the hole reaches the outside through a corner only
    (polygon,) = ol.trace_polygons(closed)
    assert len(polygon.holes) == 1 and signed_area(polygon.holes[0]) == -1


def test_empty_images():
    for shape in ((0, 4), (4, 0), (5, 5)):
        assert ol.trace_outlines(np.zeros(shape, int)) == [] == ol.trace_polygons(np.zeros(shape, int))
        assert ol.fill_outlines([], shape).shape == shape


def test_filling_cuts_off_what_is_outside_and_takes_real_coordinates():
    square = np.array([[-5.0, -5.0], [-5.0, 2.2], [2.7, 2.2], [2.7, -5.0]])
    expected = np.zeros((4, 4), int)
    expected[:3, :2] = 3
    np.testing.assert_array_equal(ol.fill_outlines([ol.Outline(3, square)], (4, 4)), expected)
    for shift in (-100.0, 100.0):
        assert not ol.fill_outlines([ol.Outline(3, square + shift)], (4, 4)).any()
    assert ol.fill_outlines([ol.Outline(3, square * 100 + 400)], (4, 4)).shape == (4, 4)
    assert not ol.fill_outlines([ol.Outline(3, np.zeros((0, 2)))], (4, 4)).any()


@settings(deadline=None, max_examples=100)
@given(hnp.arrays(float, st.tuples(st.integers(3, 9), st.just(2)), elements=st.integers(-16, 56)))
def test_filling_any_polygon_equals_slow_rule(ring):
    ring = ring / 4 + (np.pi / 100, np.e / 70)  # no edge passes through a pixel's centre
    outline = ol.Outline(1, ring)
    np.testing.assert_array_equal(ol.fill_outlines([outline], (10, 11)), slow_fill([outline], (10, 11)))


def test_many_cells_are_fast():
    y, x = np.indices((2048, 2048))
    near = (y % 44 - 22) ** 2 + (x % 46 - 23) ** 2 < 21**2
    labels = np.where(near, (y // 44) * 45 + x // 46 + 1, 0)
    ol.trace_outlines(labels[:64, :64])
    start = time.perf_counter()
    found = ol.trace_outlines(labels)
    took = time.perf_counter() - start
    assert len(found) > 2000
    np.testing.assert_array_equal(ol.fill_outlines(found, labels.shape), labels)
    assert took < 5  # about 0.1 s on a quiet machine


def test_errors_say_what_was_found():
    with pytest.raises(ValueError, match=r"shape \(2, 2, 2\)"):
        ol.trace_outlines(np.zeros((2, 2, 2), int))
    with pytest.raises(TypeError, match="float64"):
        ol.trace_outlines(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="rows, columns"):
        ol.fill_outlines([], (3,))


@pytest.mark.data
def test_real_labels_come_back(load_pair):
    for source in ("dsb2018", "endothelium", "axons"):
        labels = load_pair(source, "test", 0).labels
        labels = np.where(labels == 65535, 0, labels)
        for trace in (ol.trace_outlines, ol.trace_polygons):
            np.testing.assert_array_equal(ol.fill_outlines(trace(labels), labels.shape), labels)
