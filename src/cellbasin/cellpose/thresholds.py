"""Cellpose's thresholds as options of ours."""

from __future__ import annotations

import math
from typing import Any

CELLPOSE_FLOW_THRESHOLD = 0.4  # Cellpose's default


def judged_by(flow_threshold: float) -> dict[str, Any]:
    """Options by which objects are dropped: Cellpose's default, which programs send along, means ours.

    >>> judged_by(0.4), judged_by(0.8), judged_by(-1)
    ({}, {'min_confidence': 0, 'flow_threshold': 0.8}, {'min_confidence': 0, 'flow_threshold': 0})
    """
    if flow_threshold == CELLPOSE_FLOW_THRESHOLD:
        return {}
    return {"min_confidence": 0, "flow_threshold": max(flow_threshold, 0)}


def probability_threshold(logit: float) -> float:
    """The threshold of probability that Cellpose's, a logit, stands for.

    >>> probability_threshold(0.0)
    0.5
    """
    return 1 / (1 + math.exp(-min(max(logit, -50.0), 50.0)))
