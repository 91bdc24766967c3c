"""Writing results: independent readers, outlines filled back, and disks that fail in the middle."""

from __future__ import annotations

import builtins
import csv
import errno
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import roifile
import tifffile
from PIL import Image as Pillow
from skimage.draw import polygon2mask

from cellbasin.image import Image
from cellbasin.io import (
    OUTPUTS,
    WriteError,
    atomic,
    check_outputs,
    flow_colours,
    overlay,
    read_image,
    read_labels,
    save,
    write_flows,
    write_geojson,
    write_labels,
    write_outlines_text,
    write_rois,
    write_table,
)
from cellbasin.labels import relabel
from cellbasin.results import Segmentation, object_table

SHAPE = (60, 80)


def drawn() -> np.ndarray:
    """A ring around an object, a diagonal chain, one pixel, touching blocks, objects at the border."""
    labels = np.zeros(SHAPE, np.int32)
    labels[5:25, 5:25] = 1
    labels[10:20, 10:20] = 0
    labels[13:16, 13:17] = 2
    for step in range(6):
        labels[30 + step, 10 + step] = 3
    labels[40, 40] = 4
    labels[30:40, 50:60] = 5
    labels[30:40, 60:70] = 6
    labels[55:, 70:] = 7
    labels[0, 0] = 8
    labels[45:50, 5:30] = 9
    labels[47, 7:29:2] = 0
    return labels


@pytest.fixture
def result() -> Segmentation:
    labels = drawn()
    rng = np.random.default_rng(1)
    flow = rng.normal(0, 0.4, (2, *SHAPE)).astype(np.float32) * (labels > 0)
    probability = np.clip(0.2 + 0.6 * (labels > 0) + rng.normal(0, 0.05, SHAPE), 0, 1).astype(np.float32)
    table = object_table(labels, probability, np.linspace(0, 0.3, 9))
    provenance = {
        "program": "cellbasin",
        "model": "gen\\u00e9ral",
        "options": {"channels": None, "path": "C:\\u"},
    }
    return Segmentation(labels, flow, probability, np.zeros(256, np.float32), 17.5, table, provenance)


@pytest.fixture
def image() -> Image:
    rng = np.random.default_rng(2)
    return Image(rng.integers(0, 4000, SHAPE).astype(np.uint16), "YX", (0.5, 0.25), "cells")


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_labels_round_trip(tmp_path: Path, name: str) -> None:
    labels = drawn()
    before = labels.copy()
    write_labels(tmp_path / name, labels)
    np.testing.assert_array_equal(labels, before)
    stored = tifffile.imread(tmp_path / name) if name.endswith("tif") else np.asarray(Pillow.open(tmp_path / name))
    assert stored.dtype == np.uint16
    np.testing.assert_array_equal(stored, labels)
    np.testing.assert_array_equal(read_labels(tmp_path / name), labels)


@pytest.mark.parametrize("highest", [65535, 65536, 2**31 - 1])
def test_many_objects_take_wider_numbers(tmp_path: Path, highest: int) -> None:
    labels = np.array([[0, 1], [2, highest]])
    write_labels(tmp_path / "a.tif", labels, voxel_size=(0.5, 0.25), provenance={"model": "x"})
    stored = tifffile.imread(tmp_path / "a.tif")
    assert stored.dtype == (np.uint16 if highest < 65536 else np.uint32)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.tif"), labels)
    assert read_image(tmp_path / "a.tif").voxel_size == pytest.approx((0.5, 0.25))
    if highest > 65535:
        with tifffile.TiffFile(tmp_path / "a.tif") as tif:
            assert tif.shaped_metadata is not None and tif.shaped_metadata[0]["cellbasin"] == {"model": "x"}
        with pytest.raises(ValueError, match=r"write \.tif"):
            write_labels(tmp_path / "a.png", labels)


def test_volume_labels_keep_their_voxel_size(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 9, (4, 20, 3)).astype(np.int32)
    write_labels(tmp_path / "a.tif", labels, voxel_size=(2.0, 0.5, 0.25))
    image = read_image(tmp_path / "a.tif")
    assert image.axes == "ZYX" and image.voxel_size == pytest.approx((2.0, 0.5, 0.25))
    np.testing.assert_array_equal(image.array, labels)


