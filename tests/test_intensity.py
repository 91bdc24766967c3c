from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cellbasin import intensity
from cellbasin.image import Image
from cellbasin.intensity import apply_range, normalisation_range, normalise, select_channels

dtypes = st.sampled_from(["uint8", "int8", "uint16", "int16", "uint32", "int64", "float16", "float32", "float64"])
images = dtypes.flatmap(
    lambda dtype: arrays.arrays(
        dtype,
        arrays.array_shapes(min_dims=1, max_dims=3, max_side=12),
        elements={"allow_nan": False, "allow_infinity": False} if dtype.startswith("float") else None,
    )
)
percentiles = st.floats(0, 100)


@given(images, percentiles, percentiles)
@example(np.array([-0.0, 0.0, 1e-45, -1e-45], np.float32), 40, 60)
@settings(max_examples=300, deadline=None)
def test_percentiles_equal_numpys(image, low, high):
    expected = np.percentile(image.astype(np.float64), (0, low, high, 100))
    found = intensity._percentiles(intensity._checked(image), (0, low, high, 100))
    rounding = 1e-12 * (expected[-1] / 2 - expected[0] / 2)  # between two far values the place counts to its last digit
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=max(rounding, 1e-300))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, ">u2", ">f4"])
def test_percentiles_of_large_images_equal_numpys(dtype):
    image = np.random.default_rng(0).gamma(2, 20, (700, 900)).clip(0, 120).astype(dtype)
    np.testing.assert_allclose(normalisation_range(image), np.percentile(image.astype(float), (1, 99)), rtol=1e-12)
    zero, one = np.percentile(image.astype(float), (1, 99))
    np.testing.assert_allclose(normalise(image), (image.astype(float) - zero) / (one - zero), atol=1e-6)


def test_values_beyond_the_percentiles_are_kept():
    image = np.arange(1000, dtype=np.float32)
    scaled = normalise(image)
    assert scaled.min() < 0
    assert scaled.max() > 1
    assert scaled.dtype == np.float32


@given(st.floats(0.01, 100), st.floats(-1000, 1000))
@settings(max_examples=30, deadline=None)
def test_gain_and_offset_do_not_matter(gain, offset):
    image = np.random.default_rng(0).gamma(2, 50, (40, 50))
    np.testing.assert_allclose(normalise(image * gain + offset), normalise(image), atol=1e-4)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((5, 6)),
        np.full((5, 6), 255, np.uint8),
        np.full((5, 6), -3.7, np.float32),
        np.full((1, 1), 9),
        np.float32(1) + np.random.default_rng(0).normal(0, 1e-7, (50, 50)).astype(np.float32),
        np.full((5, 6), 1e300),
    ],
)
def test_a_constant_becomes_zero(image):
    lower, upper = normalisation_range(image)
    assert lower == upper
    np.testing.assert_array_equal(normalise(image), np.zeros(image.shape, np.float32))


def test_few_cells_on_a_uniform_background_are_not_lost():
    image = np.zeros((200, 200), np.uint16)
    image[50:60, 50:60] = 800
    assert normalisation_range(image) == (0, 800)
    assert normalise(image).max() == 1


def test_the_smallest_step_of_16_bits_is_not_constant():
    image = np.full((20, 20), 65534, np.uint16)
    image[:10] = 65535
    assert normalisation_range(image) == (65534, 65535)


def test_extreme_values_stay_finite():
    image = np.zeros((100, 100), np.float64)
    image[:50] = 1e-200
    image[0, 0] = 1e300
    assert np.isfinite(normalise(image)).all()
    assert np.isfinite(normalise(np.array([-3.4e38, 0, 3.4e38], np.float32))).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_not_finite(dtype):
    image = np.ones((4, 5), dtype)
    image[0, :2], image[1, 1] = np.nan, -np.inf
    with pytest.raises(ValueError, match=r"2 NaN and 1 infinite values among the 20 pixels.*nan_to_num"):
        normalise(image)


@pytest.mark.parametrize("dtype", [bool, complex, "U3", object])
def test_wrong_dtypes(dtype):
    with pytest.raises(TypeError, match="expected integers or floats"):
        normalise(np.zeros((4, 4), dtype))


@pytest.mark.parametrize(("low", "high"), [(99, 1), (5, 5), (-1, 50), (0, 101)])
def test_wrong_percentiles(low, high):
    with pytest.raises(ValueError, match="expected 0 ≤ low < high ≤ 100"):
        normalise(np.arange(9), low=low, high=high)


