"""The generator keeps its promises: labels, sizes, counts, repeatability, variety."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy import ndimage

from cellbasin.generator import KINDS, LAYOUTS, generate, generate_volume, labels_only
from cellbasin.generator.noise import blur, fractal_noise, smooth_noise, specks
from cellbasin.generator.paint import tidy

WITH_CELLS = [kind for kind in KINDS if kind != "empty"]


def check_labels(labels, smallest=15):
    """int32, 1..N without gaps, every label one fully connected piece of at least `smallest` px."""
    assert labels.dtype == np.int32
    sizes = np.bincount(labels.ravel())[1:]
    assert (sizes >= smallest).all()
    full = np.ones((3,) * labels.ndim)
    for value, window in enumerate(ndimage.find_objects(labels), start=1):
        assert ndimage.label(labels[window] == value, full)[1] == 1


def median_diameter(labels):
    return float(np.median(np.sqrt(np.bincount(labels.ravel())[1:] * 4 / np.pi)))


@pytest.mark.parametrize("kind", KINDS)
def test_sample_is_well_formed(kind):
    for seed in range(3):
        sample = generate(kind, (150, 170), diameter=22, seed=seed)
        assert sample.labels.shape == (150, 170)
        assert sample.image.shape == (len(sample.channels), 150, 170)
        assert sample.image.dtype in (np.uint8, np.uint16)
        assert (sample.kind, sample.axes, sample.diameter, sample.seed) == (kind, "CYX", 22.0, seed)
        assert all(channel.std() > 0 for channel in sample.image)
        check_labels(sample.labels)
        assert (sample.labels.max() == 0) == (kind == "empty")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 90), (64, 48), (33, 257)])
def test_odd_shapes(kind, shape):
    sample = generate(kind, shape, seed=1)
    assert sample.image.shape[1:] == sample.labels.shape == shape
    check_labels(sample.labels)


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_pixels_in_every_thread(kind):
    with ThreadPoolExecutor(4) as pool:
        samples = list(pool.map(lambda _: generate(kind, (96, 100), diameter=18, seed=11), range(6)))
    for sample in samples[1:]:
        np.testing.assert_array_equal(sample.image, samples[0].image)
        np.testing.assert_array_equal(sample.labels, samples[0].labels)


@pytest.mark.parametrize("kind", KINDS)
def test_every_seed_has_its_own_look(kind):
    looks = {tuple(np.percentile(generate(kind, (64, 64), seed=seed).image, [1, 50, 99])) for seed in range(12)}
    assert len(looks) >= 11  # saturated pictures may agree in a percentile


@pytest.mark.parametrize("kind", WITH_CELLS)
@pytest.mark.parametrize("diameter", [16, 40])
def test_median_diameter_is_what_was_asked_for(kind, diameter):
    found = [median_diameter(generate(kind, (320, 320), diameter=diameter, seed=s).labels) for s in range(4)]
    assert 0.8 <= np.median(found) / diameter <= 1.2


@pytest.mark.parametrize("kind", WITH_CELLS)
@pytest.mark.parametrize("count", [0, 1, 12, 60])
def test_count_is_what_was_asked_for(kind, count):
    found = int(generate(kind, (300, 400), diameter=22, count=count, seed=5).labels.max())
    assert abs(found - count) <= np.ceil(0.1 * count)


def test_density_is_the_covered_part():
    for density in (0.0, 0.1, 0.4):
        covered = (generate("nuclei", (400, 400), density=density, seed=2).labels > 0).mean()
        assert covered == pytest.approx(density, abs=0.06)


@pytest.mark.parametrize("kind", WITH_CELLS)
def test_cells_can_be_told_from_the_background_or_their_borders(kind):
    """The labels belong to the picture: on most seeds, some channel changes more across borders."""
    clear = 0
    for seed in range(8):
        sample = generate(kind, (200, 200), diameter=28, seed=seed)
        border = np.zeros(sample.labels.shape, bool)
        border[:-1] |= sample.labels[1:] != sample.labels[:-1]
        border[:, :-1] |= sample.labels[:, 1:] != sample.labels[:, :-1]
        border = ndimage.binary_dilation(border, iterations=2)
        for channel in sample.image.astype(np.float64):
            smooth = ndimage.gaussian_filter(channel, 1.5)
            edges = ndimage.gaussian_gradient_magnitude(channel, 1.5) + np.abs(
                smooth - ndimage.median_filter(smooth, 9)
            )
            if edges[border].mean() > 1.15 * edges[~border].mean():
                clear += 1
                break
    assert clear >= 6


@pytest.mark.parametrize("kind", ["nuclei", "bacteria", "cytoplasm", "particles"])
def test_some_cells_touch_and_some_are_cut(kind):
    touching = cut = 0
    for seed in range(6):
        labels = generate(kind, (200, 200), density=0.5, diameter=24, seed=seed).labels
        left, right = labels[:, :-1], labels[:, 1:]
        touching += np.count_nonzero((left != right) & (left > 0) & (right > 0))
        cut += len(np.unique(np.r_[labels[0], labels[-1], labels[:, 0], labels[:, -1]])) - 1
    assert touching > 0
    assert cut > 0


def test_nuclei_lie_inside_their_cells():
    for seed in range(4):
        sample = generate("cytoplasm", (220, 220), diameter=36, seed=seed)
        stain = ndimage.gaussian_filter(sample.image[1].astype(float), 2)
        assert stain[sample.labels > 0].mean() > stain[sample.labels == 0].mean()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    labels = labels_only(layout, (200, 180), diameter=26, seed=4)
    check_labels(labels)
    assert labels.shape == (200, 180)
    assert labels.max() > 5
    np.testing.assert_array_equal(labels, labels_only(layout, (200, 180), diameter=26, seed=4))
    assert labels_only(layout, (200, 180), diameter=26, count=0).max() == 0


def test_tiles_fill_the_image():
    assert (labels_only("tiles", (200, 200), diameter=20) > 0).mean() > 0.99


def test_rings_have_holes_and_nested_objects_fill_them():
    rings = labels_only("rings", (200, 200), diameter=30, seed=1)
    assert (ndimage.binary_fill_holes(rings > 0) & (rings == 0)).sum() > 200
    nested = labels_only("nested", (200, 200), diameter=30, seed=1)
    assert nested.max() > 1.5 * rings.max()


def test_long_rods_and_large_objects():
    rods = labels_only("rods", (500, 500), diameter=40, count=6, aspect=40, seed=3)
    window = ndimage.find_objects(rods)[np.argmax(np.bincount(rods.ravel())[1:])]
    assert max(s.stop - s.start for s in window) > 100
    large = labels_only("blobs", (900, 900), diameter=600, count=1, seed=2)
    assert large.max() == 1
    assert median_diameter(large) > 400


def test_volume():
    sample = generate_volume((20, 70, 80), diameter=16, seed=3)
    assert (sample.image.shape, sample.axes) == ((1, 20, 70, 80), "CZYX")
    check_labels(sample.labels)
    inside = sample.image[0][sample.labels > 0].mean()
    assert inside > 1.2 * sample.image[0][sample.labels == 0].mean()
    again = generate_volume((20, 70, 80), diameter=16, seed=3)
    np.testing.assert_array_equal(sample.image, again.image)
    assert generate_volume((20, 40, 40), count=0).labels.max() == 0


def test_volume_of_cells_has_nuclei_inside():
    sample = generate_volume((24, 90, 90), diameter=24, seed=5, what="cells")
    check_labels(sample.labels)
    assert sample.image.shape == (2, 24, 90, 90) and sample.channels == ("cytoplasm", "nuclei")
    bright = sample.image[1] > np.percentile(sample.image[1], 98)
    assert (sample.labels[bright] > 0).mean() > 0.95


def test_volume_planes_can_be_far_apart():
    labels = generate_volume((16, 96, 96), diameter=20, anisotropy=4.0, count=12, seed=0).labels
    depth = [w[0].stop - w[0].start for w in ndimage.find_objects(labels)]
    width = [w[2].stop - w[2].start for w in ndimage.find_objects(labels)]
    assert np.median(depth) < 0.45 * np.median(width)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kind": "cats"},
        {"shape": (10,)},
        {"shape": (0, 10)},
        {"shape": (10.5, 10)},
        {"diameter": 0},
        {"diameter": float("nan")},
        {"count": -1},
        {"count": 10_000},
        {"density": 1.5},
        {"seed": -1},
    ],
)
def test_bad_arguments_say_what_was_expected(arguments):
    good = {"kind": "nuclei", "shape": (100, 100)} | arguments
    with pytest.raises(ValueError, match="expected"):
        generate(**good)


def test_other_bad_arguments():
    with pytest.raises(ValueError, match="expected one of ellipses"):
        labels_only("heap")
    with pytest.raises(ValueError, match="aspect"):
        labels_only("rods", aspect=0.5)
    with pytest.raises(ValueError, match="expected"):
        generate_volume((4, 4))
    for wrong in (
        {"what": "nucleus"},
        {"anisotropy": float("nan")},
        {"anisotropy": float("inf")},
        {"diameter": float("nan")},
        {"diameter": float("inf")},
        {"shape": (12.5, 40, 40)},
    ):
        with pytest.raises(ValueError, match=rf"{next(iter(wrong))}=.*expected"):
            generate_volume(**{"shape": (12, 40, 40), "diameter": 12, **wrong})
    with pytest.raises(ValueError, match="count=9"):
        generate_volume((8, 8, 8), diameter=16, count=99)


def test_tidy_keeps_the_largest_piece_and_fills_pinholes():
    labels = np.zeros((20, 30), int)
    labels[2:12, 2:12] = 9
    labels[5, 5] = 0  # a pinhole
    labels[15:19, 2:6] = 9  # the smaller piece
    labels[2:5, 20:22] = 4  # too small
    labels[10:16, 20:26] = 2
    tidied, old = tidy(labels)
    assert old.tolist() == [2, 9]
    assert np.bincount(tidied.ravel()).tolist() == [600 - 136, 36, 100]


def test_noise_has_unit_deviation_and_blur_keeps_the_mean():
    rng = np.random.default_rng(0)
    assert smooth_noise(rng, (400, 400), 8).std() == pytest.approx(1, abs=0.1)
    assert fractal_noise(rng, (400, 400), 12).std() == pytest.approx(1, abs=0.15)
    assert specks(rng, (50, 50), 5, 2.0).max() == pytest.approx(1, abs=1e-5)
    field = rng.random((301, 290)).astype(np.float32)
    exact = ndimage.gaussian_filter(field, 12, mode="nearest")
    inside = (slice(36, -36), slice(36, -36))  # at the border, the coarse blur repeats blocks, not pixels
    np.testing.assert_allclose(blur(field, 12)[inside], exact[inside], atol=0.01)
    impulse = np.zeros((201, 201), np.float32)
    impulse[100, 100] = 1
    exact = ndimage.gaussian_filter(impulse, 12)
    # half a coarse pixel is where a lone pixel may end up
    assert np.abs(blur(impulse, 12) - exact).max() < 0.15 * exact.max()