def test_imagej_finds_pixel_size_and_provenance(tmp_path: Path, result: Segmentation) -> None:
    write_labels(tmp_path / "a.tif", result.labels, (0.5, 0.25), result.provenance)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert tif.is_imagej and tif.imagej_metadata is not None
        assert tif.imagej_metadata["unit"] == "um"
        assert json.loads(tif.imagej_metadata["Info"]) == {"cellbasin": result.provenance}
        assert tif.pages[0].tags["XResolution"].value == (4, 1)
        assert tif.pages[0].description.isascii() and "\\" not in tif.pages[0].description


def test_provenance_may_hold_numpy_numbers_and_paths(tmp_path: Path) -> None:
    provenance = {"seconds": np.float32(0.5), "channels": (1, 0), "file": Path("x"), "table": np.arange(2)}
    write_labels(tmp_path / "a.tif", drawn(), provenance=provenance)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert tif.imagej_metadata is not None
        told = json.loads(tif.imagej_metadata["Info"])["cellbasin"]
    assert told == {"seconds": 0.5, "channels": [1, 0], "file": "x", "table": [0, 1]}


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        ("a.jpg", np.ones((4, 4), int), "ending"),
        ("a.tif", np.ones((4, 4)), "whole numbers"),
        ("a.tif", np.full((4, 4), -1), "whole numbers"),
        ("a.tif", np.zeros((0, 4), int), "expected"),
        ("a.png", np.ones((2, 4, 4), int), "two dimensions"),
    ],
)
def test_labels_that_no_file_can_hold_are_refused(tmp_path: Path, name: str, labels: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_labels(tmp_path / name, labels)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(20, 30), (4, 20, 30)])
def test_flows_round_trip(tmp_path: Path, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    flow = rng.normal(size=(len(shape), *shape)).astype(np.float32)
    probability = rng.random(shape).astype(np.float32)
    write_flows(tmp_path / "a.tif", flow, probability, (1.0,) * len(shape))
    image = read_image(tmp_path / "a.tif")
    assert image.array.dtype == np.float32 and image.voxel_size == pytest.approx((1.0,) * len(shape))
    np.testing.assert_array_equal(image.channels_first, np.concatenate([flow, probability[None]]))
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert tif.imagej_metadata is not None
        assert tif.imagej_metadata["Labels"][-2:] == ["flow x", "probability"]
    with pytest.raises(ValueError, match="expected"):
        write_flows(tmp_path / "a.tif", flow[:1], probability)


def filled(rings: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Even-odd filling of rings (x, y) at pixel centres, by scikit-image."""
    inside = np.zeros(shape, bool)
    for ring in rings:
        inside ^= polygon2mask(shape, np.asarray(ring, float)[:, ::-1] - 0.5)
    return inside


def from_rois(path: Path, shape: tuple[int, int]) -> np.ndarray:
    labels = np.zeros(shape, np.int32)
    for roi in roifile.roiread(path):
        coordinates = roi.coordinates(multi=True)
        labels[filled(coordinates if isinstance(coordinates, list) else [coordinates], shape)] = int(roi.name)
    return labels


def from_geojson(path: Path, shape: tuple[int, int]) -> np.ndarray:
    labels = np.zeros(shape, np.int32)
    for feature in json.loads(path.read_text())["features"]:
        geometry = feature["geometry"]
        parts = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        for rings in parts:
            assert all(ring[0] == ring[-1] for ring in rings)
            labels[filled([np.array(ring[:-1]) for ring in rings], shape)] = int(feature["properties"]["name"])
    return labels


def noise(seed: int) -> np.ndarray:
    """Ragged objects with holes and corners that touch."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 4, (7, 9)).repeat(6, 0).repeat(6, 1).astype(np.int32)
    coarse[rng.random(coarse.shape) < 0.25] = 0
    return relabel(coarse).astype(np.int32)


@pytest.mark.parametrize("labels", [drawn(), *map(noise, range(5)), np.zeros((9, 9), np.int32)], ids=str)
def test_rois_and_geojson_fill_back_to_the_same_masks(tmp_path: Path, labels: np.ndarray) -> None:
    write_rois(tmp_path / "a.zip", labels)
    write_geojson(tmp_path / "a.geojson", labels)
    shape = (labels.shape[0], labels.shape[1])
    if labels.any():
        np.testing.assert_array_equal(from_rois(tmp_path / "a.zip", shape), labels)
    else:
        assert zipfile.ZipFile(tmp_path / "a.zip").namelist() == []
    np.testing.assert_array_equal(from_geojson(tmp_path / "a.geojson", shape), labels)


def test_rois_are_named_by_label_once_each_and_equal_every_time(tmp_path: Path) -> None:
    labels = drawn()
    labels[labels == 9] = 1200
    write_rois(tmp_path / "a.zip", labels)
    write_rois(tmp_path / "b.zip", labels)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    names = zipfile.ZipFile(tmp_path / "a.zip").namelist()
    assert names == [f"{label:04}.roi" for label in np.unique(labels)[1:]]


def test_outlines_as_text(tmp_path: Path) -> None:
    labels = drawn()
    write_outlines_text(tmp_path / "a.txt", labels)
    lines = (tmp_path / "a.txt").read_text().splitlines()
    assert len(lines) == 9 and all(lines)
    for label, line in enumerate(lines, 1):
        ring = np.array([int(number) for number in line.split(",")]).reshape(-1, 2)
        inside = filled([ring], SHAPE)
        assert inside[labels == label].all()
        if label not in (1, 9):  # holes are left out
            np.testing.assert_array_equal(inside, labels == label)


def test_geojson_carries_measurements(tmp_path: Path, result: Segmentation) -> None:
    table = {**result.objects, "flow_error": np.array([np.nan, *np.linspace(0, 0.3, 8)])}
    write_geojson(tmp_path / "a.geojson", result.labels, table)
    first, second = json.loads((tmp_path / "a.geojson").read_text())["features"][:2]
    assert first["properties"]["objectType"] == "detection"
    assert first["properties"]["measurements"]["area"] == 300
    assert "flow_error" not in first["properties"]["measurements"]
    assert second["properties"]["measurements"]["touches_border"] == 0
    with pytest.raises(ValueError, match="not in the table"):
        write_geojson(tmp_path / "b.geojson", result.labels, {"label": np.array([1, 2])})


def test_table_is_read_by_the_standard_library(tmp_path: Path, result: Segmentation) -> None:
    write_table(tmp_path / "a.csv", result.objects)
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(result.objects) and len(rows) == 9
    assert [int(row["area"]) for row in rows] == result.objects["area"].tolist()
    assert {row["touches_border"] for row in rows} == {"0", "1"}
    np.testing.assert_allclose([float(row["centre_y"]) for row in rows], result.objects["centre_y"], rtol=1e-6)
    with pytest.raises(ValueError, match="length"):
        write_table(tmp_path / "b.csv", {"a": np.zeros(3), "b": np.zeros(4)})


def test_seg_has_the_layout_that_upstream_reads(tmp_path: Path, result: Segmentation, image: Image) -> None:
    (path,) = save(result, image, tmp_path / "cells", ["seg"])
    assert path.name == "cells_seg.npy"
    content = np.load(path, allow_pickle=True).item()
    np.testing.assert_array_equal(content["masks"], result.labels)
    assert content["masks"].dtype == np.uint16 and content["outlines"].dtype == np.uint16
    assert ((content["outlines"] > 0) <= (content["masks"] > 0)).all() and content["outlines"][35, 55] == 0
    assert content["ismanual"].shape == (9,) and content["filename"] == "cells" and content["diameter"] == 17.5
    shapes = [np.shape(item) for item in content["flows"]]
    assert shapes == [(1, *SHAPE, 3), (1, *SHAPE), (1, *SHAPE), (0,), (3, *SHAPE)]
    raw = content["flows"][4]
    np.testing.assert_allclose(raw[:2] / 5, result.flow, atol=1e-6)
    np.testing.assert_array_equal(raw[2] > 0, result.probability > 0.5)


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


def test_save_writes_what_is_asked_for(tmp_path: Path, result: Segmentation, image: Image) -> None:
    paths = save(result, image, tmp_path / "a.b", OUTPUTS)
    assert [path.name for path in paths] == [f"a.b{output.suffix}" for output in OUTPUTS.values()]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)
    assert [path.name for path in save(result, image, tmp_path / "c")] == ["c_masks.tif"]


def test_unknown_outputs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"found pictures to save.*labels"):
        check_outputs(["labels", "pictures"])
    with pytest.raises(ValueError, match="nothing"):
        check_outputs([])


