"""What training learns from: crops keep image, labels and flows together; sampling is balanced."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from training_helpers import annotated, own_cache

from cellbasin.datasets import split_groups
from cellbasin.flows import labels_to_flows
from cellbasin.io import ReadError
from cellbasin.training.crops import draw_crop, draw_planes_apart, near_contacts, renew_cut_flows
from cellbasin.training.folder import read_folder
from cellbasin.training.generated import GENERATED, generated_images
from cellbasin.training.prepared import FLOW_UNIT, Annotated, prepare, prepare_all
from cellbasin.training.recipe import RECIPES
from cellbasin.training.sampling import Prefetcher, Sampler, Stage, image_weights

__all__ = ["own_cache"]  # a fixture
PLAIN = replace(
    RECIPES["default"],
    gamma=0,
    contrast=0,
    invert=0,
    blur=0,
    noise=0,
    coarse=0,
    planes=0,
    wide=0,
    scale=(1.0, 1.0),
    generated=0,
)


def test_prepared_flows_are_those_of_the_labels_and_come_back_from_the_cache():
    given_image = annotated()
    first, second = prepare(given_image), prepare(given_image)
    level = first.levels[0]
    assert np.array_equal(level.labels, given_image.labels)
    assert np.abs(level.flow / FLOW_UNIT - labels_to_flows(given_image.labels)).max() <= 0.5 / FLOW_UNIT + 1e-6
    assert all(np.array_equal(a.flow, b.flow) for a, b in zip(first.levels, second.levels, strict=True))


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_a_damaged_file_of_the_cache_is_made_again(tmp_path, monkeypatch, keep):
    monkeypatch.setenv("CELLBASIN_CACHE", str(tmp_path))
    first = prepare(annotated())
    (kept,) = tmp_path.rglob("*.npz")
    kept.write_bytes(kept.read_bytes()[:keep])
    assert np.array_equal(prepare(annotated()).levels[0].flow, first.levels[0].flow)
    assert np.array_equal(prepare(annotated()).levels[1].image, first.levels[1].image)


def test_large_objects_are_shrunk_before_their_flows_are_computed():
    prepared = prepare(annotated(diameter=120, side=512))
    assert 40 < prepared.diameter < 56
    assert prepared.levels[0].labels.shape[0] < 300


def test_a_dim_channel_beside_a_bright_one_keeps_its_shades():
    """Colours have one scale, so that mixtures keep their balance."""
    shades = np.random.default_rng(0).integers(100, 180, (64, 64))
    planes = np.stack([750 * (shades - 100), shades]).astype(np.uint16)
    given_image = Annotated(planes, np.eye(64, dtype=np.int32), "x", "made")
    assert len(np.unique(prepare(given_image).levels[0].image[1])) == 80
    colours = prepare(replace(given_image, layout="rgb")).levels[0].image
    assert np.ptp(colours[0]) > 500 * np.ptp(colours[1])


def test_labels_may_be_any_numbers():
    """Some programs number objects at random; a table of all numbers would not fit into memory."""
    given_image = annotated()
    large = np.where(given_image.labels > 0, given_image.labels.astype(np.int64) + 2**40, 0)
    large[:3] = 65535
    prepared = prepare(replace(given_image, labels=large))
    kept = np.unique(given_image.labels[3:])
    assert len(prepared.areas) == np.count_nonzero(kept) == prepared.levels[0].labels.max()
    assert (prepared.levels[0].labels[:3] == -1).all()


def test_images_and_labels_of_other_sizes_are_refused():
    wrong = replace(annotated(), labels=np.zeros((5, 6), np.int32))
    with pytest.raises(ValueError, match="labels are \\(5, 6\\)"):
        prepare(wrong)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_flows_of_a_crop_lead_from_rim_to_centre_whatever_the_turn(seed):
    """A disk's flow points at its middle after any rotation, mirroring, scaling and shift."""
    y, x = np.mgrid[:200, :200]
    labels = ((y - 90) ** 2 + (x - 110) ** 2 < 40**2).astype(np.int32)
    source = prepare(Annotated(labels[None] * 100.0, labels, "disk", "made"))
    crop = draw_crop(source, 96, replace(PLAIN, scale=(0.7, 1.4)), np.random.default_rng(seed))
    inside = (crop.target[2] > 0) & (crop.target[3] > 0)
    if inside.sum() < 200 or inside[0].any() or inside[-1].any() or inside[:, 0].any() or inside[:, -1].any():
        return
    rows, columns = np.nonzero(inside)
    middle = rows.mean(), columns.mean()
    towards = np.stack([middle[0] - rows, middle[1] - columns])
    far = np.hypot(*towards) > 4
    flow = crop.target[:2, rows, columns]
    cosine = (flow * towards).sum(0)[far] / (np.hypot(*towards) * np.hypot(*flow))[far]
    assert cosine.min() > 0.9
    brightness = crop.image[0]
    assert brightness[inside].mean() > brightness[~inside].mean() + 0.5


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_what_the_crop_cuts_off_has_the_flows_of_what_is_seen(seed):
    """The two halves of a bar whose middle lies outside the crop are objects of their own."""
    rng = np.random.default_rng(seed)
    seen = np.zeros((40, 40), np.int32)
    rows = rng.choice(6, 4, replace=False) * 6 + 2
    seen[rows[0] : rows[0] + 4, : rng.integers(3, 20)] = 3
    seen[rows[1] : rows[1] + 4, rng.integers(22, 36) :] = 3
    seen[rows[2] : rows[2] + 4, rng.integers(0, 30) :] = 7
    seen[rows[3] : rows[3] + 4, 10:20] = 5
    before = rng.standard_normal((4, 40, 40)).astype(np.float32)
    target = before.copy()
    renew_cut_flows(seen, target)
    cut = (seen == 3) | (seen == 7)
    assert np.array_equal(target[:2, cut], labels_to_flows(seen)[:, cut])
    assert np.array_equal(target[:, ~cut], before[:, ~cut])
    assert np.array_equal(target[2:], before[2:])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_contacts_are_the_pixels_near_another_object(seed):
    labels = np.random.default_rng(seed).integers(0, 4, (9, 11)).astype(np.int32)
    expected = np.zeros(labels.shape, bool)
    for y, x in np.argwhere(labels > 0):
        cross = np.concatenate([labels[max(0, y - 2) : y + 3, x], labels[y, max(0, x - 2) : x + 3]])
        expected[y, x] = ((cross > 0) & (cross != labels[y, x])).any()
    assert np.array_equal(near_contacts(labels), expected)


