"""Volumes: maps of slices and how they are averaged, objects from them, the whole way with the shipped model."""

import errno
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellbasin.composed import composed_flows, segment_composed, smooth_maps, trim_surfaces
from cellbasin.flows import labels_to_flows
from cellbasin.generator import generate_volume
from cellbasin.image import Image
from cellbasin.io import read_image, read_labels
from cellbasin.labels import relabel, split_pieces
from cellbasin.metrics import average_precision
from cellbasin.model import Cancelled
from cellbasin.options import Options
from cellbasin.scratch import group_memory, on_disk
from cellbasin.slices import GROUP_BYTES, PIXEL_BYTES, cube_shape, group_size, predict_volume
from cellbasin.volume import _part_of_most_contrast


def ellipsoids(shape, centres, radii):
    """Labels of ellipsoids: every voxel belongs to the one whose surface is farthest outside."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    depth = np.stack([(((grid - c) / r) ** 2).sum(-1) for c, r in zip(centres, radii, strict=True)])
    return np.where(depth.min(0) < 1, depth.argmin(0) + 1, 0).astype(np.int32)


def found_again(labels, **options):
    flow = composed_flows(labels)
    return segment_composed(flow, (labels > 0).astype(np.float32), 1.0, Options(**options))


# ---- flows that slices compose to


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_composed_flows_are_the_mean_of_the_slices_flows(seed):
    labels = np.random.default_rng(seed).integers(0, 3, (5, 6, 7)).astype(np.int32)
    total = np.zeros((3, *labels.shape))
    for z in range(5):
        total[1:, z] += labels_to_flows(labels[z])
    for y in range(6):
        total[::2, :, y] += labels_to_flows(np.ascontiguousarray(labels[:, y]))
    for x in range(7):
        total[:2, :, :, x] += labels_to_flows(np.ascontiguousarray(labels[..., x]))
    np.testing.assert_allclose(composed_flows(labels), total / 2, atol=1e-6)


def test_spheres_are_found_as_they_were():
    centres = np.array([(z, y, x) for z in (14, 42) for y in (14, 42) for x in (14, 42, 70)])
    labels = ellipsoids((56, 56, 84), centres, np.linspace(6, 12, 12)[:, None] * np.ones(3))
    found = found_again(labels, flow_threshold=0.05)
    assert average_precision(labels, found.labels, (0.9,))[0] == 1


def test_touching_ellipsoids_are_told_apart():
    centres = np.array([(15, 15, 12), (15, 15, 30), (15, 33, 21), (30, 22, 20)])
    radii = np.array([(12, 8, 9), (10, 9, 9), (9, 10, 12), (8, 9, 11)])
    labels = ellipsoids((42, 48, 44), centres, radii)
    found = found_again(labels)
    assert average_precision(labels, found.labels, (0.9,))[0] == 1
    assert found.flow_errors.max() < 0.02


def test_a_wrong_object_is_dropped_and_small_ones_too():
    labels = ellipsoids((40, 40, 60), [(20, 20, 15), (20, 20, 45), (6, 6, 31)], [(11,) * 3, (11,) * 3, (3,) * 3])
    flow = composed_flows(labels)
    inside = (labels > 0).astype(np.float32)
    assert segment_composed(flow, inside, 1.0, Options()).labels.max() == 2
    assert segment_composed(flow, inside, 1.0, Options(min_volume=0.0)).labels.max() == 3
    flow[:, labels == 2] = np.float32([0, 1, 0])[:, None]
    assert segment_composed(flow, inside, 1.0, Options(min_volume=0.0)).labels.max() == 2


def test_surfaces_lie_where_the_probability_has_fallen():
    labels = np.ones((1, 1, 8), np.int32)
    labels[..., 4:] = 2
    probability = np.float32([[[0.6, 1, 1, 1, 0.5, 0.6, 0.6, 0.3]]])
    trimmed = trim_surfaces(labels, probability, Options(surface_level=0.7))
    assert trimmed.ravel().tolist() == [0, 1, 1, 1, 2, 2, 2, 0]
    assert np.array_equal(trim_surfaces(labels, probability, Options(surface_level=0)), labels)


def test_smoothing_can_be_switched_off():
    rng = np.random.default_rng(0)
    flow, probability = rng.normal(size=(3, 8, 9, 10)).astype(np.float32), rng.random((8, 9, 10), np.float32)
    same, also = flow.copy(), probability.copy()
    smooth_maps(same, also, 0.0)
    assert np.array_equal(same, flow) and np.array_equal(also, probability)
    smooth_maps(same, also, 1.0)
    assert same.std() < 0.5 * flow.std() and also.mean() == pytest.approx(probability.mean(), abs=0.02)


# ---- slices


class Constant:
    """An engine that answers 1 for the flow along an image's rows' axis, 2 along its columns', and a logit."""

    def __init__(self, logit=0.0):
        self.logit, self.tiles = logit, 0

    def run(self, tiles):
        self.tiles += len(tiles)
        maps = np.empty((len(tiles), 3, *tiles.shape[2:]), np.float32)
        maps[:, 0], maps[:, 1], maps[:, 2] = 5, 10, self.logit
        return maps, np.full((len(tiles), 256), 1 / 16, np.float32)


