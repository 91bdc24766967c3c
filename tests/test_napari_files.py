"""napari's plugin: files that it opens as layers, and layers that it saves as files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

pytest.importorskip("napari", reason="needs the extra napari")

from format_writers import write_lif, write_nd2
from napari.layers import Image, Labels
from napari_helpers import cells, opened, plugins, saved
from npe2 import PluginManager

from cellbasin.io import read_image, read_labels, read_outlines_text, read_rois, read_seg
from cellbasin.io.ome_zarr import write_zarr_labels
from cellbasin.io.outputs import is_by_hand
from cellbasin.napari import readers, writers
from cellbasin.napari.source import layer_readings, voxel_size_of
from cellbasin.results import object_table

__all__ = ["cells", "plugins"]  # fixtures


@pytest.mark.parametrize("name", ["a_masks.tif", "a_masks.png", "a_seg.npy", "a_masks.zarr"])
def test_labels_are_written_and_read_back(name: str, plugins: PluginManager, cells: Labels, tmp_path: Path) -> None:
    path = saved(plugins, tmp_path / name, cells)
    layer = opened(plugins, path)[-1]
    assert isinstance(layer, Labels)
    np.testing.assert_array_equal(layer.data, cells.data)
    if name.endswith((".tif", ".zarr")):
        assert voxel_size_of(layer.scale, layer.units) == pytest.approx((0.5, 0.25))


def test_labels_saved_in_napari_are_not_taken_for_those_of_segment(cells: Labels, tmp_path: Path) -> None:
    """Which replaces its own, but nothing that somebody may have corrected."""
    data, told, _ = cells.as_layer_data_tuple()
    told["metadata"] = {"cellbasin": {"provenance": {"program": "cellbasin"}}}
    writers.write(str(tmp_path / "a_masks.tif"), data, told)
    with tifffile.TiffFile(tmp_path / "a_masks.tif") as tif:
        assert tif.imagej_metadata is not None and "program" in tif.imagej_metadata["Info"]
    assert is_by_hand("labels", tmp_path / "a_masks.tif")
    write_zarr_labels(tmp_path / "a_masks.zarr", data, provenance={"program": "cellbasin"})
    assert not is_by_hand("zarr", tmp_path / "a_masks.zarr")
    writers.write(str(tmp_path / "a_masks.zarr"), data, told)
    assert is_by_hand("zarr", tmp_path / "a_masks.zarr")


def test_bare_stacks_and_masks_of_labels_open(plugins: PluginManager, tmp_path: Path) -> None:
    """As Cellpose writes them of volumes, without a word about axes."""
    stack = np.zeros((6, 40, 40), np.uint16)
    stack[2:4, 5:9, 5:9] = 3
    tifffile.imwrite(tmp_path / "v_cp_masks.tif", stack)
    tifffile.imwrite(tmp_path / "b_masks.tif", stack[2] > 0)
    np.testing.assert_array_equal(opened(plugins, tmp_path / "v_cp_masks.tif")[-1].data, stack)
    np.testing.assert_array_equal(opened(plugins, tmp_path / "b_masks.tif")[-1].data, stack[2] > 0)


def test_other_files_hold_the_same_objects(plugins: PluginManager, cells: Labels, tmp_path: Path) -> None:
    wanted = cells.data
    np.testing.assert_array_equal(read_rois(saved(plugins, tmp_path / "a.zip", cells), wanted.shape), wanted)
    outlines = read_outlines_text(saved(plugins, tmp_path / "a.txt", cells), wanted.shape)
    np.testing.assert_array_equal(outlines > 0, wanted > 0)
    polygons = json.loads(saved(plugins, tmp_path / "a.geojson", cells).read_text())
    annotations = json.loads(saved(plugins, tmp_path / "a.json", cells).read_text())["annotations"]
    assert len(polygons["features"]) == len(annotations) == wanted.max()
    assert annotations[-1]["score"] == 1.0
    rows = saved(plugins, tmp_path / "a.csv", cells).read_text().splitlines()
    assert rows[0].startswith("label,area,") and rows[0].endswith(",confidence") and len(rows) == wanted.max() + 1


def test_a_table_tells_what_is_there_after_drawing(plugins: PluginManager, cells: Labels, tmp_path: Path) -> None:
    numbers = np.arange(1, cells.data.max() + 1)
    features = {"index": numbers, **object_table(cells.data, np.ones(cells.data.shape), numbers / 100)}
    drawn = Labels(cells.data.copy(), features=features, scale=cells.scale, units=cells.units)
    drawn.data[drawn.data == 1] = 3  # together with another
    drawn.data[:3, :3] = 99
    with saved(plugins, tmp_path / "a.csv", drawn).open() as file:
        rows = {int(row["label"]): row for row in csv.DictReader(file)}
    assert list(rows) == np.unique(drawn.data)[1:].tolist()
    wanted = measured(drawn.data == 3)
    assert {name: rows[3][name] for name in wanted} == wanted
    assert rows[3]["flow_error"] == "0.03"  # what the network said is kept
    assert rows[99]["area"] == "9" and rows[99]["area_um2"] == "1.125" and rows[99]["flow_error"] == ""
    assert float(rows[99]["solidity"]) == 1


def measured(where: np.ndarray) -> dict[str, str]:
    y, x = where.nonzero()
    return {
        "area": str(len(y)),
        "centre_y": f"{y.mean():.7g}",
        "box_y0": str(y.min()),
        "box_x1": str(x.max() + 1),
        "touches_border": str(int(where[[0, -1]].any() or where[:, [0, -1]].any())),
    }


def test_cellposes_name_is_kept_to_and_other_files_are_not_replaced(cells: Labels, tmp_path: Path) -> None:
    data, told, _ = cells.as_layer_data_tuple()
    assert writers.write(str(tmp_path / "a.npy"), data, told) == [str(tmp_path / "a_seg.npy")]
    with pytest.raises(OSError, match="found a file there"):
        writers.write(str(tmp_path / "a.npy"), data, told)
    assert read_seg(tmp_path / "a_seg.npy").flow is not None


def test_layers_that_cannot_be_written_are_refused(cells: Labels, tmp_path: Path) -> None:
    _, told, _ = cells.as_layer_data_tuple()
    with pytest.raises(ValueError, match="has 5 axes; expected two to four"):
        writers.write(str(tmp_path / "a.tif"), np.zeros((2, 2, 3, 4, 5), int), told)
    for labels in (np.array([[-1, 0]]), np.array([[0, 2**31]]), np.array([[0.5, 1]])):
        with pytest.raises(ValueError, match="whole ones from 0 on"):
            writers.write(str(tmp_path / "a.tif"), labels, told)
    with pytest.raises(ValueError, match=r"found the ending '\.xyz'"):
        writers.write(str(tmp_path / "a.xyz"), cells.data, told)
    assert not list(tmp_path.iterdir())


def test_zarr_images_are_read_with_axes_scale_and_their_labels(plugins: PluginManager, tmp_path: Path) -> None:
    labels = np.zeros((3, 20, 30), np.int32)
    labels[1, 5:9, 5:9] = 7
    write_zarr_labels(tmp_path / "image.zarr", labels, (2.0, 0.5, 0.5))
    attributes = json.loads((tmp_path / "image.zarr" / ".zattrs").read_text())
    del attributes["image-label"]
    (tmp_path / "image.zarr" / ".zattrs").write_text(json.dumps(attributes))
    (tmp_path / "image.zarr" / "labels").mkdir()
    (tmp_path / "image.zarr" / "labels" / ".zgroup").write_text('{"zarr_format":2}')
    (tmp_path / "image.zarr" / "labels" / ".zattrs").write_text('{"labels":["cells"]}')
    write_zarr_labels(tmp_path / "image.zarr" / "labels" / "cells", labels, (2.0, 0.5, 0.5))
    image, cells = opened(plugins, tmp_path / "image.zarr")
    assert isinstance(image, Image) and isinstance(cells, Labels)
    assert layer_readings(image) == ["ZYX"] and tuple(image.scale) == tuple(cells.scale) == (2.0, 0.5, 0.5)
    np.testing.assert_array_equal(cells.data, labels)


@pytest.mark.parametrize("name", ["a_masks.tif", "a_masks.zarr"])
@pytest.mark.parametrize("axes", ["TZYX", "TYX", "ZTYX"])
def test_time_series_are_saved_whole_and_read_back(
    axes: str, name: str, plugins: PluginManager, tmp_path: Path
) -> None:
    shape = tuple({"T": 2, "Z": 3, "Y": 20, "X": 30}[axis] for axis in axes)
    scale = tuple({"T": 5.0, "Z": 2.0, "Y": 0.5, "X": 0.25}[axis] for axis in axes)
    units = tuple("second" if axis == "T" else "um" for axis in axes)
    data = np.random.default_rng(0).integers(0, 9, shape)
    layer = Labels(data, name="film cells", axis_labels=tuple(axes.lower()), scale=scale, units=units)
    (read,) = opened(plugins, saved(plugins, tmp_path / name, layer))
    wanted = [axis for axis in "TZYX" if axis in axes]
    np.testing.assert_array_equal(read.data, data.transpose([axes.index(axis) for axis in wanted]))
    assert isinstance(read, Labels) and [label.upper() for label in read.axis_labels] == wanted
    assert tuple(read.scale[1:]) == pytest.approx((2.0, 0.5, 0.25)[-len(axes) + 1 :])


def test_a_time_series_is_refused_by_files_that_cannot_hold_it(tmp_path: Path) -> None:
    data, told, _ = Labels(np.ones((2, 3, 8, 9), int), axis_labels=tuple("tzyx")).as_layer_data_tuple()
    for name in ("a_seg.npy", "a.zip", "a.geojson", "a.json", "a.txt", "a.png"):
        with pytest.raises(ValueError, match=r"is a time series \(axes TZYX\); expected a name that ends in \.tif"):
            writers.write(str(tmp_path / name), data, told)
    assert not list(tmp_path.iterdir())
    writers.write(str(tmp_path / "a.csv"), data, told)
    rows = (tmp_path / "a.csv").read_text().splitlines()
    assert [row[:10] for row in rows] == ["frame,labe", "0,1,216,1,", "1,1,216,1,"]


def test_a_plane_of_a_stack_is_saved_as_an_image(tmp_path: Path) -> None:
    plane = np.arange(72).reshape(1, 1, 8, 9)
    data, told, _ = Labels(plane, axis_labels=tuple("tzyx"), units=("s", "um", "um", "um")).as_layer_data_tuple()
    writers.write(str(tmp_path / "a.png"), data, told)
    writers.write(str(tmp_path / "a.tif"), data, told)
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(read_labels(tmp_path / name), plane[0, 0])
    assert read_image(tmp_path / "a.tif").voxel_size == (1.0, 1.0)


def _write_czi(path: Path, volume: np.ndarray) -> None:
    czi = pytest.importorskip("pylibCZIrw.czi", reason="needs the extra formats")
    with czi.create_czi(str(path)) as file:
        for c, z in np.ndindex(volume.shape[:2]):
            file.write(volume[c, z, :, :, None], plane={"C": c, "Z": z, "T": 0})
        file.write_metadata("slide", scale_x=0.25e-6, scale_y=0.5e-6, scale_z=2e-6)


def _write_lif(path: Path, volume: np.ndarray) -> None:
    pytest.importorskip("liffile", reason="needs the extra formats")
    write_lif(path, {"one": (volume, "CZYX", {"Z": 2, "Y": 0.5, "X": 0.25})})


@pytest.mark.parametrize(("ending", "write"), [("czi", _write_czi), ("lif", _write_lif)])
def test_microscopes_volumes_are_opened_with_axes_and_scale(
    ending: str, write: Callable[[Path, np.ndarray], None], plugins: PluginManager, tmp_path: Path
) -> None:
    volume = np.random.default_rng(0).integers(0, 60000, (2, 3, 20, 30)).astype(np.uint16)
    write(tmp_path / f"day.{ending}", volume)
    (image,) = opened(plugins, tmp_path / f"day.{ending}")
    assert isinstance(image, Image) and image.name == "day" and layer_readings(image) == ["CZYX"]
    np.testing.assert_array_equal(image.data, volume)
    assert tuple(image.scale[1:]) == pytest.approx((2.0, 0.5, 0.25))
    assert voxel_size_of(image.scale[1:], image.units[1:]) == pytest.approx((2.0, 0.5, 0.25))


def test_nikons_images_are_opened_with_axes_and_scale(plugins: PluginManager, tmp_path: Path) -> None:
    pytest.importorskip("nd2", reason="needs the extra formats")
    colours = np.random.default_rng(0).integers(0, 60000, (20, 30, 2)).astype(np.uint16)
    write_nd2(tmp_path / "a.nd2", colours, 0.25)
    (image,) = opened(plugins, tmp_path / "a.nd2")
    assert isinstance(image, Image)
    axes = layer_readings(image)
    assert len(axes) == 1
    np.testing.assert_array_equal(np.moveaxis(image.data, axes[0].index("C"), -1), colours)
    places = [axes[0].index(axis) for axis in "YX"]
    assert voxel_size_of(image.scale[places], [image.units[k] for k in places]) == pytest.approx((0.25, 0.25))


def test_every_image_of_a_microscopes_file_is_a_layer(plugins: PluginManager, tmp_path: Path) -> None:
    pytest.importorskip("liffile", reason="needs the extra formats")
    film = np.random.default_rng(0).integers(0, 255, (3, 20, 30)).astype(np.uint8)
    write_lif(tmp_path / "day.lif", {"film": (film, "TYX", {}), "plane": (film[0], "YX", {"Y": 0.5, "X": 0.5})})
    series, plane = opened(plugins, tmp_path / "day.lif")
    assert (series.name, plane.name) == ("day 1", "day 2")
    assert layer_readings(series) == ["TYX"] and voxel_size_of(series.scale, series.units) is None
    assert layer_readings(plane) == ["YX"] and voxel_size_of(plane.scale, plane.units) == pytest.approx((0.5, 0.5))


def test_files_of_others_are_left_to_other_readers(tmp_path: Path) -> None:
    assert readers.get_reader(str(tmp_path)) is None
    for name in ("photo.png", "a_masks.csv", "a_masks.json"):
        assert readers.get_reader(name) is None
    assert readers.get_reader(["a_masks.tif", "b_masks.tif"]) is None
