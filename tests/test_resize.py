import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cellbasin.resize import resize, resize_labels

lengths = st.integers(1, 90)
shapes = st.tuples(lengths, lengths)


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(5, 20, shape).astype(np.float32)


def pillow(image, shape, method=Image.Resampling.BILINEAR):
    return np.asarray(Image.fromarray(image).resize(shape[::-1], method))


@given(shapes, shapes, st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_equals_pillow(before, after, seed):
    image = noise(before, seed)
    tolerance = 1e-5 * (1 + np.ptp(image))
    np.testing.assert_allclose(resize(image, after), pillow(image, after), atol=tolerance)


@pytest.mark.parametrize("after", [(307, 307), (1024, 700), (3, 2000), (1, 1), (512, 513)])
def test_equals_pillow_on_large_images(after):
    image = noise((512, 512))
    np.testing.assert_allclose(resize(image, after), pillow(image, after), atol=1e-3)


def between_two_pixels(length, wanted):
    return (2 * np.arange(wanted) + 1) * length % (2 * wanted) == 0


@given(shapes, shapes)
@settings(max_examples=30, deadline=None)
def test_labels_equal_pillows_nearest(before, after):
    labels = np.random.default_rng(1).integers(0, 1000, before, dtype=np.int32)
    resized = resize_labels(labels, after)
    assert resized.dtype == labels.dtype
    differs = resized != pillow(labels, after, Image.Resampling.NEAREST)
    rows, columns = (between_two_pixels(*lengths) for lengths in zip(before, after, strict=True))
    assert not differs[np.ix_(~rows, ~columns)].any()  # rounding decides a tie in Pillow


def test_leading_axes_are_kept():
    stack = noise((2, 3, 40, 50))
    resized = resize(stack, (21, 77))
    assert resized.shape == (2, 3, 21, 77)
    assert resized.dtype == np.float32
    np.testing.assert_array_equal(resized[1, 2], resize(stack[1, 2], (21, 77)))
    assert resize_labels(stack, (21, 77)).shape == (2, 3, 21, 77)


@given(shapes, shapes)
@settings(max_examples=30, deadline=None)
def test_a_constant_stays_and_the_range_is_kept(before, after):
    np.testing.assert_allclose(resize(np.full(before, 7.0), after), 7, rtol=1e-6)
    image = noise(before)
    resized = resize(image, after)
    assert resized.min() >= image.min() - 1e-4
    assert resized.max() <= image.max() + 1e-4


def test_a_straight_ramp_stays_straight_inside():
    ramp = np.tile(np.arange(60, dtype=np.float32), (5, 1))
    for width in (25, 60, 150):
        expected = (np.arange(width) + 0.5) * 60 / width - 0.5
        inside = (expected > 5) & (expected < 54)
        np.testing.assert_allclose(resize(ramp, (5, width))[2, inside], expected[inside], atol=0.02)


def test_mirrors_with_the_image():
    image = noise((41, 67))
    np.testing.assert_allclose(resize(image[::-1, ::-1], (29, 90)), resize(image, (29, 90))[::-1, ::-1], atol=1e-4)


def test_identity_is_an_equal_new_array():
    image = noise((8, 9))
    same = resize(image, (8, 9))
    np.testing.assert_array_equal(same, image)
    assert not np.shares_memory(same, image)
    assert not np.shares_memory(resize_labels(image, (8, 9)), image)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float64, np.float16, ">u2"])
def test_any_real_dtype_and_strides_and_inputs_are_not_modified(dtype):
    image = noise((30, 40)).clip(0, 200).astype(dtype)
    kept = image.copy()
    strided = resize(image.T[::-2], (10, 11))
    np.testing.assert_array_equal(image, kept)
    np.testing.assert_array_equal(strided, resize(np.ascontiguousarray(image.T[::-2]).astype(np.float32), (10, 11)))


def test_the_number_of_threads_does_not_matter(monkeypatch):
    image = noise((2, 300, 200))
    threaded = resize(image, (500, 111))
    monkeypatch.setenv("CELLBASIN_THREADS", "1")
    np.testing.assert_array_equal(resize(image, (500, 111)), threaded)


@pytest.mark.parametrize("function", [resize, resize_labels])
@pytest.mark.parametrize(
    ("array", "shape", "words"),
    [
        (np.zeros(5), (3, 3), "expected"),
        (np.zeros((0, 5)), (3, 3), "length 0"),
        (np.zeros((5, 5)), (0, 3), "positive whole"),
        (np.zeros((5, 5)), (2.5, 3), "positive whole"),
        (np.zeros((5, 5)), (3,), "positive whole"),
    ],
)
def test_errors(function, array, shape, words):
    with pytest.raises(ValueError, match=words):
        function(array, shape)


@pytest.mark.parametrize("dtype", [bool, complex])
def test_wrong_dtypes(dtype):
    with pytest.raises(TypeError, match="dtype"):
        resize(np.zeros((4, 4), dtype), (2, 2))