def constant(model, monkeypatch):
    engine = Constant()
    monkeypatch.setattr(model, "engines", (engine,))
    return engine


@pytest.mark.parametrize(("shape", "anisotropy"), [((12, 30, 40), 1.0), ((6, 30, 40), 3.0), ((33, 30, 40), 0.4)])
def test_each_component_is_the_mean_of_the_two_slices_that_show_it(model, monkeypatch, shape, anisotropy):
    constant(model, monkeypatch)
    pixels = np.zeros((2, *shape), np.float32)
    for diameter in (15.0, 30.0, 70.0):
        weights = Options(direction_weights=(1, 2, 3)) if diameter != 70 else Options()
        maps = predict_volume(model, pixels, diameter if diameter != 70 else 36.0, anisotropy, weights, lambda _: None)
        assert maps.probability.shape == cube_shape(shape, anisotropy)
        z = 1.0  # first axis of XZ and of YZ slices
        y = (1 * 1 + 3 * 2) / 4 if diameter != 70 else 1.5  # first axis of XY, second of YZ slices
        np.testing.assert_allclose(maps.flow[0], z, rtol=1e-5)
        np.testing.assert_allclose(maps.flow[1], y, rtol=1e-5)
        np.testing.assert_allclose(maps.flow[2], 2.0, rtol=1e-5)
        np.testing.assert_allclose(maps.probability, 0.5, rtol=1e-5)
        assert np.linalg.norm(maps.style) == pytest.approx(1, abs=1e-4)


def test_a_thin_volume_is_looked_at_from_above_only(model, monkeypatch):
    engine = constant(model, monkeypatch)
    maps = predict_volume(model, np.zeros((2, 5, 64, 64), np.float32), 30.0, 1.0, Options(), lambda _: None)
    assert engine.tiles == 5
    assert not maps.flow[0].any()
    np.testing.assert_allclose(maps.flow[1], 1, rtol=1e-5)


def test_no_more_slices_than_large_objects_need(model, monkeypatch):
    engine = constant(model, monkeypatch)
    predict_volume(model, np.zeros((2, 90, 96, 60), np.float32), 90.0, 1.0, Options(), lambda _: None)
    assert engine.tiles == 30 + 32 + 20


# ---- the whole way


