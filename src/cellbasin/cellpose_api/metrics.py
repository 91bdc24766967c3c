"""`cellpose.metrics`: scores, in which gaps between labels do not matter; nothing found where nothing is counts 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cellbasin import metrics as own
from cellbasin.network_outputs import FLOW_SCALE


def average_precision(
    masks_true: Any, masks_pred: Any, threshold: float | Sequence[float] = (0.5, 0.75, 0.9)
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """AP, true positives, false positives, false negatives: float32 (K,), or (N, K) for lists of N masks.

    >>> average_precision(np.array([[1, 1, 0, 5]]), np.array([[2, 2, 0, 0]]), [0.5])[0].tolist()
    [0.5]
    """
    thresholds = tuple(np.atleast_1d(np.asarray(threshold, float)).tolist())
    lists = isinstance(masks_true, list)
    truths, found = (masks_true, masks_pred) if lists else ([masks_true], [masks_pred])
    if len(truths) != len(found):
        raise ValueError(f"found {len(truths)} true and {len(found)} predicted masks, expected the same number of each")
    rows = [own.match(_labels(t), _labels(p), thresholds) for t, p in zip(truths, found, strict=True)]
    table = np.array([[(m.average_precision, m.tp, m.fp, m.fn) for m in row] for row in rows], np.float32)
    ap, tp, fp, fn = np.moveaxis(table if lists else table[0], -1, 0)
    return ap, tp, fp, fn


def mask_ious(masks_true: np.ndarray, masks_pred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each true label 1..N the IoU with its partner and the partner's label; 0 where it has none."""
    truth, found = _labels(masks_true), _labels(masks_pred)
    paired = own.match(truth, found, 1e-9)
    iou, partner = np.zeros(int(truth.max(initial=0))), np.zeros(int(truth.max(initial=0)), int)
    iou[paired.pairs[:, 0] - 1], partner[paired.pairs[:, 0] - 1] = paired.scores, paired.pairs[:, 1]
    return iou, partner


def aggregated_jaccard_index(masks_true: Sequence[np.ndarray], masks_pred: Sequence[np.ndarray]) -> np.ndarray:
    """Aggregated Jaccard index of every pair of masks, float (N,)."""
    pairs = zip(masks_true, masks_pred, strict=True)
    return np.array([own.aggregated_jaccard(_labels(t), _labels(p)) for t, p in pairs])


def boundary_scores(
    masks_true: Sequence[np.ndarray], masks_pred: Sequence[np.ndarray], scales: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F of outlines that may lie `scale` diameters apart, each (scales, images)."""
    from scipy.ndimage import distance_transform_edt

    from cellbasin.cellpose_api.utils import diameters, masks_to_outlines

    results = np.zeros((3, len(scales), len(masks_true)))
    for n, (truth, found) in enumerate(zip(masks_true, masks_pred, strict=True)):
        lines = [masks_to_outlines(truth), masks_to_outlines(found)]
        away = [distance_transform_edt(~line) if line.any() else np.full(line.shape, np.inf) for line in lines]
        for k, scale in enumerate(scales):
            reach = max(1.0, scale * diameters(truth)[0])
            near = [float((away[1 - i][lines[i]] <= reach).mean()) if lines[i].any() else 1.0 for i in (1, 0)]
            results[:, k, n] = *near, 2 * near[0] * near[1] / max(sum(near), 1e-9)
    return results[0], results[1], results[2]


def flow_error(maski: np.ndarray, dP_net: np.ndarray, device: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Mean squared difference of each label's own flow, as `compute_masks` judges by, from a network's (5 times unit
    vectors), and the own flow."""
    from cellbasin.cellpose_api.dynamics import judging_flows
    from cellbasin.dynamics import flow_errors

    labels = _labels(maski)
    own = judging_flows(labels.ndim)(labels)
    return flow_errors(labels, (np.asarray(dP_net) / FLOW_SCALE).astype(np.float32), own), own


def _labels(masks: Any) -> np.ndarray:
    return np.asarray(masks).astype(np.int32)
