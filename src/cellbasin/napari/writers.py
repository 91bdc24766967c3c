"""Label layers as files: whatever `cellbasin.io` writes of labels, by the ending of the name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cellbasin.io import (
    WriteError,
    write_coco,
    write_geojson,
    write_labels,
    write_outlines_text,
    write_rois,
    write_seg,
    write_table,
)

from .results import MADE
from .source import axes_named, voxel_size_of

_SEG = "_seg.npy"
_HIGHEST = np.iinfo(np.int32).max
_OF_SERIES = (".tif", ".tiff", ".zarr", ".csv")  # endings of files that hold time points, too


def write(path: str, data: Any, told: Mapping[str, Any]) -> list[str]:
    """Write a labels layer, given as napari does: its array, and what napari knows about it.

    Endings: those of `_WRITERS`. A name that ends in .npy becomes one that ends in _seg.npy, as Cellpose expects it.
    Time series (TYX, TZYX) are written whole, to one TIFF, OME-Zarr or CSV; a single plane of a stack as an image.
    Returns the path written. Raises WriteError or ValueError where the layer or the name does not allow it.
    """
    target = Path(path)
    if target.suffix.lower() not in _WRITERS:
        raise ValueError(f"{path}: found the ending {target.suffix!r}; expected one of {', '.join(_WRITERS)}")
    if target.suffix.lower() == ".npy" and not target.name.endswith(_SEG):
        target = target.with_name(target.stem + _SEG)
        if target.exists():
            raise WriteError(f"{target}: found a file there; give this name to replace it, or another")
    labels, axes, voxel_size = _labels(data, told)
    if "T" in axes and target.suffix.lower() not in _OF_SERIES:
        raise ValueError(
            f"the layer {told['name']!r} is a time series (axes {axes}); expected a name that ends in "
            f"{', '.join(_OF_SERIES)} for it; for other files take one time point of it"
        )
    if labels.dtype.kind not in "iub" or labels.min(initial=0) < 0 or labels.max(initial=0) > _HIGHEST:
        raise ValueError(
            f"the layer {told['name']!r} holds {labels.dtype} numbers; expected whole ones from 0 on, up to {_HIGHEST}"
        )
    known = {**told, "axes": axes, "voxel_size": voxel_size}
    _WRITERS[target.suffix.lower()](target, labels.astype(np.int32), known)
    return [str(target)]


def _labels(data: Any, told: Mapping[str, Any]) -> tuple[np.ndarray, str, tuple[float, ...] | None]:
    """The array, its axes in the order TZYX, and µm along those of space; axes of length 1 before y and x are left out.

    Raises ValueError for too few or too many axes.
    """
    labels = np.asarray(data[0] if told.get("multiscale") else data)
    if not 2 <= labels.ndim <= 4:
        raise ValueError(f"the layer {told['name']!r} has {labels.ndim} axes; expected two to four, such as TZYX")
    named = axes_named(told["axis_labels"])
    axes = named if named and "C" not in named else "TZYX"[-labels.ndim :]
    kept = [axis for axis in "TZYX" if axis in axes and (axis in "YX" or labels.shape[axes.index(axis)] != 1)]
    places = [axes.index(axis) for axis in kept]
    space = [axes.index(axis) for axis in kept if axis != "T"]
    voxel_size = voxel_size_of([told["scale"][k] for k in space], [told["units"][k] for k in space])
    dropped = [k for k in range(labels.ndim) if k not in places]
    return labels.transpose([*dropped, *places])[(0,) * len(dropped)], "".join(kept), voxel_size


def _image(path: Path, labels: np.ndarray, told: Mapping[str, Any]) -> None:
    write_labels(path, labels, told["voxel_size"], _provenance(told), told["axes"])


def _zarr(path: Path, labels: np.ndarray, told: Mapping[str, Any]) -> None:
    from cellbasin.io.ome_zarr import write_zarr_labels

    write_zarr_labels(path, labels, told["voxel_size"], told["name"], told["axes"], _provenance(told))


def _provenance(told: Mapping[str, Any]) -> dict[str, Any]:
    """How the labels were made, with a note by which `segment` knows not to replace them."""
    return {**_kept(told).get("provenance", {}), "saved_by": "napari"}


def _rois(path: Path, labels: np.ndarray, told: Mapping[str, Any]) -> None:
    write_rois(path, labels)


def _outlines(path: Path, labels: np.ndarray, told: Mapping[str, Any]) -> None:
    write_outlines_text(path, labels)


def _geojson(path: Path, labels: np.ndarray, told: Mapping[str, Any]) -> None:
    write_geojson(path, labels, _table(labels, told))


def _coco(path: Path, labels: np.ndarray, told: Mapping[str, Any]) -> None:
    write_coco(path, labels, told["name"], _table(labels, told))


def _csv(path: Path, labels: np.ndarray, told: Mapping[str, Any]) -> None:
    write_table(path, _table(labels, told))


def _seg(path: Path, labels: np.ndarray, told: Mapping[str, Any]) -> None:
    """Flow and probability are the network's where the layer was made by it, else those of the labels themselves."""
    from cellbasin.flows import labels_to_flows
    from cellbasin.labels import median_diameter

    kept = _kept(told)
    flow, probability = kept.get("flow"), kept.get("probability")
    if flow is None or probability is None or probability.shape != labels.shape:
        flow, probability = labels_to_flows(labels), (labels > 0).astype(np.float32)
    diameter = kept.get("diameter") or (median_diameter(labels) if labels.any() else 30.0)
    write_seg(path, labels, flow, probability, diameter, path.name.removesuffix(_SEG))