@pytest.mark.parametrize(("anisotropy", "planes"), [(1.0, 40), (2.0, 24), (5.0, 12)])
def test_nuclei_are_found_whatever_the_distance_of_planes(model, anisotropy, planes):
    sample = generate_volume((planes, 72, 72), diameter=20, anisotropy=anisotropy, density=0.15, seed=4)
    options = Options(diameter=20, anisotropy=anisotropy)
    found = model.segment(sample.image, axes="CZYX", options=options)
    assert average_precision(sample.labels, found.labels, (0.5,))[0] > 0.9
    assert found.labels.shape == found.probability.shape == found.flow.shape[1:] == sample.labels.shape
    assert found.labels.dtype == np.int32 and found.flow.dtype == found.probability.dtype == np.float32
    assert np.array_equal(relabel(found.labels), found.labels) and np.array_equal(
        split_pieces(found.labels), found.labels
    )
    table = found.objects
    assert np.array_equal(table["area"], np.bincount(found.labels.ravel())[1:])
    for n, label in enumerate(table["label"]):
        zs, ys, xs = np.nonzero(found.labels == label)
        assert table["centre_z"][n] == pytest.approx(zs.mean()) and table["centre_x"][n] == pytest.approx(xs.mean())
        assert (table["box_z0"][n], table["box_y0"][n], table["box_x1"][n]) == (zs.min(), ys.min(), xs.max() + 1)
        assert table["mean_probability"][n] == pytest.approx(found.probability[zs, ys, xs].mean(), rel=1e-3)
    assert "confidence" not in table  # calibrated for images only
    assert found.provenance["anisotropy"] == anisotropy and found.provenance["anisotropy_source"] == "given"


def test_cells_with_nuclei_are_found_by_two_channels(model):
    sample = generate_volume((32, 80, 80), diameter=26, density=0.15, seed=2, what="cells")
    before = sample.image.copy()
    found = model.segment(sample.image, axes="CZYX", channels=(0, 1), diameter=26)
    assert average_precision(sample.labels, found.labels, (0.5,))[0] > 0.8
    assert np.array_equal(before, sample.image)
    alone = model.segment(sample.image, axes="CZYX", channels=(0,), diameter=26)
    assert np.abs(found.probability - alone.probability).max() > 0.1  # the nuclei are looked at
    assert found.objects["touches_border"].any()  # objects that the volume's faces cut are kept


def test_one_plane_is_an_image(model):
    sample = generate_volume((9, 100, 120), diameter=22, seed=6)
    plane = sample.image[0, 4]
    for diameter in (None, 22.0):
        image, volume = model.segment(plane, "YX", None, diameter), model.segment(plane[None], "ZYX", None, diameter)
        assert np.array_equal(volume.labels[0], image.labels) and volume.diameter == image.diameter
        assert np.array_equal(volume.flow[1:, 0], image.flow) and not volume.flow[0].any()
        assert volume.objects.keys() - image.objects.keys() == {"centre_z", "box_z0", "box_z1"}
        assert all(np.array_equal(volume.objects[name], column) for name, column in image.objects.items())
        assert "confidence" in image.objects and not image.objects["touches_border"].all()
        assert volume.provenance["novelty"] == image.provenance["novelty"]


def test_the_diameter_is_found_and_spacing_comes_from_the_voxel_size(model):
    sample = generate_volume((20, 96, 96), diameter=24, anisotropy=2.0, density=0.15, seed=1)
    found = model.segment(Image(sample.image[0], "ZYX", (0.8, 0.4, 0.4)))
    assert found.provenance["anisotropy"] == 2.0 and found.provenance["anisotropy_source"] == "voxel size"
    assert found.provenance["diameter_source"] == "estimated" and abs(np.log2(found.diameter / 24)) < 0.5
    assert model.segment(sample.image[0, :3], "ZYX", None, 24.0).provenance["anisotropy_source"] == "assumed"


@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 40, 50), (3, 230, 17), (40, 5, 6)])
def test_volumes_of_any_shape(model, shape):
    noise = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    assert model.segment(noise, "ZYX", None, 20.0).labels.shape == shape


def test_empty_planes_and_empty_volumes(model):
    assert len(model.segment(np.zeros((6, 50, 60), np.uint16), "ZYX")) == 0
    sample = generate_volume((24, 64, 64), diameter=20, density=0.1, seed=3)
    volume = sample.image[0].copy()
    volume[[0, 1, 2, 12, 23]] = 0
    found = model.segment(volume, "ZYX", None, 20.0)
    assert not found.labels[:2].any() and len(found) > 0


