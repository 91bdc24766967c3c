"""COCO files against pycocotools, Parquet against pyarrow, and what the table of a segmentation holds."""

from __future__ import annotations

import builtins
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from pycocotools.coco import COCO

from cellbasin.generator import generate
from cellbasin.image import Image
from cellbasin.io import WriteError, save, write_coco, write_parquet
from cellbasin.results import Segmentation, object_table


def segmented(labels: np.ndarray) -> Segmentation:
    """A result as `Model.segment` gives it, without a model."""
    probability = (labels > 0).astype(np.float32)
    flow = np.zeros((2, *labels.shape), np.float32)
    table = object_table(labels, probability, np.zeros(int(labels.max(initial=0))))
    table["confidence"] = np.linspace(0.5, 1, len(table["label"]))
    return Segmentation(labels, flow, probability, np.zeros(256, np.float32), 20.0, table, {"options": {}})


@pytest.mark.parametrize("seed", range(4))
def test_pycocotools_reads_every_mask_back(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, (rng.integers(1, 12), rng.integers(1, 12))).astype(np.int32)
    labels[labels == 3] = 9
    write_coco(tmp_path / "a.json", labels, "a.tif")
    coco = COCO(tmp_path / "a.json")
    found = coco.loadAnns(coco.getAnnIds())
    assert sorted(one["id"] for one in found) == [k for k in np.unique(labels) if k]
    for one in found:
        mask = coco.annToMask(one)
        assert np.array_equal(mask, labels == one["id"])
        assert one["area"] == mask.sum()
        rows, columns = np.nonzero(mask)
        left, top, width, height = one["bbox"]
        assert (left, top) == (columns.min(), rows.min())
        assert (width, height) == (np.ptp(columns) + 1, np.ptp(rows) + 1)


def test_coco_of_an_empty_image_and_of_a_volume(tmp_path: Path) -> None:
    write_coco(tmp_path / "a.json", np.zeros((4, 5), np.int32), "a.tif")
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["annotations"] == [] and content["images"][0]["width"] == 5
    with pytest.raises(ValueError, match="no volumes"):
        write_coco(tmp_path / "b.json", np.zeros((2, 4, 5), np.int32), "b.tif")


def test_tables_hold_objects_shapes_and_intensities(tmp_path: Path) -> None:
    sample = generate("nuclei", (96, 96), seed=2)
    image = Image(sample.image, "CYX", voxel_size=(0.5, 0.5))
    result = segmented(sample.labels)
    as_csv, as_parquet, as_coco = save(result, image, tmp_path / "cells", ("table", "parquet", "coco")).values()
    with as_csv.open() as file:
        rows = list(csv.DictReader(file))
    table = pyarrow.parquet.read_table(as_parquet).to_pydict()
    assert list(table) == list(rows[0])
    assert table["label"] == list(range(1, sample.labels.max() + 1))
    for k, row in enumerate(rows):
        inside = sample.labels == k + 1
        assert float(row["mean_0"]) == pytest.approx(sample.image[0][inside].mean(), rel=1e-5)
        assert float(row["area_um2"]) == pytest.approx(inside.sum() / 4)
        assert {"perimeter_um", "solidity", "eccentricity", "confidence"} <= set(row)
    scores = [one["score"] for one in json.loads(as_coco.read_text())["annotations"]]
    assert scores == pytest.approx(result.objects["confidence"].tolist(), abs=1e-6)


def test_parquet_without_pyarrow_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return there(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(WriteError, match=r"pyarrow, which is not installed; install it with .*cellbasin\[formats\]"):
        write_parquet(tmp_path / "a.parquet", {"label": np.array([1])})
    assert not list(tmp_path.iterdir())


def test_scores_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    table = {"label": np.array([1, 2]), "confidence": np.array([0.5, np.nan])}
    write_coco(tmp_path / "a.json", np.array([[1, 2]]), "a.tif", table)
    first, second = json.loads((tmp_path / "a.json").read_text())["annotations"]
    assert first["score"] == 0.5 and "score" not in second


def test_volumes_are_measured_in_micrometres(tmp_path: Path) -> None:
    voxels = np.zeros((6, 12, 12), np.uint16)
    labels = voxels.astype(np.int32)
    labels[1:5, 2:8, 2:8] = 1
    table = object_table(labels, labels * 1.0, np.zeros(1))
    result = Segmentation(labels, np.zeros((3, *labels.shape)), labels * 1.0, np.zeros(3), 6.0, table, {})
    save(result, Image(voxels, "ZYX", (2.0, 0.5, 0.5)), tmp_path / "a", "table")
    (row,) = csv.DictReader((tmp_path / "a_objects.csv").open())
    assert float(row["volume_um3"]) == 4 * 6 * 6 * 2 * 0.25
    assert float(row["equivalent_diameter_um"]) == pytest.approx(np.cbrt(6 / np.pi * 72))
