"""Cellpose's `_seg.npy`: what its window, its training and CellProfiler read. A pickled dictionary, read as plain data.

Every version since the first is read; written are the keys of version 3.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellbasin.atomic import atomic
from cellbasin.messages import one_line
from cellbasin.network_outputs import FLOW_SCALE, logit_of, unscaled
from cellbasin.pickles import PickleError, load_npy

from .errors import ReadError
from .overlay import flow_colours


@dataclass(frozen=True, eq=False)
class Seg:
    """What a `_seg.npy` file holds.

    labels: int32 ([Z,] Y, X), numbers as in the file. filename: of the image, as the file says. by_hand: whether an
    object was drawn or changed in Cellpose's window. What the file does not have is None: diameter: pixels; channels:
    Cellpose's two numbers (0 gray or none, 1 red, 2 green, 3 blue); manual: bool (N,), which objects were drawn by
    hand; image: the pixels, as old versions stored them; flow: float32 (D, *spatial), about unit vectors, and
    probability: float32 (*spatial), 0..1, if of the size of the labels.
    """

    labels: np.ndarray
    filename: str = ""
    diameter: float | None = None
    channels: tuple[int, int] | None = None
    manual: np.ndarray | None = None
    image: np.ndarray | None = None
    flow: np.ndarray | None = None
    probability: np.ndarray | None = None
    by_hand: bool = False


def read_seg(path: str | os.PathLike[str]) -> Seg:
    """Read a `_seg.npy` file of any version of Cellpose, or ours; nothing in it is executed.

    Parameters
    ----------
    path : the file.

    Returns
    -------
    Seg.

    Raises
    ------
    ReadError when the file is missing, damaged, holds anything but plain data, or no masks.

    >>> import tempfile
    >>> labels = np.array([[0, 1], [2, 2]], np.int32)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_seg(folder + "/a_seg.npy", labels, np.zeros((2, 2, 2)), labels > 0, 30.0, "a.tif")
    ...     read_seg(folder + "/a_seg.npy").labels.tolist()
    [[0, 1], [2, 2]]
    """
    path = Path(path)
    try:
        content = load_npy(path)
    except PickleError as error:
        raise ReadError(f"{path}: {error}") from error
    except OSError as error:
        raise ReadError(f"{path}: cannot be read ({error.strerror or error}); expected a _seg.npy file") from error
    if not isinstance(content, dict):
        raise ReadError(f"{path}: found {type(content).__name__}; expected the dictionary of a _seg.npy file")
    try:
        return _parsed(content)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise ReadError(f"{path}: {one_line(error, longest=160)}; expected what Cellpose writes") from error


def _parsed(content: Mapping[str, Any]) -> Seg:
    labels = _labels(content)
    count = int(labels.max(initial=0))
    manual = content.get("ismanual")
    flow, probability = _maps(content.get("flows"), labels.shape)
    diameter = content.get("diameter", content.get("est_diam"))
    image = content.get("img")
    return Seg(
        labels,
        str(content.get("filename", "")),
        float(np.median(np.asarray(diameter, float))) if diameter is not None and np.size(diameter) else None,
        _channels(content.get("chan_choose")),
        np.asarray(manual, bool) if manual is not None and np.size(manual) == count else None,
        image if isinstance(image, np.ndarray) and image.dtype.kind in "uif" else None,
        flow,
        probability,
        _by_hand(content),
    )


def _by_hand(content: Mapping[str, Any]) -> bool:
    """Of images the window notes what was drawn and every change, of volumes the planes in which objects were drawn."""
    drawn, changes, planes = (content.get(name) for name in ("ismanual", "manual_changes", "zdraw"))
    if drawn is not None and np.any(np.asarray(drawn, bool)):
        return True
    if isinstance(changes, Sequence | np.ndarray) and len(changes):
        return True
    return any(_is_drawn(one) for one in planes) if isinstance(planes, Sequence | np.ndarray) else False


def _is_drawn(planes: Any) -> bool:
    """Planes in which an object of a volume was drawn; none, or -1, where it was computed."""
    return planes is not None and bool(np.size(planes)) and bool(np.all(np.asarray(planes, float) >= 0))


def _labels(content: Mapping[str, Any]) -> np.ndarray:
    masks = content.get("masks")
    if masks is None:
        return _drawn(content)
    masks = np.asarray(masks)
    if masks.dtype.kind not in "uifb" or masks.size == 0:
        raise ValueError(f"found masks of type {masks.dtype} and shape {masks.shape}, expected whole numbers")
    masks = masks.squeeze(tuple(range(masks.ndim - 2))) if masks.ndim > 2 and masks.shape[:-2] == (1,) else masks
    if masks.ndim not in (2, 3):
        raise ValueError(f"found masks of shape {masks.shape}, expected two or three dimensions")
    low, high = masks.min(), masks.max()
    if not (-1 <= low and high < np.iinfo(np.int32).max):
        raise ValueError(f"found mask numbers from {low} to {high}, expected 0 (or -1) and more")
    labels = masks.astype(np.int32)
    if not np.array_equal(labels, masks):
        raise ValueError("found fractional mask numbers, expected whole ones")
    return labels + 1 if low == -1 else labels  # the first version began with -1


def _drawn(content: Mapping[str, Any]) -> np.ndarray:
    """Masks of the oldest files, which hold the points of every outline and the image, but no masks."""
    from .vector_read import fill_centres

    outlines, image = content.get("outlines"), content.get("img")
    if not isinstance(outlines, Sequence) or not isinstance(image, np.ndarray) or image.ndim < 2:
        raise ValueError("found neither masks nor outlines with an image")
    shape = image.shape[:2] if image.ndim == 2 or image.shape[-1] <= 4 else image.shape[-2:]
    points = [_points(outline) for outline in outlines]
    return fill_centres(points, shape)


def _points(outline: Any) -> np.ndarray:
    """(K, 2) y, x of an outline of the oldest files: rows of (plane, y, x, ...) or (y, x)."""
    rows = np.asarray(outline, float)
    if rows.ndim == 3 and len(rows) == 1:
        rows = rows[0]
    if rows.ndim != 2 or rows.shape[1] < 2:
        raise ValueError(f"found an outline of shape {rows.shape}, expected points")
    return rows[:, 1:3] if rows.shape[1] > 2 else rows


def _channels(value: Any) -> tuple[int, int] | None:
    numbers = [int(number) for number in np.ravel(np.asarray(value, float))] if value is not None else []
    return (numbers[0], numbers[1] if len(numbers) > 1 else 0) if numbers else None


def _maps(flows: Any, shape: tuple[int, ...]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Flow and probability out of Cellpose's list, whose last item holds the network's own numbers."""
    for item in reversed(flows if isinstance(flows, list) else []):
        if isinstance(item, np.ndarray) and item.dtype.kind == "f" and item.shape == (len(shape) + 1, *shape):
            return unscaled(item[:-1], item[-1])
    return None, None