_WRITERS: dict[str, Callable[[Path, np.ndarray, Mapping[str, Any]], None]] = {
    ".tif": _image,
    ".tiff": _image,
    ".png": _image,
    ".npy": _seg,
    ".zip": _rois,
    ".geojson": _geojson,
    ".csv": _csv,
    ".json": _coco,
    ".txt": _outlines,
    ".zarr": _zarr,
}


def _kept(told: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the layer's maker left in it."""
    return told.get("metadata", {}).get(MADE, {})


def _table(labels: np.ndarray, told: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A row for each label that is there, of a time series for each frame that it is in.

    Place and shape are those of the labels as they are now; what else the layer's features tell, such as the
    confidence, is kept (NaN for labels without a row there, such as drawn ones).
    """
    series = "T" in told["axes"]
    tables = [_measured(frame, told["voxel_size"]) for frame in (labels if series else [labels])]
    table = {name: np.concatenate([one[name] for one in tables]) for name in tables[0]}
    if series:
        table = {"frame": np.repeat(np.arange(len(tables)), [len(one["label"]) for one in tables]), **table}
    features = told.get("features")
    if features is None or "index" not in features:
        return table
    rows = {label: row for row, label in enumerate(np.asarray(features["index"]).tolist())}
    known = np.array([rows.get(label, -1) for label in table["label"].tolist()], int)
    for name in features:
        column = np.asarray(features[name])
        if name not in ("index", *table) and column.dtype.kind in "iufb":
            table[name] = np.where(known >= 0, column[known], np.nan) if (known < 0).any() else column[known]
    return table


def _measured(labels: np.ndarray, voxel_size: tuple[float, ...] | None) -> dict[str, np.ndarray]:
    """Columns that labels ([Z,] Y, X) tell by themselves, whatever their numbers."""
    from cellbasin.labels import relabel
    from cellbasin.measure import measure_shapes, measure_volumes
    from cellbasin.results import place_table

    present = np.unique(labels[labels > 0])
    numbered = relabel(np.where(labels > 0, labels, 0))
    shapes = (measure_shapes if labels.ndim == 2 else measure_volumes)(numbered, voxel_size)
    return {**place_table(numbered), **shapes, "label": present}
