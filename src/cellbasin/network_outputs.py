"""The network's own numbers: 5 x flow and the logit of being inside (paper, "Deep neural network").

Cellpose's files and Python calls hold the same numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FLOW_SCALE = 5.0  # balances the two losses
_FARTHEST = 1e-6  # from 0 and 1: nearer ones have no finite logit that is worth keeping


def sigmoid(logit: np.ndarray) -> np.ndarray:
    """Probabilities of logits, any float dtype: computed in place, without overflow, and returned.

    >>> sigmoid(np.array([-1000.0, 0.0])).round(6).tolist()
    [0.0, 0.5]
    """
    np.clip(logit, -30, 30, out=logit)
    np.negative(logit, out=logit)
    np.exp(logit, out=logit)
    logit += 1
    return np.reciprocal(logit, out=logit)


def unscaled(flow: object, logit: object) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Flow and probability, new float32 arrays, of 5 x flow and logits.

    >>> unscaled([5.0], [0.0])
    (array([1.], dtype=float32), array([0.5], dtype=float32))
    """
    return np.asarray(flow, np.float32) / np.float32(FLOW_SCALE), sigmoid(np.array(logit, np.float32))


def logit_of(probability: np.ndarray) -> NDArray[np.float64]:
    """Logits, a new array, of probabilities; those of 0 and 1 are finite, about -14 and 14.

    >>> logit_of(np.array([0.0, 0.5, 1.0])).round(1).tolist()
    [-13.8, 0.0, 13.8]
    """
    inside = np.clip(probability, _FARTHEST, 1 - _FARTHEST, dtype=np.float64)
    return np.log(inside / (1 - inside))
