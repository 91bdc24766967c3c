"""Outlines for other programs: ImageJ's ROI archives, QuPath's GeoJSON and plain text."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from roifile import ROI_TYPE, ImagejRoi

from cellbasin.atomic import atomic

if TYPE_CHECKING:
    from cellbasin.outlines import Outline  # at run time on first use: it loads numba

_MOVE, _LINE, _CLOSE = 0.0, 1.0, 4.0  # the segments of ImageJ's composite shapes


def write_outlines_text(
    path: str | os.PathLike[str], labels: np.ndarray, points: Literal["corners", "centres"] = "corners"
) -> None:
    """Write the outer outline of every object as a line `x1,y1,x2,y2,...`, in the order of the labels.

    Parameters
    ----------
    path : ending in .txt.
    labels : integer (Y, X). Not modified. Points are corners of pixels: the pixel at row 0, column 0 reaches from 0,0
        to 1,1. An object of several pieces has a line for each; no line is empty. Holes are left out.
    points : "corners", or "centres" of the outermost pixels, one after the other, as Cellpose writes them.

    Raises
    ------
    WriteError when the file cannot be written; ValueError for volumes.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_outlines_text(folder + "/a.txt", np.array([[0, 7, 7], [0, 7, 7]]))
    ...     open(folder + "/a.txt").read()
    '3,0,3,2,1,2,1,0\\n'
    """
    from cellbasin.outlines import trace_outlines

    rings = [outline.outer for outline in trace_outlines(labels)]
    rings = [outermost_pixels(ring) for ring in rings] if points == "centres" else rings
    lines = [",".join(map(str, _xy(ring).ravel().tolist())) + "\n" for ring in rings]
    with atomic(path) as temporary, temporary.open("w", encoding="ascii", newline="") as file:
        file.writelines(lines)


def outermost_pixels(ring: np.ndarray) -> np.ndarray:
    """The pixels (K, 2), y and x, that lie inside along a ring of corners (K', 2) as `trace_outlines` gives it.

    >>> outermost_pixels(np.array([[0, 3], [2, 3], [2, 1], [0, 1]])).tolist()
    [[1, 2], [1, 1], [0, 1], [0, 2]]
    """
    way = np.roll(ring, -1, axis=0) - ring
    steps = np.abs(way).max(axis=1)
    number = np.arange(steps.sum()) - np.repeat(np.cumsum(steps) - steps, steps)
    direction = np.repeat(np.sign(way), steps, axis=0)
    start = np.repeat(ring, steps, axis=0) + number[:, None] * direction
    # The object is on the right hand; of the two pixels beside a step the one there, by its upper left corner.
    pixels = start + np.minimum(direction, 0) + np.minimum(np.stack([direction[:, 1], -direction[:, 0]], axis=1), 0)
    return (
        pixels[np.any(pixels != np.roll(pixels, 1, axis=0), axis=1)]
        if len(np.unique(pixels, axis=0)) > 1
        else pixels[:1]
    )


def write_rois(path: str | os.PathLike[str], labels: np.ndarray) -> None:
    """Write one ImageJ ROI for every object, named by its label, into a ZIP archive for the ROI manager.

    Parameters
    ----------
    path : ending in .zip.
    labels : integer (Y, X). Not modified. Objects with holes or of several pieces become composite ROIs;
        filled by ImageJ every ROI covers exactly the object's pixels.

    Raises
    ------
    WriteError when the file cannot be written; ValueError for volumes.

    >>> import tempfile, zipfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_rois(folder + "/cells.zip", np.ones((4, 5), np.int32))
    ...     zipfile.ZipFile(folder + "/cells.zip").namelist()
    ['1.roi']
    """
    from cellbasin.outlines import trace_outlines

    digits = len(str(int(labels.max()))) if labels.size else 1
    outlines = trace_outlines(labels)
    rois = {
        f"{label:0{digits}}": _roi(list(pieces), f"{label:0{digits}}")
        for label, pieces in groupby(outlines, lambda outline: outline.label)
    }
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, roi in rois.items():
            entry = zipfile.ZipInfo(f"{name}.roi")  # without the time, so that equal labels give equal files
            archive.writestr(entry, roi.tobytes(), zipfile.ZIP_DEFLATED)


def write_geojson(
    path: str | os.PathLike[str], labels: np.ndarray, table: Mapping[str, np.ndarray] | None = None
) -> None:
    """Write every object as a detection of QuPath: a GeoJSON polygon with its holes and its measurements.

    Parameters
    ----------
    path : ending in .geojson.
    labels : integer (Y, X). Not modified. Coordinates are pixels, x before y, corners as in `write_outlines_text`;
        objects whose parts touch at corners only are MultiPolygons.
    table : columns of one entry per object, among them "label"; the others become measurements.

    Raises
    ------
    WriteError when the file cannot be written; ValueError for volumes, or when an object is not in the table.

    >>> import json, tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_geojson(folder + "/cells.geojson", np.ones((4, 5), np.int32))
    ...     json.loads(Path(folder, "cells.geojson").read_text())["features"][0]["geometry"]["type"]
    'Polygon'
    """
    from cellbasin.outlines import trace_polygons

    rows = _rows(table) if table is not None else None
    features = []
    for label, pieces in groupby(trace_polygons(labels), lambda outline: outline.label):
        if rows is not None and label not in rows:
            raise ValueError(
                f"found object {label} in the labels but not in the table; expected the table of these labels"
            )
        features.append(_feature(label, list(pieces), rows[label] if rows else {}))
    text = json.dumps({"type": "FeatureCollection", "features": features}, separators=(",", ":"), allow_nan=False)
    with atomic(path) as temporary:
        temporary.write_text(text + "\n", encoding="ascii")


def _xy(ring: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(ring[:, ::-1])


def _roi(pieces: list[Outline], name: str) -> ImagejRoi:
    rings = [_xy(ring) for piece in pieces for ring in piece.rings]
    roi = ImagejRoi.frompoints(rings[0], name=name)
    if len(rings) == 1:
        return roi
    path: list[float] = []
    for ring in rings:
        for number, (x, y) in enumerate(ring.tolist()):
            path += [_MOVE if number == 0 else _LINE, x, y]
        path.append(_CLOSE)
    every = np.concatenate(rings)
    composite = ImagejRoi(roitype=ROI_TYPE.RECT, name=name, options=roi.options)
    composite.left, composite.top = (int(value) for value in every.min(axis=0))
    composite.right, composite.bottom = (int(value) for value in every.max(axis=0))
    composite.multi_coordinates = np.array(path, np.float32)
    composite.shape_roi_size = len(path)
    return composite


def _feature(label: int, pieces: list[Outline], measurements: Mapping[str, float]) -> dict[str, Any]:
    polygons = [[_closed(ring) for ring in piece.rings] for piece in pieces]
    if len(polygons) == 1:
        geometry = {"type": "Polygon", "coordinates": polygons[0]}
    else:
        geometry = {"type": "MultiPolygon", "coordinates": polygons}
    properties = {"objectType": "detection", "name": str(label), "measurements": measurements}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def _closed(ring: np.ndarray) -> list[list[int]]:
    points = _xy(ring).tolist()
    return [*points, points[0]]


def _rows(table: Mapping[str, np.ndarray]) -> dict[int, dict[str, float]]:
    """Measurements by label; numbers that do not exist are left out, since JSON has none such."""
    columns = {name: np.asarray(column).tolist() for name, column in table.items() if name != "label"}
    rows = {}
    for number, label in enumerate(np.asarray(table["label"]).tolist()):
        values = {name: column[number] for name, column in columns.items()}
        rows[int(label)] = {name: _plain(value) for name, value in values.items() if math.isfinite(value)}
    return rows


def _plain(value: float) -> float:
    return int(value) if isinstance(value, bool | int) else float(f"{value:.7g}")