def test_contacts_can_weigh_more_in_the_loss():
    square = np.kron(np.array([[1, 2], [3, 4]], np.int32), np.ones((30, 30), np.int32))
    source = prepare(Annotated(square[None] * 50.0, square, "squares", "made"))
    plain, weighed = (
        draw_crop(source, 64, replace(PLAIN, contacts=contacts), np.random.default_rng(3)) for contacts in (1.0, 4.0)
    )
    assert set(np.unique(plain.target[3])) <= {0, 1}
    assert np.array_equal(weighed.target[3] > 0, plain.target[3] > 0)
    assert 0.01 < (weighed.target[3] == 4).mean() < 0.3
    assert np.array_equal(plain.target[:3], weighed.target[:3])


def test_a_crop_says_where_nothing_is_known():
    image = annotated()
    labels = image.labels.copy()
    labels[:, :80] = 65535
    crop = draw_crop(prepare(replace(image, labels=labels)), 300, PLAIN, np.random.default_rng(1))
    known = crop.target[3].mean()
    assert 0.02 < known < 0.75  # half of the image is not annotated, and a crop of 300 pixels goes beyond it
    assert not crop.target[2][crop.target[3] == 0].any() or crop.target[:2][:, crop.target[3] == 0].any() == 0


def test_crops_depend_on_the_seed_alone():
    source = prepare(annotated())
    first, second, other = (
        draw_crop(source, 64, RECIPES["default"], np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    assert np.array_equal(first.image, second.image) and np.array_equal(first.target, second.target)
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("apart", [1.0, 1.5, 3.0, 5.7, 40.0])
def test_between_planes_drawn_apart_rows_are_interpolated(apart):
    image = np.random.default_rng(0).random((2, 32, 9)).astype(np.float32)
    drawn = image.copy()
    draw_planes_apart(drawn, apart)
    known = np.arange(0, 32 + apart, apart)
    rows = image[:, np.clip(known.round().astype(int), 0, 31)]
    for c, x in np.ndindex(2, 9):
        expected = np.interp(np.arange(32), known, rows[c, :, x])
        np.testing.assert_allclose(drawn[c, :, x], expected, atol=1e-6)


def test_sources_count_as_the_root_of_their_size_and_generated_images_get_their_share():
    prepared = prepare(annotated())
    images = [replace(prepared, source=name) for name in ["a"] * 4 + ["b"] * 16 + [GENERATED] * 7]
    weights = image_weights(images, 0.2)
    assert weights.sum() == pytest.approx(1)
    assert weights[20:].sum() == pytest.approx(0.2)
    assert weights[4:20].sum() == pytest.approx(2 * weights[:4].sum())
    assert image_weights(images, 0.2, balance=0)[:4].sum() == pytest.approx(0.4)
    assert image_weights(images, 0.2, balance=1)[:20] == pytest.approx(0.04)


def test_batches_are_numbered_and_errors_reach_the_caller():
    images = [prepare(annotated(seed)) for seed in range(2)]
    sampler = Sampler(images, PLAIN)
    batches = Prefetcher(lambda number: sampler.draw(Stage(32, 2), number), 3)
    drawn = [batches.next() for _ in range(2)]
    batches.close()
    for number, (image, target) in enumerate(drawn, 3):
        again = Sampler(images, PLAIN).draw(Stage(32, 2), number)
        assert np.array_equal(image, again[0]) and np.array_equal(target, again[1])
        assert image.shape == (2, 2, 32, 32) and target.shape == (2, 4, 32, 32)

    def fail(number):
        raise RuntimeError("no stage")

    broken = Prefetcher(fail, 0)
    with pytest.raises(RuntimeError, match="no stage"):
        broken.next()
    broken.close()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("123456789")), max_size=60), st.floats(0.05, 0.5))