def write_seg(
    path: str | os.PathLike[str],
    labels: np.ndarray,
    flow: np.ndarray,
    probability: np.ndarray,
    diameter: float,
    filename: str,
    channels: tuple[int, int] = (0, 0),
) -> None:
    """Write what Cellpose's own window, its training and CellProfiler read: a dictionary of plain types and
    arrays, pickled.

    Parameters
    ----------
    path : ending in `_seg.npy`, beside the image.
    labels, flow, probability : integer ([Z,] Y, X), float (D, [Z,] Y, X), float ([Z,] Y, X). Not modified.
    diameter : pixels.
    filename : path or name of the image.
    channels : Cellpose's numbers of the primary and nuclear channel (0 gray or none, 1 red, 2 green, 3 blue).

    Raises
    ------
    WriteError when the file cannot be written; ValueError for shapes that do not fit together.

    >>> import tempfile
    >>> labels, flow = np.ones((4, 5), np.int32), np.zeros((2, 4, 5), np.float32)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_seg(folder + "/cells_seg.npy", labels, flow, np.ones((4, 5), np.float32), 5.0, "cells.tif")
    ...     read_seg(folder + "/cells_seg.npy").diameter
    5.0
    """
    if labels.ndim not in (2, 3) or flow.shape != (labels.ndim, *labels.shape) or probability.shape != labels.shape:
        raise ValueError(
            f"found labels {labels.shape} and flow {flow.shape}; expected (Y, X) and (2, Y, X), or the same in 3D"
        )
    masks = labels.astype(np.uint16 if labels.max() < 65535 else np.uint32)
    outlines = np.stack([outline_pixels(plane) for plane in masks.reshape(-1, *masks.shape[-2:])])
    content = {
        "outlines": masks * outlines.reshape(masks.shape),
        "masks": masks,
        "chan_choose": [int(channel) for channel in channels],
        "ismanual": np.zeros(int(masks.max()), bool),
        "filename": str(filename),
        "flows": _upstream_flows(flow, np.asarray(probability, np.float64)),
        "diameter": float(diameter),
    }
    with atomic(path) as temporary:
        np.save(temporary, np.array(content, dtype=object), allow_pickle=True)


def _upstream_flows(flow: np.ndarray, probability: np.ndarray) -> list[Any]:
    """Colours of the flow in planes, probability, flow across planes, nothing, and the network's own numbers."""
    colours = flow_colours(flow[-2:])
    shown = np.rint(255 * np.clip(probability, 0, 1)).astype(np.uint8)
    across = np.zeros(shown.shape, np.uint8)
    if len(flow) == 3:
        across = np.clip(FLOW_SCALE * flow[0] / 10 * 127 + 127, 0, 255).astype(np.uint8)
    raw = np.concatenate([FLOW_SCALE * flow, logit_of(probability)[None]]).astype(np.float32)
    if len(flow) == 2:
        colours, shown, across = colours[None], shown[None], across[None]
    return [colours, shown, across, [], raw]


def outline_pixels(labels: np.ndarray) -> np.ndarray:
    """bool (Y, X): object pixels with another label, or the image's end, above, below, left or right.

    >>> outline_pixels(np.ones((3, 4), int)).astype(int)
    array([[1, 1, 1, 1],
           [1, 0, 0, 1],
           [1, 1, 1, 1]])
    """
    from cellbasin.labels import boundaries  # on first use: it loads numba

    return boundaries(np.pad(labels, 1))[1:-1, 1:-1]
