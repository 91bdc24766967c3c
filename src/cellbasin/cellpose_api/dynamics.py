"""`cellpose.dynamics`: masks to flows and back. Flows of networks are 5 times unit vectors, those of masks are not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cellbasin.cellpose.thresholds import CELLPOSE_FLOW_THRESHOLD, probability_threshold
from cellbasin.cellpose_api.arrays import as_masks
from cellbasin.conventions import CONVENTIONS
from cellbasin.dynamics import judge, segment_flows
from cellbasin.flows import labels_to_flows as own_flows
from cellbasin.flows import quick_flows
from cellbasin.labels import areas, select
from cellbasin.network_outputs import unscaled
from cellbasin.resize import resize_labels

LARGEST = 0.4  # Cellpose's default of max_size_fraction


def not_too_large(labels: np.ndarray, max_size_fraction: float) -> np.ndarray:
    """Which objects, bool (N,), cover at most that part of the image; at Cellpose's default all: large cells stay.

    >>> one = np.ones((1, 2), int)
    >>> not_too_large(one, 0.4), not_too_large(one, 0.3)
    (array([ True]), array([False]))
    """
    sizes = areas(labels)
    return np.ones(len(sizes), bool) if max_size_fraction == LARGEST else sizes <= max_size_fraction * labels.size


def judging_flows(dimensions: int) -> Callable[..., np.ndarray]:
    """What makes the flows of found objects that a network's are compared with, in images or volumes."""
    return CONVENTIONS["cellpose"].own_flows if dimensions == 2 else quick_flows


def masks_to_flows(masks: np.ndarray, device: Any = None, niter: int | None = None) -> np.ndarray:
    """Unit vectors (D, *shape) float32 that lead to every object's centre."""
    return own_flows(np.asarray(masks).astype(np.int32))


masks_to_flows_gpu = masks_to_flows
masks_to_flows_cpu = masks_to_flows


def labels_to_flows(
    labels: Sequence[np.ndarray],
    files: Any = None,
    device: Any = None,
    redo_flows: bool = False,
    niter: int | None = None,
) -> list[np.ndarray]:
    """For each mask float32 (D + 2, *shape): labels, inside (0 or 1), flows. Nothing is written to files."""
    found = []
    for item in labels:
        masks = np.asarray(item)
        masks = masks[0] if masks.ndim == 3 and len(masks) < 4 else masks
        parts = [masks[None], (masks > 0)[None], masks_to_flows(masks)]
        found.append(np.concatenate([part.astype(np.float32) for part in parts]))
    return found


def compute_masks(
    dP: np.ndarray,
    cellprob: np.ndarray,
    p: Any = None,
    niter: int | None = 200,
    cellprob_threshold: float = 0.0,
    flow_threshold: float | None = CELLPOSE_FLOW_THRESHOLD,
    interp: bool = True,
    do_3D: bool = False,
    min_size: int = 15,
    max_size_fraction: float = LARGEST,
    device: Any = None,
) -> np.ndarray:
    """Masks from a network's flows (5 times unit vectors) and logits; max_size_fraction as of `not_too_large`."""
    flow, probability = unscaled(dP, cellprob)
    conventions = CONVENTIONS["cellpose"]
    found = segment_flows(
        flow,
        probability,
        probability_threshold=probability_threshold(cellprob_threshold),
        flow_threshold=None,
        min_size=max(min_size, 0),
        steps=max(int(niter or 200), 1),
        own_flows=judging_flows(probability.ndim),
    )
    limit = flow_threshold if flow_threshold and flow_threshold > 0 else np.inf
    labels = judge(found, limit, conventions.border_leniency).labels
    return as_masks(select(labels, not_too_large(labels, max_size_fraction)))


def resize_and_compute_masks(
    dP: np.ndarray, cellprob: np.ndarray, resize: Sequence[int] | None = None, **settings: Any
) -> np.ndarray:
    """As `compute_masks`; resize: (Y, X) that masks are brought to."""
    masks = compute_masks(dP, cellprob, **settings)
    return masks if resize is None else resize_labels(masks, (int(resize[-2]), int(resize[-1])))
