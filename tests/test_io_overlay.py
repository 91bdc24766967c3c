"""Pictures for people: overlays and coloured flows."""

from __future__ import annotations

import numpy as np
import pytest
from io_helpers import SHAPE, drawn, image

from cellbasin.image import Image
from cellbasin.io import (
    display,
    flow_colours,
    overlay,
)

__all__ = ["image"]  # a fixture


def test_overlay_draws_inside_every_object_and_nowhere_else(image: Image) -> None:
    labels = drawn()
    plain = overlay(image, np.zeros_like(labels))
    picture = overlay(image, labels)
    changed = (picture != plain).any(axis=-1)
    assert picture.dtype == np.uint8 and picture.shape == (*SHAPE, 3)
    assert not changed[labels == 0].any()
    assert set(np.unique(labels[changed])) == set(range(1, 10))
    assert not changed[35, 55] and changed[30, 52]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize(("axes", "shape"), [("YX", ()), ("CYX", (2,)), ("CYX", (3,)), ("CYX", (5,)), ("YXS", (3,))])
def test_overlay_takes_every_kind_of_image(dtype: str, axes: str, shape: tuple[int, ...]) -> None:
    full = (*shape, 60, 80) if axes[0] == "C" else (60, 80, *shape)
    array = (np.random.default_rng(0).random(full) * 200).astype(dtype)
    if dtype.startswith("float"):
        array[..., 1:3, 1:2] = np.nan
        array[..., 4:5, 1:2] = np.inf
    assert overlay(Image(array, axes), drawn()).shape == (*SHAPE, 3)
    assert overlay(Image(np.zeros_like(array), axes), drawn()).any()


def test_overlay_shows_the_channels_that_were_segmented() -> None:
    array = np.zeros((3, *SHAPE), np.float32)
    array[1, 5:20], array[0, 30:50] = 1, 1
    picture = overlay(Image(array, "CYX"), np.zeros(SHAPE, int), channels=(1, 0))
    assert picture[10, 10].argmax() == 1 and picture[40, 10].argmax() == 2
    with pytest.raises(ValueError, match="channels"):
        overlay(Image(array, "CYX"), np.zeros(SHAPE, int), channels=(3,))


def test_overlay_refuses_labels_of_another_size(image: Image) -> None:
    with pytest.raises(ValueError, match="expected"):
        overlay(image, np.zeros((5, 5), int))


def test_outlines_grow_with_the_image() -> None:
    labels = np.zeros((3000, 3000), np.int32)
    labels[500:1500, 500:1500] = 1
    drawn_pixels = overlay(np.zeros((3000, 3000), np.uint8), labels).any(axis=-1).sum()
    assert drawn_pixels == 1000**2 - 994**2


def test_flow_colours_turn_with_the_flow() -> None:
    right, up = np.zeros((2, 1, 1)), np.zeros((2, 1, 1))
    right[1], up[0] = 1, -1
    assert flow_colours(right)[0, 0].tolist() == [255, 64, 64]
    assert flow_colours(up)[0, 0].tolist() != flow_colours(right)[0, 0].tolist()


@pytest.mark.parametrize(("gain", "offset"), [(1e300, 0.0), (1e-300, 0.0), (1.0, 1e9)])
def test_pictures_of_numbers_that_float32_does_not_hold(gain: float, offset: float) -> None:
    plain = np.random.default_rng(0).random(SHAPE)
    difference = display(plain).astype(int) - display(plain * gain + offset)
    assert np.ptp(display(plain)) == 255 and np.abs(difference).max() <= 1