FAILURES = [
    OSError(errno.ENOSPC, "No space left on device"),
    PermissionError(errno.EACCES, "Permission denied"),
    KeyboardInterrupt(),
]


class FailingFile(io.FileIO):
    """A file on a disk that fails after some bytes."""

    budget = 0
    failure: type[BaseException] | OSError = KeyboardInterrupt

    def write(self, data: object) -> int:
        size = memoryview(data).nbytes  # type: ignore[arg-type]
        if size > self.budget:
            super().write(bytes(memoryview(data).cast("B")[: self.budget]))  # type: ignore[arg-type]
            raise self.failure
        type(self).budget -= size
        return super().write(data)  # type: ignore[arg-type]


@pytest.fixture
def fail_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, BaseException], None]]:
    """`fail_after(bytes, error)` lets every file that is opened from then on fail."""
    real = io.open

    def failing(file: object, mode: str = "r", *args: object, **options: object) -> object:
        if not set(mode) & set("wxa"):
            return real(file, mode, *args, **options)  # type: ignore[call-overload]
        raw = FailingFile(file, mode.replace("b", "").replace("t", ""))  # type: ignore[arg-type]
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, encoding="utf-8", newline=options.get("newline"))  # type: ignore[arg-type]

    def arm(budget: int, failure: BaseException) -> None:
        monkeypatch.setattr(FailingFile, "budget", budget)
        monkeypatch.setattr(FailingFile, "failure", failure)
        monkeypatch.setattr(builtins, "open", failing)
        monkeypatch.setattr(io, "open", failing)

    yield arm
    monkeypatch.undo()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("budget", [0, 100])
