"""Measurements against scikit-image and scipy, and what must hold for any object."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import ConvexHull
from skimage.measure import regionprops

from cellbasin.generator import generate
from cellbasin.image import Image
from cellbasin.labels import split_pieces
from cellbasin.measure import measure_intensities, measure_shapes


def blobs(seed: int, shape: tuple[int, int] = (60, 70)) -> np.ndarray:
    """Touching pieces of random shape, with holes, single pixels and the border among them."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 4, (shape[0] // 5, shape[1] // 5)).repeat(5, 0).repeat(5, 1)
    return split_pieces(np.where(rng.random(coarse.shape) < 0.05, 0, coarse).astype(np.int32))


@pytest.mark.parametrize("seed", range(5))
def test_shapes_are_those_of_scikit_image(seed: int) -> None:
    labels = blobs(seed)
    found = measure_shapes(labels)
    expected = regionprops(labels)
    assert len(expected) == labels.max() == len(found["perimeter"])
    for name, wanted in (
        ("perimeter", "perimeter_crofton"),
        ("major_axis", "axis_major_length"),
        ("minor_axis", "axis_minor_length"),
        ("eccentricity", "eccentricity"),
        ("equivalent_diameter", "equivalent_diameter_area"),
    ):
        np.testing.assert_allclose(found[name], [getattr(one, wanted) for one in expected], atol=1e-6, err_msg=name)


@pytest.mark.parametrize("seed", range(5))
def test_solidity_is_area_over_scipys_hull_of_the_pixel_corners(seed: int) -> None:
    labels = blobs(seed)
    found = measure_shapes(labels)["solidity"]
    for one in regionprops(labels):
        corners = (one.coords[:, None] + np.array([[0, 0], [0, 1], [1, 0], [1, 1]])).reshape(-1, 2)
        assert found[one.label - 1] == pytest.approx(one.area / ConvexHull(corners).volume)


def test_objects_of_several_pieces_and_labels_that_do_not_occur() -> None:
    labels = np.zeros((9, 9), np.int32)
    labels[0:2, 0:2] = labels[7:9, 0:2] = 3
    found = measure_shapes(labels)
    assert found["solidity"].tolist() == [0, 0, pytest.approx(8 / 18)]
    assert found["perimeter"][:2].tolist() == [0, 0] and found["perimeter"][2] > 8


def test_shapes_turn_with_the_image() -> None:
    labels = generate("nuclei", (128, 160), seed=3).labels
    there, back = measure_shapes(labels), measure_shapes(np.ascontiguousarray(np.rot90(labels)))
    for name in ("perimeter", "major_axis", "minor_axis", "eccentricity", "solidity"):
        np.testing.assert_allclose(there[name], back[name], atol=1e-9, err_msg=name)
    long = there["eccentricity"] > 0.5
    turned = np.mod(back["orientation"] - there["orientation"], np.pi)[long]
    np.testing.assert_allclose(turned, np.pi / 2, atol=1e-9)


def test_a_disc_measures_as_a_disc_in_pixels_and_in_um() -> None:
    y, x = np.ogrid[:101, :101]
    disc = ((y - 50) ** 2 + (x - 50) ** 2 <= 40**2).astype(np.int32)
    found = measure_shapes(disc, voxel_size=(0.5, 0.5))
    assert found["perimeter"][0] == pytest.approx(2 * np.pi * 40, rel=0.02)
    assert found["major_axis"][0] == pytest.approx(80, rel=0.01)
    assert found["area_um2"][0] == pytest.approx(disc.sum() / 4)
    assert found["equivalent_diameter_um"][0] == pytest.approx(40, rel=0.01)
    assert "perimeter_um" not in measure_shapes(disc, voxel_size=(0.5, 1.0)), "no length in oblong pixels"


@pytest.mark.parametrize("shape", [(60, 70), (4, 15, 20)])
def test_intensities_are_those_of_each_objects_pixels(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, shape).astype(np.int32)
    labels[labels == 4] = 0
    image = rng.normal(1e6, 1, (2, *shape))
    found = measure_intensities(labels, Image(image, "C" + "ZYX"[-len(shape) :]))
    for channel in range(2):
        for label in (1, 2, 3, 5):
            values = image[channel][labels == label]
            for name, wanted in (("mean", np.mean), ("std", np.std), ("min", np.min), ("max", np.max)):
                assert found[f"{name}_{channel}"][label - 1] == pytest.approx(wanted(values), rel=1e-12, abs=1e-9)
        assert np.isnan(found[f"mean_{channel}"][3]) and np.isnan(found[f"max_{channel}"][3])


def test_objects_with_unknown_pixels_have_unknown_intensities() -> None:
    labels = np.array([[1, 1, 1, 2, 2, 3]], np.int32)
    found = measure_intensities(labels, Image(np.array([[1.0, np.nan, 5.0, 9.0, 7.0, np.nan]]), "YX"))
    for name in ("mean_0", "std_0", "min_0", "max_0"):
        assert np.isnan(found[name]).tolist() == [True, False, True], name
    assert (found["min_0"][1], found["max_0"][1]) == (7, 9)


@pytest.mark.parametrize("exponent", [-1000, -600, -3, 5, 600, 1020])
def test_intensities_scale_with_the_image_to_the_ends_of_float64(exponent: int) -> None:
    rng = np.random.default_rng(abs(exponent))
    labels = rng.integers(0, 4, (20, 30)).astype(np.int32)
    image = rng.normal(0.5, 1, labels.shape)
    scaled = np.ldexp(image, exponent)
    scaled[labels == 0] = np.finfo(float).max  # what is in no object changes nothing
    expected, found = (measure_intensities(labels, Image(one, "YX")) for one in (image, scaled))
    for name, column in expected.items():
        assert np.array_equal(found[name], np.ldexp(column, exponent)), name


def test_nothing_to_measure_and_what_cannot_be() -> None:
    empty = np.zeros((5, 5), np.int32)
    assert all(len(column) == 0 for column in measure_shapes(empty).values())
    assert all(len(column) == 0 for column in measure_intensities(empty, Image(empty, "YX")).values())
    with pytest.raises(ValueError, match=r"\(2, 5, 5\).*expected \(Y, X\)"):
        measure_shapes(np.zeros((2, 5, 5), np.int32))
    with pytest.raises(ValueError, match="expected one size"):
        measure_intensities(empty, Image(np.zeros((5, 6)), "YX"))