def test_validation_never_shares_a_group_with_training(pairs, part):
    held = split_groups(pairs, part)
    assert not {p for p, h in zip(pairs, held, strict=True) if h} & {
        p for p, h in zip(pairs, held, strict=True) if not h
    }


def test_generated_images_are_annotated():
    images = prepare_all(generated_images(12)[:4])
    assert [image.source for image in images] == [GENERATED] * 4


@pytest.mark.parametrize("part", [0.002, 0.008, 0.03])
@pytest.mark.parametrize("recipe", ["default", "paper"])
def test_few_cells_on_a_uniform_background_are_normalised_as_in_segmentation(part, recipe):
    """Less than a hundredth of the pixels: both percentiles are the background."""
    labels = np.zeros((200, 200), np.int32)
    side = round(200 * part**0.5)
    labels[90 : 90 + side, 90 : 90 + side] = 1
    image = np.stack([200 * (labels > 0), np.roll(180 * (labels > 0), 3, 1)]).astype(np.uint8)
    source = prepare(Annotated(image, labels, "few", "made", "gray", "few"))
    for seed in range(6):
        crop = draw_crop(source, 64, RECIPES[recipe], np.random.default_rng(seed))
        assert np.isfinite(crop.image).all() and np.abs(crop.image).max() < 20


def test_a_few_saturated_pixels_do_not_take_the_shades_of_the_others():
    rng = np.random.default_rng(0)
    image = rng.integers(100, 140, (1, 120, 120)).astype(np.uint16)
    image[0, rng.integers(0, 120, 29), rng.integers(0, 120, 29)] = 65000
    labels = np.zeros((120, 120), np.int32)
    labels[40:70, 40:70] = 1
    finest = prepare(Annotated(image, labels, "bright", "made", "gray", "bright")).levels[0].image
    assert len(np.unique(finest[0][image[0] < 65000])) == 40


def test_the_name_of_drawn_images_is_no_source(tmp_path):
    (tmp_path / GENERATED).mkdir()
    for ending in ("", "_masks"):
        tifffile.imwrite(tmp_path / GENERATED / f"a{ending}.tif", np.eye(40, dtype=np.uint16))
    with pytest.raises(ReadError, match="a source called generated"):
        read_folder(tmp_path / GENERATED)