def test_progress_is_told_and_can_cancel(model):
    volume = generate_volume((20, 40, 40), diameter=16, seed=3).image[0]
    told = []
    model.segment(volume, "ZYX", None, 16.0, progress=lambda stage, part: told.append((stage, part)))
    assert {stage for stage, _ in told} == {"network", "labels"}
    parts = [part for stage, part in told if stage == "network"]
    assert parts == sorted(parts) and 0 <= parts[0] and 0.8 < parts[-1] < 1
    with pytest.raises(Cancelled, match="network"):
        model.segment(volume, "ZYX", None, 16.0, progress=lambda stage, part: stage != "network" or part < 0.5)
    calls = iter(range(100))
    with pytest.raises(Cancelled, match="cancelled"):
        model.segment(volume, "ZYX", progress=lambda stage, part: stage != "diameter" or next(calls) < 8)


def test_the_part_with_most_to_see_is_measured():
    pixels = np.zeros((2, 40, 200, 300), np.float32)
    pixels[0, 5:20, 150:180, 20:60] = np.random.default_rng(0).random((15, 30, 40))
    part = _part_of_most_contrast(pixels, 10.0, 2.0)
    assert part[0] == slice(None) and [s.stop - s.start for s in part[1:]] == [40, 60, 60]
    assert part[2].start <= 150 and part[2].stop >= 180 and part[3].start <= 20 and part[3].stop >= 60
    assert pixels[_part_of_most_contrast(pixels, 100.0, 1.0)].shape == pixels.shape


def test_the_part_is_all_of_an_axis_or_as_wide_as_was_wanted():
    pixels = np.zeros((2, 40, 40, 100), np.float32)
    pixels[0, 10:, 10:] = np.random.default_rng(0).random((30, 30, 100))
    part = _part_of_most_contrast(pixels, 5.0, 1.0)  # 30 wide: of 40 nearly all, of 100 a part
    assert part[1:3] == (slice(0, 40), slice(0, 40)) and part[3].stop - part[3].start == 30


@pytest.mark.parametrize(
    ("volume", "axes", "words"),
    [
        (np.zeros((64, 70, 3), np.uint8), "ZYX", "axes YXS"),
        (np.zeros((6, 30, 64, 64)), None, "ZCYX"),
        (np.zeros((4, 4, 64, 64)), "CZYX", "say which one"),
    ],
)
def test_what_is_no_volume_is_refused(model, volume, axes, words):
    with pytest.raises(ValueError, match=words):
        model.segment(volume, axes=axes)


