"""Objects as polygons: filled by an independent program, outlines give the same masks."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import roifile
from io_helpers import SHAPE, drawn, result
from skimage.draw import polygon2mask

from cellbasin.io import (
    ReadError,
    read_rois,
    write_geojson,
    write_outlines_text,
    write_rois,
)
from cellbasin.labels import relabel
from cellbasin.results import Segmentation

__all__ = ["result"]  # a fixture


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


def test_outlines_over_and_over_the_whole_image_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "rois.zip", "w") as archive:
        corners = np.array([[0, 0], [2000, 0], [2000, 2000], [0, 2000]])
        for number in range(150):
            archive.writestr(f"{number}.roi", roifile.ImagejRoi.frompoints(corners).tobytes())
    with pytest.raises(ReadError, match="times"):
        read_rois(tmp_path / "rois.zip", (2000, 2000))
