"""Objects as COCO annotations: boxes, areas and run-length masks of one image in a JSON file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from cellbasin.atomic import atomic


def write_coco(
    path: str | os.PathLike[str], labels: np.ndarray, name: str, table: Mapping[str, np.ndarray] | None = None
) -> None:
    """Write the objects of one image as COCO annotations of the category "cell".

    Parameters
    ----------
    path : ending in .json.
    labels : integer (Y, X). Not modified. Every object becomes an annotation whose id is its label and whose
        mask is exactly its pixels (run lengths, column after column, as COCO counts them).
    name : file name of the image.
    table : columns of one entry per object, among them "label"; "confidence" becomes the annotation's score.

    Raises
    ------
    WriteError when the file cannot be written; ValueError for volumes.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_coco(folder + "/a.json", np.array([[0, 7], [0, 7]]), "a.tif")
    ...     json.load(open(folder + "/a.json"))["annotations"][0]["segmentation"]
    {'size': [2, 2], 'counts': [2, 2]}
    """
    if labels.ndim != 2:
        raise ValueError(f"found labels of shape {labels.shape}; expected (Y, X): COCO knows no volumes")
    scores = _scores(table) if table is not None else {}
    annotations = []
    for label, starts, lengths in _runs(labels):
        annotation = _annotation(label, starts, lengths, labels.shape)
        if label in scores:
            annotation["score"] = scores[label]
        annotations.append(annotation)
    content = {
        "info": {"description": "segmented by cellbasin"},
        "images": [{"id": 1, "file_name": name, "height": labels.shape[0], "width": labels.shape[1]}],
        "categories": [{"id": 1, "name": "cell", "supercategory": ""}],
        "annotations": annotations,
    }
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    with atomic(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _scores(table: Mapping[str, np.ndarray]) -> dict[int, float]:
    if "confidence" not in table:
        return {}
    pairs = zip(np.asarray(table["label"]).tolist(), np.asarray(table["confidence"]).tolist(), strict=True)
    return {int(label): round(value, 6) for label, value in pairs if math.isfinite(value)}


def _runs(labels: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """(label, starts, lengths) of every object's runs of pixels, counted column after column."""
    flat = np.ascontiguousarray(labels.T).ravel()
    if not flat.size:
        return []
    begins = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    lengths = np.diff(np.concatenate([begins, [flat.size]]))
    owner = flat[begins]
    order = np.argsort(owner, kind="stable")
    found, firsts = np.unique(owner[order], return_index=True)
    parts = np.split(order, firsts[1:])
    return [(int(k), begins[part], lengths[part]) for k, part in zip(found, parts, strict=True) if k > 0]


def _annotation(label: int, starts: np.ndarray, lengths: np.ndarray, shape: tuple[int, ...]) -> dict[str, Any]:
    ends = starts + lengths
    gaps = np.concatenate([starts[:1], starts[1:] - ends[:-1]])
    counts = np.column_stack([gaps, lengths]).ravel().tolist()
    rest = shape[0] * shape[1] - int(ends[-1])
    height = shape[0]
    # A run that goes on in the next column covers this one to the end and the next from the start.
    wraps = starts // height != (ends - 1) // height
    top = 0 if wraps.any() else int((starts % height).min())
    bottom = height if wraps.any() else int(((ends - 1) % height).max()) + 1
    left, right = int(starts[0]) // height, int(ends[-1] - 1) // height + 1
    return {
        "id": label,
        "image_id": 1,
        "category_id": 1,
        "iscrowd": 0,
        "area": int(lengths.sum()),
        "bbox": [left, top, right - left, bottom - top],
        "segmentation": {"size": list(shape), "counts": counts + [rest] * (rest > 0)},
    }