def test_options_of_volumes_out_of_range_are_refused():
    for wrong in (
        {"anisotropy": 0},
        {"anisotropy": -1.0},
        {"anisotropy": float("nan")},
        {"volume_mode": "magic"},
        {"direction_weights": (0, 0, 0)},
        {"direction_weights": (1, 1)},
        {"surface_level": 2},
        {"min_volume": -1},
        {"smoothing": -1},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Options(**wrong)


def test_planes_alone_linked_through_z(model):
    sample = generate_volume((14, 90, 90), diameter=22, anisotropy=3.0, density=0.1, seed=2)
    options = Options(diameter=22, anisotropy=3.0, volume_mode="stitch")
    told = []
    found = model.segment(
        sample.image, "CZYX", options=options, progress=lambda stage, part: told.append((stage, part))
    )
    assert average_precision(sample.labels, found.labels, (0.25,))[0] > 0.5
    assert np.array_equal(split_pieces(found.labels), found.labels)
    assert not found.flow[0].any() and len(found.objects["flow_error"]) == len(found)
    assert {stage for stage, _ in told} == {"network", "labels"}


@pytest.mark.parametrize("mode", ["flows", "stitch"])
def test_arrays_on_disk_change_nothing(model, mode, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    volume = generate_volume((20, 48, 48), diameter=16, anisotropy=1.5, seed=3).image[0]
    options = Options(diameter=16, anisotropy=1.5, volume_mode=mode)
    in_memory = model.segment(volume, "ZYX", options=options)
    taken = []
    monkeypatch.setattr("cellbasin.scratch.on_disk", lambda shape: taken.append(shape) or on_disk(shape))
    kept = model.segment(volume, "ZYX", options=replace(options, memory=0.0))
    assert (3, 30 if mode == "flows" else 20, 48, 48) in taken
    assert np.array_equal(kept.labels, in_memory.labels) and np.array_equal(kept.flow, in_memory.flow)
    assert list(tmp_path.iterdir()) == []


def test_cancel_is_heeded_while_labels_are_made(model):
    volume = generate_volume((20, 48, 48), diameter=16, seed=3).image[0]
    told = []

    def progress(stage, part):
        told.append((stage, part))
        return not (stage == "labels" and part > 0.45)

    with pytest.raises(Cancelled):
        model.segment(volume, "ZYX", diameter=16, progress=progress)
    parts = [part for stage, part in told if stage == "labels"]
    assert parts == sorted(parts) and 0.45 < parts[-1] < 0.9


def test_perfect_objects_have_no_error_in_the_directions_that_were_used():
    labels = generate_volume((24, 60, 60), diameter=18, seed=5).labels
    for weights in ((1, 1, 1), (1, 0, 0), (1, 0.5, 0)):
        own = composed_flows(labels, weights=weights)
        options = Options(min_size=1, min_volume=0, surface_level=0)
        found = segment_composed(own, (labels > 0).astype(np.float32), 1.0, options, weights=weights)
        assert found.flow_errors.size and np.median(found.flow_errors) < 0.02
    assert not composed_flows(labels, weights=(1, 0, 0))[0].any()


def test_planes_absurdly_far_apart_are_refused(model):
    with pytest.raises(ValueError, match=r"1000 pixels apart.*option anisotropy"):
        model.segment(Image(np.zeros((4, 40, 40), np.uint8), "ZYX", (250.0, 0.25, 0.25)))


def test_groups_of_slices_take_no_more_memory_than_is_counted():
    assert group_size((100, 100)) == 16 and group_size((960, 960)) * 960**2 * PIXEL_BYTES <= GROUP_BYTES
    assert group_size((10_000, 10_000)) == 1


def test_a_volume_that_fits_nowhere_is_refused_at_once(model, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**6))
    with pytest.raises(ValueError, match=r"0\.001 GB of disk space.*option memory"):
        model.segment(np.zeros((40, 64, 64), np.uint8), "ZYX", options=Options(memory=0.0))


def test_a_full_disk_is_an_error_of_the_system(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="No space"):
        on_disk((4, 4))


@pytest.mark.data
def test_nuclei_of_a_real_embryo(model, data3d_root):
    image = read_image(data3d_root / "qcanet_8cell.tif")
    truth = read_labels(data3d_root / "qcanet_8cell_masks.tif")
    found = model.segment(image, options=Options(anisotropy=2.188, diameter=21.0))
    assert average_precision(truth, found.labels, (0.25,))[0] > 0.6
    assert abs(np.log(np.median(found.objects["area"]) / np.median(np.bincount(truth.ravel())[1:]))) < 0.4


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/job/step", {"job/memory.max": "3000", "job/step/memory.max": "max"}, 3000),  # a batch job's step
        ("0::/", {"memory.max": "500"}, 500),  # a container
        ("4:memory:/a\n0::/", {"memory/a/memory.limit_in_bytes": "700", "memory.max": "900"}, 700),  # version 1
        ("0::/elsewhere", {"memory.max": "max"}, np.inf),
        (None, {}, np.inf),  # no Linux
    ],
)
def test_limits_of_containers_and_batch_jobs_count(
    groups: str | None, files: dict[str, str], expected: float, tmp_path: Path
) -> None:
    if groups is not None:
        (tmp_path / "own").write_text(groups + "\n")
    for name, text in files.items():
        path = tmp_path / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert group_memory(tmp_path / "own", tmp_path / "sys") == expected
