"""`cellpose.utils`: outlines, sizes, clean-up of labels. Inputs are not modified."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from cellbasin import labels as own
from cellbasin.io.vector_write import outermost_pixels
from cellbasin.outlines import trace_outlines
from cellbasin.stitch import stitch_planes


def masks_to_outlines(masks: np.ndarray) -> np.ndarray:
    """bool (..., Y, X): pixels of objects beside another label or background."""
    masks = np.asarray(masks)
    planes = [own.boundaries(plane.astype(np.int32)) for plane in masks.reshape(-1, *masks.shape[-2:])]
    return np.stack(planes).reshape(masks.shape)


def outlines_list(
    masks: np.ndarray, multiprocessing_threshold: int = 1000, multiprocessing: bool | None = None
) -> list[np.ndarray]:
    """For each object in the order of labels the outermost pixels (K, 2), x before y; of several pieces the longest."""
    found: dict[int, np.ndarray] = {}
    for outline in trace_outlines(np.asarray(masks)):
        pixels = outermost_pixels(outline.outer)[:, ::-1]
        if len(pixels) > len(found.get(outline.label, ())):
            found[outline.label] = pixels
    return [found[label] for label in sorted(found)]


def diameters(masks: np.ndarray) -> tuple[float, np.ndarray]:
    """Median diameter of the objects, and each one's, in pixels; 0 without objects."""
    found = own.diameters(np.asarray(masks).astype(np.int32))
    found = found[found > 0]
    return (float(np.median(found)) if found.size else 0.0), found


def stitch3D(masks: np.ndarray | Sequence[np.ndarray], stitch_threshold: float = 0.25) -> np.ndarray:
    """Labels (Z, Y, X) of a volume from those of its planes."""
    planes = [np.asarray(plane).astype(np.int32) for plane in masks]
    return stitch_planes(planes, max(float(stitch_threshold), 1e-6))


def fill_holes_and_remove_small_masks(masks: np.ndarray, min_size: int = 15) -> np.ndarray:
    """Fill the holes of every object (not those that other objects lie in), drop small ones, number without gaps."""
    labels = np.asarray(masks).astype(np.int32)
    if labels.ndim not in (2, 3):
        raise ValueError(f"found masks of shape {labels.shape}, expected two or three dimensions")
    filled = own.fill_small_holes(labels, labels.size + 1)
    return own.relabel(own.remove_small(filled, max(min_size, 0)))


def remove_edge_masks(masks: np.ndarray, change_index: bool = True) -> np.ndarray:
    """Drop objects that touch the first or last row or column; planes have no such ends."""
    kept = own.remove_border(np.asarray(masks).astype(np.int32))
    return own.relabel(kept) if change_index else kept


def download_url_to_file(url: str, dst: str, progress: bool = True) -> NoReturn:
    """Nothing is downloaded unless its checksum is told; raises RuntimeError that says how."""
    raise RuntimeError(f"found a call to download {url}: fetch it with 'cellbasin models add {url} --sha256 ...'")


def get_mask_compactness(masks: np.ndarray) -> np.ndarray:
    """4 π area / perimeter² of every object, by its outermost pixels."""
    outlines = outlines_list(masks)
    area = own.areas(np.asarray(masks).astype(np.int32))
    perimeters = np.array([_perimeter(ring) for ring in outlines])
    return 4 * np.pi * area[area > 0] / np.maximum(perimeters, 1e-9) ** 2


def _perimeter(ring: np.ndarray) -> Any:
    return np.hypot(*(np.roll(ring, -1, axis=0) - ring).T).sum()