@pytest.mark.parametrize("failure", FAILURES, ids=repr)
@pytest.mark.parametrize("name", OUTPUTS)
def test_failing_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path,
    result: Segmentation,
    image: Image,
    fail_after: Callable[[int, BaseException], None],
    name: str,
    failure: BaseException,
    budget: int,
) -> None:
    stem = tmp_path / "cells"
    path = Path(f"{stem}{OUTPUTS[name].suffix}")
    save(result, image, stem, [name])  # compiles what is compiled
    old = path / "0" / "0" / "0" if path.is_dir() else path
    old.write_bytes(b"old")
    fail_after(budget, failure)
    expected = WriteError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        save(result, image, stem, [name])
    if isinstance(failure, OSError):
        assert str(failure.strerror) in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]
    with os.fdopen(os.open(old, os.O_RDONLY), "rb") as file:
        assert file.read() == b"old"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", OUTPUTS)
def test_real_limit_on_file_size(tmp_path: Path, result: Segmentation, image: Image, name: str) -> None:
    resource = pytest.importorskip("resource")
    save(result, image, tmp_path / "first", [name])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with pytest.raises(WriteError):
            save(result, image, tmp_path / "cells", [name])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == [f"first{OUTPUTS[name].suffix}"]


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("folder", ["missing", "file"])
def test_folders_that_cannot_be_written_to(
    tmp_path: Path, result: Segmentation, image: Image, name: str, folder: str
) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(WriteError, match="cannot be written") as caught:
        save(result, image, tmp_path / folder / "cells", [name])
    assert "\n" not in str(caught.value)


def test_folder_without_permission(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("needs a user who may not write everywhere")
    with pytest.raises(WriteError, match="Permission denied"):
        write_labels(folder / "a.tif", drawn())
    assert not list(folder.iterdir())


def test_interrupt_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "a.tif").write_bytes(b"old")
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_labels(tmp_path / "a.tif", drawn())
    monkeypatch.undo()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_target_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.tif").mkdir()
    with pytest.raises(WriteError):
        write_labels(tmp_path / "a.tif", drawn())
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_atomic_lets_other_errors_through(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_names_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    write_labels(tmp_path / ("é" * 100 + ".tif"), drawn())
    write_labels(tmp_path / ("a" * 250 + ".tif"), drawn())
    assert len(list(tmp_path.iterdir())) == 2
