"""Writing labels, flows and tables: independent readers find what was written."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from io_helpers import SHAPE, drawn, image, result
from PIL import Image as Pillow

from cellbasin.image import Image
from cellbasin.io import (
    OUTPUTS,
    check_outputs,
    read_image,
    read_labels,
    save,
    write_flows,
    write_labels,
    write_table,
)
from cellbasin.io.ome_zarr import write_zarr_labels
from cellbasin.results import Segmentation

__all__ = ["image", "result"]  # fixtures


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
        ("a.png", np.ones((2, 4, 4), int), "along 3 axes"),
        ("a.tif", np.full((4, 4), 2**32), "4294967296; expected at most 4294967295"),
        ("a.zarr", np.full((4, 4), 2**31), "2147483648; expected at most 2147483647"),
        ("a.zarr", np.full((4, 4), -1), "whole numbers"),
        ("a.zarr", np.ones((2, 2, 2, 4, 4), int), "expected"),
    ],
)
def test_labels_that_no_file_can_hold_are_refused(tmp_path: Path, name: str, labels: np.ndarray, message: str) -> None:
    write = write_zarr_labels if name.endswith(".zarr") else write_labels
    with pytest.raises(ValueError, match=message):
        write(tmp_path / name, labels)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (1, 5), (3, 5, 1), (3, 1, 5), (3, 5, 3), (3, 5, 4)])
def test_images_of_a_single_row_or_column(tmp_path: Path, shape: tuple[int, ...]) -> None:
    labels = np.arange(np.prod(shape)).reshape(shape)
    size = (0.5, 0.25, 0.2)[-len(shape) :]
    write_labels(tmp_path / "a_masks.tif", labels, size)
    np.testing.assert_array_equal(read_labels(tmp_path / "a_masks.tif"), labels)
    assert read_image(tmp_path / "a_masks.tif").voxel_size == pytest.approx(size)
    flow = np.stack([labels + k / 10 for k in range(len(shape))]).astype(np.float32)
    write_flows(tmp_path / "a_flows.tif", flow, flow[0], size)
    np.testing.assert_array_equal(read_image(tmp_path / "a_flows.tif").channels_first[:-1], flow)


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


def test_table_is_read_by_the_standard_library(tmp_path: Path, result: Segmentation) -> None:
    write_table(tmp_path / "a.csv", result.objects)
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(result.objects) and len(rows) == 9
    assert [int(row["area"]) for row in rows] == result.objects["area"].tolist()
    assert {row["touches_border"] for row in rows} == {"0", "1"}
    np.testing.assert_allclose([float(row["centre_y"]) for row in rows], result.objects["centre_y"], rtol=1e-6)
    write_table(tmp_path / "b.csv", {"max_0": np.array([4294967295.0, 16777217, -3, 1 / 3, 1e300])})
    assert (tmp_path / "b.csv").read_text().split() == "max_0 4294967295 16777217 -3 0.3333333 1e+300".split()
    with pytest.raises(ValueError, match="length"):
        write_table(tmp_path / "b.csv", {"a": np.zeros(3), "b": np.zeros(4)})


def test_seg_has_the_layout_that_upstream_reads(tmp_path: Path, result: Segmentation, image: Image) -> None:
    path = save(result, image, tmp_path / "cells", ["seg"])["seg"]
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


def test_save_writes_what_is_asked_for(tmp_path: Path, result: Segmentation, image: Image) -> None:
    paths = save(result, image, tmp_path / "a.b", OUTPUTS)
    assert {key: path.name for key, path in paths.items()} == {k: f"a.b{one.suffix}" for k, one in OUTPUTS.items()}
    assert sorted(tmp_path.iterdir()) == sorted(paths.values())
    assert save(result, image, tmp_path / "c") == {"labels": tmp_path / "c_masks.tif"}


def test_unknown_outputs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"found pictures to save.*labels"):
        check_outputs(["labels", "pictures"])
    with pytest.raises(ValueError, match="nothing"):
        check_outputs([])
    assert check_outputs("labels") == ("labels",)


def test_voxel_size_is_kept_where_there_are_too_many_objects_for_imagej(tmp_path: Path) -> None:
    labels = np.zeros((3, 20, 30), np.int32)
    labels[1, 4, 5] = 70_000
    write_labels(tmp_path / "a.tif", labels, (2.5, 0.5, 0.25))
    assert read_image(tmp_path / "a.tif").voxel_size == pytest.approx((2.5, 0.5, 0.25))
