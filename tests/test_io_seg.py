"""Cellpose's companion files: every historic variant is read, what is written comes back, nothing in them is run."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_fill_holes, gaussian_filter, label

from cellbasin.image import Image
from cellbasin.io import (
    ReadError,
    find_pairs,
    read_labels,
    read_outlines_text,
    read_rois,
    read_seg,
    write_outlines_text,
    write_rois,
    write_seg,
)
from cellbasin.io import save as save_all
from cellbasin.io.vector_read import fill_centres
from cellbasin.io.vector_write import outermost_pixels
from cellbasin.labels import relabel
from cellbasin.outlines import trace_outlines
from cellbasin.results import Segmentation

MASKS = np.zeros((20, 30), np.int32)
MASKS[2:8, 3:9], MASKS[10:18, 12:25] = 1, 2
RAW = np.random.default_rng(0).normal(0, 2, (3, *MASKS.shape)).astype(np.float32)


def version_3(masks: np.ndarray = MASKS) -> dict[str, Any]:
    """As version 3 writes it from the command line."""
    return {
        "outlines": masks.astype(np.uint16),
        "masks": masks.astype(np.uint16),
        "chan_choose": [2, 1],
        "ismanual": np.zeros(2, bool),
        "filename": "/data/cells.tif",
        "flows": [
            np.zeros((1, *masks.shape, 3), np.uint8),
            np.zeros((1, *masks.shape), np.uint8),
            np.zeros((1, *masks.shape, 3), np.uint8),
            [],
            RAW,
        ],
        "diameter": 17.5,
    }


def version_1() -> dict[str, Any]:
    """With the image, an estimated diameter, and the raw maps at another place."""
    content = version_3() | {"img": np.zeros(MASKS.shape, np.uint8), "est_diam": np.float64(17.5)}
    del content["diameter"], content["ismanual"]
    return content


def window_2d() -> dict[str, Any]:
    """As the window of version 3 writes it."""
    return version_3() | {
        "colors": np.zeros((2, 3), np.uint8),
        "manual_changes": [["2024-01-01", "added mask", [1, 2]]],
        "model_path": 0,
        "flow_threshold": 0.4,
        "cellprob_threshold": np.float64(0.0),
        "normalize_params": {"lowhigh": None, "percentile": [1.0, 99.0], "norm3D": True},
        "restore": None,
        "ratio": 1.0,
        "ismanual": np.array([True, False]),
    }


def from_minus_one() -> dict[str, Any]:
    content = version_3()
    content["masks"] = MASKS - 1
    return content


def save(path: Path, content: Any) -> Path:
    np.save(path, np.array(content, dtype=object), allow_pickle=True)
    return path


@pytest.mark.parametrize("make", [version_3, version_1, window_2d, from_minus_one])
def test_every_variant_is_read(tmp_path: Path, make: Any) -> None:
    seg = read_seg(save(tmp_path / "cells_seg.npy", make()))
    assert seg.labels.dtype == np.int32 and np.array_equal(seg.labels, MASKS)
    assert seg.diameter == 17.5 and seg.channels == (2, 1) and seg.filename == "/data/cells.tif"
    assert seg.flow is not None and seg.probability is not None
    np.testing.assert_allclose(seg.flow, RAW[:2] / 5, rtol=1e-6)
    np.testing.assert_allclose(seg.probability, 1 / (1 + np.exp(-RAW[2])), rtol=1e-5)
    assert (seg.image is not None) == ("img" in make())
    if make is window_2d:
        assert seg.manual is not None and seg.manual.tolist() == [True, False]
    assert np.array_equal(read_labels(tmp_path / "cells_seg.npy"), MASKS)


def test_oldest_files_hold_points_only(tmp_path: Path) -> None:
    rings = [outermost_pixels(outline.outer) for outline in trace_outlines(MASKS)]
    outlines = [np.column_stack([np.zeros(len(r)), r, np.ones(len(r))]).astype(int).tolist() for r in rings]
    content = {"outlines": outlines, "img": np.zeros((*MASKS.shape, 3), np.uint8), "filename": "a.png"}
    assert np.array_equal(read_seg(save(tmp_path / "a_seg.npy", content)).labels, MASKS)


def test_volumes_and_maps_of_another_size(tmp_path: Path) -> None:
    volume = np.stack([MASKS, MASKS, 0 * MASKS])
    seg = read_seg(save(tmp_path / "a_seg.npy", version_3(volume)))
    assert seg.labels.shape == (3, 20, 30) and seg.flow is None and seg.probability is None
    assert read_seg(save(tmp_path / "b_seg.npy", version_3(MASKS[None]))).labels.shape == MASKS.shape
    for nothing in ([], None, [[], [], [], [], [[]]]):
        assert read_seg(save(tmp_path / "c_seg.npy", version_3() | {"flows": nothing})).flow is None


@pytest.mark.parametrize("depth", [None, 4])
def test_what_is_written_comes_back(tmp_path: Path, depth: int | None) -> None:
    labels = MASKS if depth is None else np.stack([MASKS] * depth)
    rng = np.random.default_rng(1)
    flow = rng.normal(0, 0.5, (labels.ndim, *labels.shape)).astype(np.float32)
    probability = rng.random(labels.shape).astype(np.float32)
    write_seg(tmp_path / "a_seg.npy", labels, flow, probability, 21.5, "a.tif", channels=(2, 3))
    seg = read_seg(tmp_path / "a_seg.npy")
    assert np.array_equal(seg.labels, labels) and seg.diameter == 21.5 and seg.channels == (2, 3)
    assert seg.flow is not None and seg.probability is not None
    np.testing.assert_allclose(seg.flow, flow, atol=1e-6)
    np.testing.assert_allclose(seg.probability, probability, atol=1e-5)
    content = np.load(tmp_path / "a_seg.npy", allow_pickle=True).item()
    shown = content["flows"][1]
    assert shown.dtype == np.uint8 and np.squeeze(shown).shape == labels.shape  # what CellProfiler takes
    assert content["flows"][0].shape == (depth or 1, 20, 30, 3)
    outline = content["outlines"]
    assert (outline[outline > 0] == labels[outline > 0]).all() and 0 < (outline > 0).sum() < (labels > 0).sum()


class Villain:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def test_malicious_file_runs_nothing(tmp_path: Path) -> None:
    path = save(tmp_path / "evil_seg.npy", version_3() | {"filename": Villain(tmp_path / "was-here")})
    for read in (read_seg, read_labels):
        with pytest.raises(ReadError, match="nothing was run"):
            read(path)
    assert not (tmp_path / "was-here").exists()


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {},
        {"masks": "text"},
        {"masks": np.zeros((0, 3))},
        {"masks": np.full((3, 3), -2)},
        {"masks": np.full((3, 3), 0.5)},
        {"masks": np.zeros(3)},
        {"masks": np.full((2, 2), 2**40)},
        {"masks": np.full((2, 2), np.nan)},
        {"masks": MASKS, "diameter": "wide"},
        {"masks": MASKS, "chan_choose": ["red"]},
        {"outlines": [[1, 2]], "img": np.zeros((4, 4))},
        {"outlines": [np.full((4, 2), 1e300)], "img": np.zeros((4, 4))},
    ],
)
def test_what_is_no_seg_file_is_refused(tmp_path: Path, content: Any) -> None:
    path = save(tmp_path / "a_seg.npy", content)
    with pytest.raises(ReadError) as caught:
        read_seg(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_damaged_files(tmp_path: Path) -> None:
    whole = save(tmp_path / "a_seg.npy", version_3()).read_bytes()
    rng = np.random.default_rng(0)
    for n in range(120):
        data = bytearray(whole)
        if n % 3 == 0:
            del data[int(rng.integers(len(data))) :]
        else:
            for place in rng.integers(0, min(len(data), 1500 if n % 3 == 1 else len(data)), 5):
                data[place] = rng.integers(256)
        (tmp_path / "a_seg.npy").write_bytes(data)
        try:
            seg = read_seg(tmp_path / "a_seg.npy")
            assert seg.labels.ndim in (2, 3) and seg.labels.dtype == np.int32
        except ReadError as error:
            assert "\n" not in str(error)
    with pytest.raises(ReadError, match=r"cannot be read"):
        read_seg(tmp_path / "missing_seg.npy")


def test_seg_files_are_annotations_of_a_folder(tmp_path: Path) -> None:
    np.save(tmp_path / "cells.npy", np.zeros(MASKS.shape, np.uint8))
    save(tmp_path / "cells_seg.npy", version_3())
    ((image, labels),) = find_pairs(tmp_path)
    assert (image.name, labels.name) == ("cells.npy", "cells_seg.npy")


def blobs(seed: int, shape: tuple[int, int] = (40, 50)) -> np.ndarray:
    """Objects of any shape, without holes, that may touch each other."""
    rng = np.random.default_rng(seed)
    pieces, count = label(gaussian_filter(rng.random(shape), 1.5) > 0.505, np.ones((3, 3)))
    filled = np.zeros(shape, np.int32)
    for number in range(1, count + 1):
        filled[binary_fill_holes(pieces == number)] = number
    return relabel(filled)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_outlines_and_rois_give_the_labels_back(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    folder, labels = tmp_path_factory.mktemp("outlines"), blobs(seed)
    order = np.array([0, *(outline.label for outline in trace_outlines(labels))])
    write_outlines_text(folder / "a_outlines.txt", labels)
    assert np.array_equal(order[read_outlines_text(folder / "a_outlines.txt", labels.shape)], labels)
    write_outlines_text(folder / "a_cp_outlines.txt", labels, points="centres")
    assert np.array_equal(order[read_outlines_text(folder / "a_cp_outlines.txt", labels.shape)], labels)
    write_rois(folder / "a_rois.zip", labels)
    assert np.array_equal(read_rois(folder / "a_rois.zip", labels.shape), labels)


def test_outline_text_of_cellpose(tmp_path: Path) -> None:
    path = tmp_path / "a_cp_outlines.txt"
    path.write_text("3,2,8,2,8,7,3,7\n\n12,10,24,10,24,17,12,17,\n")  # a tiny object is an empty line there
    found = read_outlines_text(path, MASKS.shape)
    assert np.array_equal(np.where(found == 3, 2, found), MASKS)
    for text in ("1,2,3\n", "a,b\n", "nan,1\n", "1e300,1,2,2\n"):
        path.write_text(text)
        with pytest.raises(ReadError):
            read_outlines_text(path, MASKS.shape)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ReadError):
        read_outlines_text(path, MASKS.shape)


def test_rois_named_and_not(tmp_path: Path) -> None:
    from roifile import ImagejRoi

    square = np.array([[3, 2], [9, 2], [9, 8], [3, 8]])
    for names, wanted in (
        (["7", "3"], {7, 3}),
        (["a", "b"], {1, 2}),
        (["5", "5"], {1, 2}),
        (["0012-0034", "0013-0099"], {1, 2}),
    ):
        with zipfile.ZipFile(tmp_path / "rois.zip", "w") as archive:
            for n, name in enumerate(names):
                roi = ImagejRoi.frompoints(square + np.array([12 * n, 0]))
                archive.writestr(f"../../{name}-{n}.roi" if names == ["5", "5"] else f"{name}.roi", roi.tobytes())
        found = read_rois(tmp_path / "rois.zip", (20, 30))
        assert set(np.unique(found)) - {0} == wanted or names == ["5", "5"]
        assert (found > 0).sum() == 72
    assert [path.name for path in tmp_path.iterdir()] == ["rois.zip"]
    assert (read_rois(tmp_path / "rois.zip", (20, 30), points="centres") > 0).sum() == 98


def test_archives_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "rois.zip"
    path.write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(ReadError):
        read_rois(path, (9, 9))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "text")
    with pytest.raises(ReadError, match=r"no \.roi"):
        read_rois(path, (9, 9))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.roi", bytes(80 * 1024**2))
    with pytest.raises(ReadError, match="unpack"):
        read_rois(path, (9, 9))
    write_rois(path, np.zeros((9, 9), int))
    assert not read_rois(path, (9, 9)).any()  # of an image without objects, which is no damage
    write_rois(path, MASKS)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 4):
            data[place] = rng.integers(256)
        path.write_bytes(data[: len(data) - int(rng.integers(0, 50))])
        try:
            assert read_rois(path, MASKS.shape).shape == MASKS.shape
        except ReadError as error:
            assert "\n" not in str(error)


def test_centres_of_single_pixels_and_lines() -> None:
    assert fill_centres([np.array([[1, 1]]), np.array([[0, 0], [0, 4]]), np.zeros((0, 2))], (3, 5)).tolist() == [
        [2, 2, 2, 2, 2],
        [0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]
    assert pickle.dumps(outermost_pixels(np.array([[0, 1], [1, 1], [1, 0], [0, 0]])).tolist())


def test_a_saved_segmentation_names_the_file_and_channels_that_cellposes_window_needs(tmp_path: Path) -> None:
    for channels, expected in ((None, [0, 0]), ((1, 0), [2, 1]), ((0,), [1, 0])):
        image = (
            Image(np.zeros((2, 9, 9), np.uint8), "CYX", name="cells.tif") if channels else np.zeros((9, 9), np.uint8)
        )
        table = {"label": np.zeros(0, int)}
        made = {"options": {"channels": channels}}
        nothing = np.zeros((9, 9), np.int32), np.zeros((2, 9, 9)), np.zeros((9, 9))
        save_all(Segmentation(*nothing, np.zeros(3), 30.0, table, made), image, tmp_path / "cells", "seg")
        seg = read_seg(tmp_path / "cells_seg.npy")
        assert seg.filename == ("cells.tif" if channels else "cells") and list(seg.channels) == expected
