from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from cellbasin.image import Image, as_image


@pytest.mark.parametrize(
    ("shape", "dtype", "axes"),
    [
        ((20, 30), np.float32, "YX"),
        ((1, 1), np.uint8, "YX"),
        ((20, 30, 3), np.uint8, "YXS"),
        ((20, 30, 3), np.float64, "YXS"),
        ((20, 30, 4), np.uint8, "YXS"),
        ((1, 20, 30), np.uint16, "CYX"),
        ((20, 30, 1), np.uint16, "YXC"),
    ],
)
def test_shapes_that_are_understood(shape, dtype, axes):
    array = np.zeros(shape, dtype)
    image = as_image(array)
    assert image.axes == axes
    assert image.array is array


@pytest.mark.parametrize(
    ("shape", "readings"),
    [
        ((2, 20, 30), ["CYX (2 channels)", "ZYX (2 planes)", "TYX (2 time points)"]),
        ((20, 30, 2), ["YXC (2 channels)"]),
        ((40, 20, 30), ["ZYX (40 planes)"]),
        ((3, 3, 3), ["CYX (3 channels)"]),
        ((9, 20, 30, 2), ["ZYXC (9 planes, 2 channels)"]),
        ((9, 2, 20, 30), ["CZYX (9 channels, 2 planes)", "ZCYX (9 planes, 2 channels)"]),
        ((4, 9, 2, 20, 30), ["TZCYX (4 time points, 9 planes, 2 channels)", "TCZYX"]),
        ((4, 9, 20, 30, 2), ["TZYXC (4 time points, 9 planes, 2 channels)"]),
    ],
)
def test_ambiguous_shapes_are_refused_with_the_readings(shape, readings):
    with pytest.raises(ValueError, match="ambiguous") as error:
        as_image(np.zeros(shape))
    for reading in readings:
        assert reading in str(error.value)
    assert f"{shape}" in str(error.value)
    assert "--axes " in str(error.value)


def test_sixteen_bit_four_channels_last_are_not_taken_for_rgba():
    with pytest.raises(ValueError, match=r"YXC \(4 channels\)"):
        as_image(np.zeros((20, 30, 4), np.uint16))


@pytest.mark.parametrize("shape", [(), (20,), (2, 2, 2, 2, 20, 30)])
def test_too_few_or_many_axes(shape):
    with pytest.raises(ValueError, match="two to five axes"):
        as_image(np.zeros(shape))


@pytest.mark.parametrize(
    ("axes", "shape", "channels_first"),
    [
        ("YX", (20, 30), (1, 20, 30)),
        ("XY", (30, 20), (1, 20, 30)),
        ("CYX", (2, 20, 30), (2, 20, 30)),
        ("YXC", (20, 30, 5), (5, 20, 30)),
        ("YXS", (20, 30, 3), (3, 20, 30)),
        ("YXS", (20, 30, 4), (3, 20, 30)),
        ("YXS", (20, 30, 2), (1, 20, 30)),
        ("SYX", (1, 20, 30), (1, 20, 30)),
        ("ZYX", (6, 20, 30), (1, 6, 20, 30)),
        ("CZYX", (2, 6, 20, 30), (2, 6, 20, 30)),
        ("ZCYX", (6, 2, 20, 30), (2, 6, 20, 30)),
        ("zyxc", (6, 20, 30, 2), (2, 6, 20, 30)),
        ("TYX", (1, 20, 30), (1, 20, 30)),
        ("TZCYX", (1, 6, 2, 20, 30), (2, 6, 20, 30)),
    ],
)
def test_channels_first(axes, shape, channels_first):
    array = np.arange(np.prod(shape)).reshape(shape)
    image = as_image(array, axes)
    view = image.channels_first
    assert view.shape == channels_first
    assert view.shape[1:] == image.spatial_shape
    assert np.shares_memory(view, array)
    index = {"C": 0, "S": 0, "T": 0, "Z": -1, "Y": 7, "X": 11}
    place = (0, -1, 7, 11) if "Z" in image.axes else (0, 7, 11)
    assert view[place] == array[tuple(index[axis] for axis in image.axes)]


def test_a_time_series_is_legal_but_has_no_single_view():
    series = Image(np.zeros((4, 20, 30)), "TYX", name="movie")
    with pytest.raises(ValueError, match=r"'movie'.*time series; segment each time point"):
        _ = series.channels_first


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ("YX", "3 letters"),
        ("CZYX", "3 letters"),
        ("YYX", "each letter once"),
        ("QYX", "each letter once"),
        ("ZCX", "Y and X"),
        ("", "3 letters"),
    ],
)
def test_axes_that_do_not_fit(axes, words):
    with pytest.raises(ValueError, match=words):
        as_image(np.zeros((3, 20, 30)), axes)


def test_channels_and_samples_exclude_each_other():
    with pytest.raises(ValueError, match="not both"):
        as_image(np.zeros((2, 20, 30, 3)), "CYXS")
    with pytest.raises(ValueError, match="at most 4"):
        as_image(np.zeros((20, 30, 5)), "YXS")


@pytest.mark.parametrize("dtype", [bool, complex, object, "U2"])
def test_wrong_dtypes(dtype):
    with pytest.raises(TypeError, match="expected integers or floats"):
        as_image(np.zeros((20, 30), dtype))


@pytest.mark.parametrize("shape", [(0, 30), (20, 0), (0,), (3, 0, 30)])
def test_zero_size(shape):
    with pytest.raises(ValueError, match="length 0"):
        as_image(np.zeros(shape))


def test_what_is_not_an_array():
    assert as_image([[1, 2], [3, 4]]).axes == "YX"
    with pytest.raises(TypeError, match=r"masked array.*filled"):
        as_image(np.ma.masked_less(np.eye(4), 1))
    with pytest.raises(TypeError, match="numpy array"):
        Image([[1, 2], [3, 4]], "YX")
    with pytest.raises(TypeError, match="read_image"):
        as_image("cells.tif")
    with pytest.raises(TypeError, match="dtype object"):
        as_image(None)


def test_an_image_passes_through_and_can_get_other_axes():
    image = Image(np.zeros((3, 20, 30)), "CYX", (0.5, 0.5), "field")
    assert as_image(image) is image
    again = as_image(image, "TYX")
    assert (again.axes, again.name, again.voxel_size) == ("TYX", "field", (0.5, 0.5))
    with pytest.raises(FrozenInstanceError):
        image.name = "other"


@pytest.mark.parametrize("size", [(1.0,), (1.0, 1.0, 1.0), (0.0, 1.0), (float("nan"), 1.0), (-1.0, 1.0)])
def test_wrong_voxel_sizes(size):
    with pytest.raises(ValueError, match=r"2 positive numbers \(y, x\) in µm"):
        Image(np.zeros((20, 30)), "YX", size)


def test_voxel_size_of_a_stack():
    assert Image(np.zeros((5, 20, 30)), "ZYX", (2.0, 0.5, 0.5)).voxel_size == (2.0, 0.5, 0.5)


def test_other_axes_keep_the_voxel_size_that_is_known_along_them():
    stack = Image(np.zeros((5, 30, 40)), "ZYX", (1.0, 0.4, 0.5))
    assert as_image(stack, "CYX").voxel_size == (0.4, 0.5)
    assert as_image(stack, "zyx").voxel_size == (1.0, 0.4, 0.5)
    assert as_image(Image(stack.array, "CYX", (0.4, 0.5)), "ZYX").voxel_size is None  # nobody knows that of planes