def test_empty():
    with pytest.raises(ValueError, match="length 0"):
        normalise(np.zeros((0, 4)))


def test_threads_do_not_matter_and_inputs_are_not_modified(monkeypatch):
    image = np.random.default_rng(0).normal(0, 1, (600, 700)).astype(np.float32)
    kept = image.copy()
    threaded = normalise(image)
    with ThreadPoolExecutor(8) as pool:
        for result in pool.map(normalise, [image] * 16):
            np.testing.assert_array_equal(result, threaded)
    monkeypatch.setenv("CELLBASIN_THREADS", "1")
    np.testing.assert_array_equal(normalise(image), threaded)
    np.testing.assert_array_equal(image, kept)


def test_blocks_can_share_a_range():
    image = np.random.default_rng(0).integers(0, 4000, (64, 64), dtype=np.uint16)
    limits = normalisation_range(image)
    blocks = np.concatenate([apply_range(image[:20], limits), apply_range(image[20:], limits)])
    np.testing.assert_array_equal(blocks, normalise(image))


def picture(axes, shape, dtype=np.uint8):
    return Image(np.random.default_rng(0).integers(0, 250, shape).astype(dtype), axes)


def test_one_channel():
    image = picture("YX", (20, 30))
    chosen = select_channels(image)
    np.testing.assert_array_equal(chosen[0], normalise(image.array))
    assert chosen.shape == (2, 20, 30)
    assert not chosen[1].any()
    assert select_channels(picture("ZYX", (4, 20, 30))).shape == (2, 4, 20, 30)


def test_primary_and_nuclear():
    image = picture("YXC", (20, 30, 3))
    chosen = select_channels(image, (2, 0))
    np.testing.assert_array_equal(chosen[0], normalise(image.array[..., 2]))
    np.testing.assert_array_equal(chosen[1], normalise(image.array[..., 0]))
    assert not select_channels(image, (2,))[1].any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("samples", [3, 4])
def test_a_colour_picture_is_read_as_gray_without_alpha(dtype, samples):
    image = picture("YXS", (20, 30, samples), dtype)
    gray = image.array[..., :3].astype(float).mean(axis=-1)
    np.testing.assert_allclose(select_channels(image)[0], normalise(gray), atol=1e-5)
    np.testing.assert_array_equal(select_channels(image, (1,))[0], normalise(image.array[..., 1]))


def test_several_channels_and_none_chosen():
    with pytest.raises(ValueError, match=r"3 channels \(0\.\.2\).*--channels PRIMARY\[,NUCLEAR\]"):
        select_channels(picture("CYX", (3, 20, 30)))


@pytest.mark.parametrize("channels", [(5,), (0, 5)])
def test_no_such_channel(channels):
    with pytest.raises(ValueError, match=r"asks for channel 5, but the image has 3 channels \(0\.\.2\)"):
        select_channels(picture("CYX", (3, 20, 30)), channels)


def test_other_wrong_channels():
    with pytest.raises(ValueError, match="asks for channel -1"):
        select_channels(picture("CYX", (3, 20, 30)), (-1,))
    with pytest.raises(ValueError, match=r"asks for channel 1, but the image has 1 channel \(0\)"):
        select_channels(picture("YX", (20, 30)), (1,))
    for channels in ((), (0, 1, 2)):
        with pytest.raises(ValueError, match="expected PRIMARY or PRIMARY,NUCLEAR"):
            select_channels(picture("CYX", (3, 20, 30)), channels)


def test_a_range_that_float64_does_not_hold_is_refused():
    wide = np.array([-1.7e308, 0.0, 1.7e308])
    with pytest.raises(ValueError, match=r"-1\.7e\+308 to 1\.7e\+308"):
        normalise(wide)
    assert np.array_equal(normalise(wide / 4), normalise(np.array([-1.0, 0.0, 1.0])))


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32, np.uint64])
@pytest.mark.parametrize("low", [1, 20, 45])
def test_integers_whose_differences_their_dtype_does_not_hold(dtype, low):
    image = np.array([np.iinfo(dtype).min, np.iinfo(dtype).max], dtype)
    expected = np.percentile(image.astype(np.float64), (low, 100 - low))
    np.testing.assert_allclose(normalisation_range(image, low=low, high=100 - low), expected)


def test_differences_without_a_finite_reciprocal_are_none():
    assert not normalise(np.linspace(0, 1e-310, 100)).any()
